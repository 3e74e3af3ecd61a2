//! `quern build`: an image from a Dockerfile.

mod cache;
mod context;
mod options;
pub mod output;
mod statements;

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::Digest;
use quern_core::step::Network;
use quern_engine::image::request::{Place, Request};
use quern_engine::image::{BuildError, Built, BuiltStage};
use quern_engine::images::KnownImage;
use quern_oci::{Descriptor, Reference};
use quern_spec::diagnostic::{Diagnostic, Diagnostics, Plain, render};
use quern_spec::dockerfile::Platform;
use quern_spec::source::SourceText;

use crate::args::ImageBuild;
use crate::ceiling::Ceiling;
use crate::failure::{Failure, Kind, eprint_line};
use crate::progress::BuildReporter;
use crate::wiring::Home;
use crate::{interrupt, print};
use context::Context;
use output::Output;
use serde_json::Value;
use statements::{Statements, Wanted};

/// `build`
pub fn build(home: &Home, args: &ImageBuild) -> Result<(), Failure> {
    let platforms = platforms(&args.platform)?;
    let outputs = Output::all(args, &platforms)?;
    let wanted = Wanted::of(args)?;
    let names = names(&args.tag)?;
    let context = Context::open(args)?;
    let request = request(args, &context, platforms)?;
    if args.check {
        return check(&request);
    }
    let _ceiling = Ceiling::keep(home)?;
    let images = home.image_store()?;
    let sources = cache::Sources::open(&images, args)?;
    let targets = cache::Target::all(args)?;
    let cancel = interrupt::token()?;
    let reporter = Arc::new(BuildReporter::new(if args.quiet {
        crate::args::Progress::Quiet
    } else {
        home.global.progress
    }));
    let builder = home.image_builder(Arc::clone(&reporter) as _)?;
    let built = builder.build(&request, sources.managers(), &cancel);
    reporter.finish();
    sources.report();
    // Others wait for the turn until everything here is recorded.
    let Built { mut stages, warnings, turn: _turn } = built.map_err(failed)?;
    show(&warnings, &request.dockerfile);
    let epoch = epoch(&request).map_err(failed)?;
    stages.iter_mut().try_for_each(|stage| cache::inline(&images, stage, epoch, &targets))?;
    targets.iter().try_for_each(|target| target.export(&images, &stages, epoch))?;
    let attaching = outputs.iter().any(Output::holds_statements);
    let image = |stage| -> Result<Made, Failure> {
        let (record, config) = builder.image_of(&stage, epoch).map_err(|error| failed(error.into()))?;
        home.records.blobs.put(&config.bytes)?;
        let image = images.with_config(record).map_err(image_failed)?;
        let statements = wanted.make(home, &request, &stage, attaching)?;
        Ok(Made { stage, image, statements })
    };
    let mut made = stages.into_iter().map(image).collect::<Result<Vec<_>, _>>()?;
    if made.len() > 1 {
        let ids: String = made.iter().map(|one| one.image.record.id.hex()).collect();
        made.iter_mut().for_each(|one| one.image.record.family = Some(Digest::of(ids.as_bytes())));
    }
    deliver(home, args, &outputs, &names, &made)
}

/// What a build made for one platform.
pub struct Made {
    /// The stage.
    pub stage: BuiltStage,
    /// Its image.
    pub image: KnownImage,
    /// What is said about it.
    pub statements: Statements,
}

