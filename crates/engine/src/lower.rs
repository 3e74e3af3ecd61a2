//! From a checked spec to the pipelines that are stored: the translation of Pachyderm's words, made once.
//!
//! A spec with a `build` section becomes two pipelines: `<name>_build` makes assets of the pushed source, and the
//! pipeline itself reads source and assets beside its own input. Image precedence is that of the seed: `language`, then
//! `build.image`, then `transform.image`; `transform.cmd` goes before the builder's `run.sh`.

use std::collections::BTreeMap;

use quern_core::{Digest, Timestamp, Version};
use quern_spec::diagnostic::{Diagnostic, Diagnostics};
use quern_spec::duration::GoDuration;
use quern_spec::pachyderm::{self as spec, Builder as Choice, InputKind, MergePolicy, ReprocessPolicy};
use quern_spec::quantity::Quantity;
use quern_spec::source::{Span, Spanned};

use crate::builders::{self, Builder};
use crate::pipeline::{Input, Merge, Pipeline, Run};

/// What lowering has to know besides the spec.
pub struct Context<'a> {
    /// Image of steps whose spec names none.
    pub default_image: &'a str,
    /// Image in which a shipped builder runs, by language; `host` where there is none.
    pub builder_images: &'a BTreeMap<String, String>,
    /// When the pipelines are stored.
    pub now: Timestamp,
}

/// What a spec becomes.
#[derive(Debug)]
pub struct Lowered {
    /// The pipeline of the spec's name.
    pub main: Pipeline,
    /// The pipeline that builds its source, and what it builds from.
    pub build: Option<(Pipeline, Source)>,
}

/// The source of a build pipeline.
#[derive(Debug)]
pub struct Source {
    /// Where the spec says so, for reports.
    pub span: Span,
    /// The shipped builder, if one was chosen.
    pub builder: Option<&'static Builder>,
}

/// The tree digest of a shipped builder's files once they are stored; see [`crate::submit`].
pub type BuilderTree<'a> = dyn Fn(&Builder) -> Digest + 'a;