fn deliver(
    home: &Home,
    args: &ImageBuild,
    outputs: &[Output],
    names: &[Reference],
    made: &[Made],
) -> Result<(), Failure> {
    let images = home.image_store()?;
    let keys: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut written = None;
    for output in outputs {
        written = output.write(home, &images, made, names)?.or(written);
    }
    let own = own(made);
    if outputs.iter().any(Output::keeps) {
        // A name stands for one image here; the others are found by their ids, and as what belongs to it.
        let mut others = made.iter().filter(|one| one.image.record.id != own.image.record.id);
        others.try_for_each(|one| images.put(&[], &one.image.record))?;
        images.put(&keys, &own.image.record)?;
    }
    let id = match (&written, made) {
        (Some(root), [_, _, ..]) => root.digest,
        _ => own.image.record.id,
    };
    if let Some(file) = &args.iidfile {
        std::fs::write(file, id.to_string())?;
    }
    if let Some(file) = &args.metadata_file {
        let metadata = metadata(made, written.as_ref(), &keys);
        std::fs::write(file, format!("{metadata:#}\n"))?;
    }
    if args.quiet {
        return print::raw(format!("{id}\n").as_bytes());
    }
    let several = made.len() > 1;
    for one in made {
        let platform = if several { format!(" {}", one.stage.platform) } else { String::new() };
        home.say(&format!("image {}{platform}", one.image.record.id));
    }
    // Here a name stands for one image; where it was pushed, for all.
    let kept = outputs.iter().any(Output::keeps);
    let here = if several && kept { format!(" (here: {})", own.stage.platform) } else { String::new() };
    for name in names.iter().filter(|_| outputs.iter().any(Output::names)) {
        home.say(&format!("named {}{here}", name.familiar()));
    }
    Ok(())
}

/// The image for this machine, or the first one.
fn own(made: &[Made]) -> &Made {
    let here = here();
    made.iter().find(|one| one.stage.platform == here).unwrap_or(&made[0])
}

/// What buildx writes about a build, under its names. Images that were only kept have no manifest yet; there an id stands.
fn metadata(made: &[Made], written: Option<&Descriptor>, names: &[String]) -> Value {
    let id = own(made).image.record.id.to_string();
    let digest = written.map_or_else(|| id.clone(), |root| root.digest.to_string());
    let mut metadata = serde_json::json!({
        "buildx.build.ref": format!("quern/local/{}", made[0].stage.account.invocation),
        "containerimage.digest": digest,
    });
    match made {
        [one] => {
            metadata["containerimage.config.digest"] = id.into();
            metadata["buildx.build.provenance"] = one.statements.provenance.clone();
        }
        several => {
            for one in several {
                let key = format!("buildx.build.provenance/{}", one.stage.platform);
                metadata[key] = one.statements.provenance.clone();
            }
        }
    }
    if let Some(root) = written {
        metadata["containerimage.descriptor"] = serde_json::json!(root);
    }
    if !names.is_empty() {
        metadata["image.name"] = names.join(",").into();
    }
    metadata
}

/// Checks a Dockerfile without building it.
fn check(request: &Request) -> Result<(), Failure> {
    let (dockerfile, mut diagnostics) = quern_spec::dockerfile::parse_dockerfile(&request.dockerfile);
    if !diagnostics.has_errors() {
        for platform in &request.platforms {
            let plan = quern_spec::dockerfile::Request { all_stages: true, ..request.plan(platform) };
            diagnostics.join(quern_spec::dockerfile::plan_stages(&dockerfile, &plan).1);
        }
    }
    show(&diagnostics, &request.dockerfile);
    if diagnostics.has_errors() {
        return Err(Failure::input(format!("`{}` has problems", request.dockerfile.name())));
    }
    if diagnostics.iter().next().is_none() {
        eprint_line("nothing to remark");
    }
    Ok(())
}

fn show(diagnostics: &Diagnostics, source: &SourceText) {
    let text = render(diagnostics, source, &Plain);
    if !text.is_empty() {
        eprint_line(text.trim_end());
    }
}