/// Lowers one spec, reporting what this version cannot execute. None if something was wrong.
pub fn lower(
    spec: &spec::Pipeline,
    context: &Context<'_>,
    builder_tree: &BuilderTree<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Lowered> {
    refuse_unsupported(spec, diagnostics);
    let input = spec.input.as_ref().and_then(|input| lower_input(input, diagnostics));
    let shipped = shipped_builder(spec, diagnostics);
    let run = lower_run(spec, context, diagnostics);
    if diagnostics.has_errors() {
        return None;
    }
    let (mut run, Some(input)) = (run, input) else {
        let help = "add an `input` section; a pipeline without one never runs";
        diagnostics
            .push(Diagnostic::error("no-input", spec.name.span, "the pipeline has no input").help(help));
        return None;
    };
    let build = spec.build().map(|build| {
        let builder = shipped.flatten();
        let twin = lower_build(spec, build, builder, context, builder_tree);
        let source = Source { span: build.path.as_ref().map_or(build.span, |path| path.span), builder };
        (twin, source)
    });
    let mut input = input;
    if let Some((twin, source)) = &build {
        let only = runtime_globs(spec, source.builder);
        input = with_source(input, twin, only);
        if run.cmd.is_empty() {
            run.cmd = vec!["sh".into(), "/pfs/build/run.sh".into()];
        }
        if spec.transform.as_ref().and_then(|t| t.image()).is_none() {
            run.image.clone_from(&twin.run.image);
        }
    }
    let main = Pipeline {
        spec: spec.original.text.clone(),
        description: spec.description.clone(),
        output_branch: spec.output_branch().to_owned(),
        ..record(spec.name(), spec.name(), input, run, context.now)
    };
    Some(Lowered { main, build })
}

fn record(name: &str, repo: &str, input: Input, run: Run, now: Timestamp) -> Pipeline {
    Pipeline {
        format: Version,
        name: name.to_owned(),
        version: 1,
        created: now,
        updated: now,
        description: String::new(),
        spec: String::new(),
        build_of: None,
        stopped: false,
        salt: None,
        input,
        output_repo: repo.to_owned(),
        output_branch: String::new(),
        run,
    }
}

/// The pipeline that builds the source. It inherits nothing from the main one besides what `build` says.
fn lower_build(
    spec: &spec::Pipeline,
    build: &spec::Build,
    builder: Option<&Builder>,
    context: &Context<'_>,
    builder_tree: &BuilderTree<'_>,
) -> Pipeline {
    let repo = format!("{}_build", spec.name());
    let image = match spec.builder() {
        Some(Choice::Language(language)) => {
            context.builder_images.get(&language.value).map_or("host", String::as_str)
        }
        Some(Choice::BuildImage(image) | Choice::TransformImage(image)) => &image.value,
        None => context.default_image,
    };
    // A builder's own image has its scripts; anywhere else the shipped ones are shown at /app.
    let app =
        builder.filter(|builder| !context.builder_images.contains_key(&builder.language)).map(builder_tree);
    let run = Run {
        image: image.to_owned(),
        cmd: vec!["sh".into(), "./build.sh".into()],
        env: build.env.clone(),
        working_dir: app.map(|_| "/app".to_owned()),
        app,
        network: true,
        cache: builder.is_some(),
        tries: 1,
        ..plain_run()
    };
    let source = Input::Pfs {
        name: "source".into(),
        repo: repo.clone(),
        branch: "source".into(),
        glob: "/".into(),
        only: None,
    };
    Pipeline {
        build_of: Some(spec.name().to_owned()),
        output_branch: "build".into(),
        description: format!("Builds the source of pipeline {}.", spec.name()),
        ..record(&repo, &repo, source, run, context.now)
    }
}

/// The input of the running pipeline: source, build and its own, crossed.
fn with_source(own: Input, twin: &Pipeline, only: Option<Vec<String>>) -> Input {
    let part = |name: &str, only| Input::Pfs {
        name: name.into(),
        repo: twin.output_repo.clone(),
        branch: name.into(),
        glob: "/".into(),
        only,
    };
    sorted_cross(vec![part("source", only), part("build", None), own])
}

/// What of `/pfs/source` the running pipeline sees: what the spec says; else what the builder's own `run.sh` needs, as long
/// as that is what runs; else everything.
fn runtime_globs(spec: &spec::Pipeline, builder: Option<&Builder>) -> Option<Vec<String>> {
    if let Some(globs) = spec.build().and_then(|build| build.runtime.as_ref()) {
        return Some(globs.iter().map(|glob| glob.value.clone()).collect());
    }
    let own_command = spec.transform.as_ref().is_some_and(|transform| !transform.cmd.is_empty());
    builder.filter(|_| !own_command).map(|builder| builder.runtime.clone())
}

/// `Some(None)` where no shipped builder is asked for, none where an unknown one is.
fn shipped_builder(spec: &spec::Pipeline, diagnostics: &mut Diagnostics) -> Option<Option<&'static Builder>> {
    let Some(Choice::Language(language)) = spec.builder() else { return Some(None) };
    if let Some(builder) = builders::shipped(&language.value) {
        return Some(Some(builder));
    }
    let message = format!("there is no builder for `{}`", language.value);
    let help = format!(
        "shipped builders are: {}; name another one by `build.image`",
        builders::languages().join(", ")
    );
    diagnostics.push(Diagnostic::error("unknown-builder", language.span, message).help(help));
    None
}

fn plain_run() -> Run {
    Run {
        image: String::new(),
        cmd: Vec::new(),
        stdin: String::new(),
        err_cmd: Vec::new(),
        err_stdin: String::new(),
        env: BTreeMap::new(),
        user: None,
        working_dir: None,
        accept: Vec::new(),
        app: None,
        network: false,
        cache: false,
        tries: 3,
        datum_timeout: None,
        job_timeout: None,
        parallelism: None,
        memory: None,
        cpu_milli: None,
        every_job: false,
        merge: Merge::Concat,
    }
}

fn lower_run(spec: &spec::Pipeline, context: &Context<'_>, diagnostics: &mut Diagnostics) -> Run {
    let Some(transform) = &spec.transform else { return plain_run() };
    let millis = |d: &Option<Spanned<GoDuration>>| {
        d.as_ref().and_then(|d| d.value.to_std()).and_then(|d| u64::try_from(d.as_millis()).ok())
    };
    // Of a `cmd` that is there and no list it was said before what is wrong.
    let given =
        spec.original.value.pointer("/transform/cmd").is_some_and(|cmd| !cmd.is_null() && !cmd.is_array());
    if transform.cmd.is_empty() && transform.build.is_none() && !given {
        let help = "write what to run, such as \"cmd\": [\"sh\", \"-c\", \"...\"]";
        diagnostics
            .push(Diagnostic::error("no-command", transform.span, "`transform.cmd` is empty").help(help));
    }
    let limits = spec.resource_limits.as_ref();
    let accept = transform.accept_return_code.iter().map(|code| i32::try_from(*code).unwrap_or(i32::MAX));
    Run {
        image: transform.image().map_or(context.default_image, |image| &image.value).to_owned(),
        cmd: transform.cmd.clone(),
        stdin: transform.stdin_text(),
        err_cmd: transform.err_cmd.clone(),
        err_stdin: transform.err_stdin_text(),
        env: transform.env.clone(),
        user: transform.user.as_ref().map(|user| user.value.clone()).filter(|user| !user.is_empty()),
        working_dir: transform
            .working_dir
            .as_ref()
            .map(|dir| dir.value.clone())
            .filter(|dir| !dir.is_empty()),
        accept: accept.collect(),
        tries: spec.datum_tries(),
        datum_timeout: millis(&spec.datum_timeout),
        job_timeout: millis(&spec.job_timeout),
        parallelism: spec
            .parallelism_spec
            .as_ref()
            .and_then(|p| p.value.constant)
            .and_then(|n| u32::try_from(n).ok()),
        memory: limits
            .and_then(|limits| limits.memory.as_ref())
            .and_then(|memory| memory.value.parse::<Quantity>().ok()?.units()),
        cpu_milli: limits
            .and_then(|limits| limits.cpu.as_ref())
            .filter(|cpu| cpu.value > 0.0)
            .map(|cpu| (cpu.value * 1000.0) as u64),
        every_job: spec.reprocess_policy() == ReprocessPolicy::EveryJob,
        merge: match spec.merge_policy() {
            MergePolicy::Concat => Merge::Concat,
            MergePolicy::Fail => Merge::Fail,
            MergePolicy::Last => Merge::Last,
        },
        ..plain_run()
    }
}