/// What the image is to run on, each once: this machine if nothing is said.
fn platforms(texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let here = here();
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts {
        let platform = Platform::parse(text.trim(), &here);
        let platform = platform.map_err(|error| Failure::input(format!("--platform {error}")))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(if platforms.is_empty() { vec![here] } else { platforms })
}

fn here() -> Platform {
    let here = quern_core::step::Platform::current();
    Platform::new(&here.os, &here.arch, "")
}

fn request(args: &ImageBuild, context: &Context, platforms: Vec<Platform>) -> Result<Request, Failure> {
    let mut build_args = BTreeMap::new();
    for text in &args.build_arg {
        build_args.extend(options::build_arg(text)?);
    }
    let labels = args.label.iter().map(|label| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        (name.to_owned(), value.to_owned())
    });
    let pairs = |texts: &[String]| {
        texts.iter().map(|text| options::secret(text)).collect::<Result<BTreeMap<_, _>, _>>()
    };
    let agents = args.ssh.iter().map(|text| options::agent(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let contexts: BTreeMap<String, Place> = context.named(args)?;
    Ok(Request {
        dockerfile: context.dockerfile.clone(),
        context: context.directory.clone(),
        target: args.target.clone(),
        build_args,
        platforms,
        labels: labels.collect(),
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.clone(),
        pull: args.pull,
        network: if args.network == "none" { Network::None } else { Network::Host },
        hosts: args.add_host.iter().map(|text| options::host(text)).collect::<Result<_, _>>()?,
        secrets: pairs(&args.secret)?,
        agents,
        contexts,
        origin: context.origin.clone(),
    })
}

/// `SOURCE_DATE_EPOCH` as a build argument, or of the environment.
fn epoch(request: &Request) -> Result<Option<i64>, BuildError> {
    let given = request.build_args.get("SOURCE_DATE_EPOCH").cloned();
    let Some(text) =
        given.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok()).filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    match text.parse() {
        Ok(seconds) => Ok(Some(seconds)),
        Err(_) => {
            let message = format!("SOURCE_DATE_EPOCH is a number of seconds since 1970, not `{text}`");
            let mut diagnostics = Diagnostics::new();
            diagnostics.push(Diagnostic::global("invalid-epoch", message));
            Err(BuildError::Dockerfile(request.dockerfile.clone(), diagnostics))
        }
    }
}

fn names(texts: &[String]) -> Result<Vec<Reference>, Failure> {
    texts.iter().map(|text| text.parse().map_err(|error| Failure::input(format!("--tag: {error}")))).collect()
}

/// What a build that failed says, with the place in the Dockerfile.
fn failed(error: BuildError) -> Failure {
    match error {
        BuildError::Dockerfile(source, diagnostics) => {
            show(&diagnostics, &source);
            Failure::input(format!("`{}` cannot be built", source.name()))
        }
        BuildError::Step { error, place } => {
            let message = match &*error {
                quern_solver::SolveError::Vertex { vertex, cause, .. } => match &**cause {
                    quern_solver::VertexError::Op { error, .. }
                    | quern_solver::VertexError::Content { error, .. } => format!("{vertex}: {error}"),
                    other => format!("{vertex}: {other}"),
                },
                other => other.to_string(),
            };
            if let Some((source, place)) = &place {
                let mut shown = Diagnostics::new();
                shown.push(Diagnostic::error("step-failed", place.span, "this step failed"));
                show(&shown, source);
            }
            Failure::new(Kind::Failed, message)
        }
        BuildError::Image { name, error } => {
            Failure { message: format!("image `{name}`: {error}"), ..image_failed(*error) }
        }
        BuildError::Cancelled => {
            Failure::new(Kind::Interrupted, "interrupted; run the command again to carry on")
        }
        other => Failure::new(Kind::Internal, other),
    }
}

/// An image that is not to be had.
pub fn image_failed(error: quern_engine::images::ImageError) -> Failure {
    use quern_engine::images::ImageError;
    let kind = match &error {
        ImageError::Unknown(_)
        | ImageError::SeveralIds(_)
        | ImageError::SeveralNames { .. }
        | ImageError::Gone(_)
        | ImageError::Platform { .. }
        | ImageError::Registry(_) => Kind::Named,
        ImageError::Layout(_)
        | ImageError::Blob(_)
        | ImageError::Problem(_)
        | ImageError::Config(_)
        | ImageError::Unpack(_) => Kind::Input,
        ImageError::Compression(_) | ImageError::Name(_) | ImageError::Digested(_) => Kind::Input,
        ImageError::Cancelled => Kind::Interrupted,
        _ => Kind::Internal,
    };
    Failure::new(kind, error)
}