fn lower_input(input: &spec::Input, diagnostics: &mut Diagnostics) -> Option<Input> {
    let refuse = |diagnostics: &mut Diagnostics, span, what: &str| {
        let message = format!("`{what}` is not executed by this version yet");
        diagnostics.push(Diagnostic::error("not-executed", span, message));
    };
    let members = |members: &[spec::Input], diagnostics: &mut Diagnostics| -> Option<Vec<Input>> {
        let lowered: Vec<_> = members.iter().map(|member| lower_input(member, diagnostics)).collect();
        lowered.into_iter().collect()
    };
    match &input.kind {
        InputKind::Pfs(pfs) => {
            let unsupported = [
                ("lazy", pfs.lazy.as_ref().is_some_and(|f| f.value)),
                ("empty_files", pfs.empty_files.as_ref().is_some_and(|f| f.value)),
                ("s3", pfs.s3.as_ref().is_some_and(|f| f.value)),
                ("trigger", pfs.trigger.is_some()),
            ];
            for (what, _) in unsupported.iter().filter(|(_, set)| *set) {
                refuse(diagnostics, input.span, &format!("pfs.{what}"));
            }
            Some(Input::Pfs {
                name: pfs.name().value.clone(),
                repo: pfs.repo.value.clone(),
                branch: pfs.branch().to_owned(),
                glob: pfs.glob.value.clone(),
                only: None,
            })
        }
        InputKind::Cross(list) => members(list, diagnostics).map(sorted_cross),
        InputKind::Union(list) => members(list, diagnostics).map(|mut list| {
            list.sort_by_key(first_name);
            Input::Union(list)
        }),
        InputKind::Join(_) => (refuse(diagnostics, input.span, "join"), None).1,
        InputKind::Group(_) => (refuse(diagnostics, input.span, "group"), None).1,
        InputKind::Cron(_) => (refuse(diagnostics, input.span, "cron"), None).1,
        InputKind::Git(_) => (refuse(diagnostics, input.span, "git"), None).1,
        // Reported when it was read.
        InputKind::Missing => None,
    }
}

/// Members in the order of their names, so that the order in a spec changes no key.
fn sorted_cross(mut members: Vec<Input>) -> Input {
    members.sort_by_key(first_name);
    Input::Cross(members)
}

fn first_name(input: &Input) -> String {
    input.leaves().first().map_or_else(String::new, |(name, ..)| (*name).to_owned())
}

/// Everything that is read but not executed yet is refused by name; what only tunes a cluster is allowed.
fn refuse_unsupported(spec: &spec::Pipeline, diagnostics: &mut Diagnostics) {
    let transform = spec.transform.as_ref();
    let secrets = transform.and_then(|t| t.secrets.first()).map(|secret| secret.span);
    let egress = spec.egress.as_ref().and_then(|egress| egress.url.as_ref()).map(|url| url.span);
    let fields = [
        ("service", spec.service.as_ref().map(|s| s.span)),
        ("spout", spec.spout.as_ref().map(|s| s.span)),
        ("s3_out", spec.s3_out.as_ref().filter(|s| s.value).map(|s| s.span)),
        ("egress", egress),
        ("transform.secrets", secrets),
    ];
    for (field, span) in fields {
        if let Some(span) = span {
            let message = format!("`{field}` is not executed by this version yet");
            diagnostics.push(Diagnostic::error("not-executed", span, message));
        }
    }
}
