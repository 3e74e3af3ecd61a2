//! `quern image`

use std::io::{self, IsTerminal as _, Seek as _};
use std::path::Path;

use quern_core::step::Platform;
use quern_engine::images::{Form, ImageStore, KnownImage, NamedImage, created};
use quern_oci::document::Format;
use quern_oci::registry::Transfer;
use quern_oci::save::Entry;
use quern_oci::{Descriptor, Reference};
use serde_json::{Value, json};

use super::image_build::image_failed;
use super::image_build::output::Dest;
use crate::args::{Image, ImageList, ImageSave, Progress};
use crate::failure::Failure;
use crate::progress::TransferReporter;
use crate::table::{Table, ago, rfc3339, size};
use crate::wiring::Home;
use crate::{interrupt, print};

/// `image`
pub fn run(home: &Home, command: &Image) -> Result<(), Failure> {
    let images = home.image_store()?;
    match command {
        Image::Ls(args) => list(home, &images, args),
        Image::Inspect { images: texts } => inspect(&images, texts),
        Image::Pull { names, platform, quiet } => pull(home, &images, names, platform.as_deref(), *quiet),
        Image::Push { names, quiet } => push_names(home, &images, names, *quiet),
        Image::Rm { images: texts, force } => remove(&images, texts, *force),
        Image::Save(args) => save(&images, args),
        Image::Load { input, platform, quiet } => {
            load(home, &images, input.as_deref(), platform.as_deref(), *quiet)
        }
        Image::Tag { image, name } => {
            let name = reference(name)?;
            images.tag(image, &name).map_err(image_failed)?;
            Ok(())
        }
    }
}

/// One line of a list: an image under one of its names.
struct Line {
    name: Option<Reference>,
    image: NamedImage,
}

fn list(home: &Home, images: &ImageStore, args: &ImageList) -> Result<(), Failure> {
    let wanted = args.name.as_deref().map(reference).transpose()?;
    let any_tag =
        args.name.as_ref().is_some_and(|text| !text.rsplit('/').next().unwrap_or(text).contains(':'));
    let is_wanted = |name: &Option<Reference>| match (&wanted, name) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wanted), Some(name)) => {
            let same = |a: &Reference, b: &Reference| {
                a.registry() == b.registry() && a.repository() == b.repository()
            };
            same(wanted, name) && (any_tag || wanted.tag() == name.tag())
        }
    };
    let mut lines = Vec::new();
    for image in images.list().map_err(image_failed)? {
        let names: Vec<Option<Reference>> =
            if image.names.is_empty() { vec![None] } else { image.names.iter().cloned().map(Some).collect() };
        let names = names.into_iter().filter(is_wanted);
        lines.extend(names.map(|name| Line { name, image: image.clone() }));
    }
    if args.quiet {
        let mut ids: Vec<String> = lines.iter().map(|line| shown_id(line, args.no_trunc)).collect();
        ids.dedup();
        return print::raw(ids.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes());
    }
    let views: Vec<Value> = lines.iter().map(line_view).collect();
    print::list(home.global.form(), &views, |_| table(home, &lines, args))
}

fn shown_id(line: &Line, whole: bool) -> String {
    let id = line.image.image.record.id;
    if whole { id.to_string() } else { id.hex()[..12].to_owned() }
}

fn table(home: &Home, lines: &[Line], args: &ImageList) -> String {
    let mut header = vec!["REPOSITORY", "TAG"];
    header.extend(args.digests.then_some("DIGEST"));
    header.extend(["IMAGE ID", "CREATED", "SIZE"]);
    let mut table = Table::new(&header);
    let none = || "<none>".to_owned();
    for line in lines {
        let (repository, tag) = line.name.as_ref().map_or_else(|| (none(), none()), parts);
        let mut row = vec![repository, tag];
        if args.digests {
            row.push(digest_of(&line.image.image).unwrap_or_else(none));
        }
        row.push(shown_id(line, args.no_trunc));
        row.push(ago(home.records.clock.now(), created(&line.image.image)));
        row.push(size(line.image.size));
        table.row(row);
    }
    table.render()
}

/// Repository and tag, as a person writes them.
fn parts(name: &Reference) -> (String, String) {
    let familiar = name.without_digest().unwrap_or_else(|| name.clone()).familiar();
    let (repository, tag) = match (familiar.split_once('@'), name.tag()) {
        (Some((repository, _)), _) => (repository.to_owned(), None),
        (None, Some(tag)) => {
            let end = format!(":{tag}");
            (familiar.strip_suffix(&end).unwrap_or(&familiar).to_owned(), Some(tag))
        }
        (None, None) => (familiar, None),
    };
    (repository, tag.map_or_else(|| "<none>".to_owned(), str::to_owned))
}

/// The digest in a registry of an image that came from one.
fn digest_of(image: &KnownImage) -> Option<String> {
    let (_, digest) = image.record.origin.as_ref()?.split_once('@')?;
    Some(digest.to_owned())
}

fn line_view(line: &Line) -> Value {
    json!({
        "id": line.image.image.record.id.to_string(),
        "name": line.name.as_ref().map(Reference::familiar),
        "digest": digest_of(&line.image.image),
        "created": rfc3339(created(&line.image.image)),
        "size_bytes": line.image.size,
    })
}

fn inspect(images: &ImageStore, texts: &[String]) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut failure = None;
    for text in texts {
        match images.lookup(text) {
            Ok(image) => found.push(whole_view(&image)),
            Err(error) => failure = Some(image_failed(error)),
        }
    }
    print::json(&found)?;
    failure.map_or(Ok(()), Err)
}

/// An image under the names that docker uses.
fn whole_view(named: &NamedImage) -> Value {
    let KnownImage { record, config } = &named.image;
    let layers: Vec<String> = record.diff_ids().iter().map(ToString::to_string).collect();
    let names: Vec<String> = named.names.iter().map(Reference::familiar).collect();
    json!({
        "Id": record.id.to_string(),
        "RepoTags": names,
        "RepoDigests": record.origin.iter().collect::<Vec<_>>(),
        "Created": config.created.clone().unwrap_or_else(|| rfc3339(record.since)),
        "Author": config.author,
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Os": config.platform.os,
        "Size": named.size,
        "Config": config.config,
        "RootFS": { "Type": "layers", "Layers": layers },
        "History": config.history,
        "Metadata": { "LastTagTime": rfc3339(record.since) },
        "Descriptor": record.manifest,
    })
}

fn pull(
    home: &Home,
    images: &ImageStore,
    names: &[String],
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), Failure> {
    let names = names.iter().map(|name| reference(name)).collect::<Result<Vec<_>, _>>()?;
    let platform = wanted(platform)?;
    let cancel = interrupt::cancel()?;
    for name in names {
        let reporter = TransferReporter::new(kind(home, quiet), "pulled");
        let progress = |news| reporter.hear(news);
        let transfer = Transfer { progress: &progress, cancel: cancel.clone(), ..Transfer::default() };
        let image = images.pull(&name, &platform, &transfer).map_err(image_failed)?;
        drop(reporter);
        if !quiet {
            let digest = digest_of(&image).unwrap_or_default();
            home.say(&format!("pulled {} as {digest}, image {}", name.familiar(), image.record.id));
        }
        print::raw(format!("{name}\n").as_bytes())?;
    }
    Ok(())
}

fn push_names(home: &Home, images: &ImageStore, names: &[String], quiet: bool) -> Result<(), Failure> {
    let names = names.iter().map(|name| reference(name)).collect::<Result<Vec<_>, _>>()?;
    for name in &names {
        let image = images.lookup(&name.to_string()).map_err(image_failed)?.image;
        let root = images.root(&image, &Form::default()).map_err(image_failed)?;
        push(home, images, &root, std::slice::from_ref(name), quiet)?;
        print::raw(format!("{name}\n").as_bytes())?;
    }
    Ok(())
}

/// Uploads a manifest or an index under each of these names.
pub fn push(
    home: &Home,
    images: &ImageStore,
    root: &Descriptor,
    names: &[Reference],
    quiet: bool,
) -> Result<(), Failure> {
    if names.is_empty() {
        return Err(Failure::input("an image that is pushed needs a name; give it one with --tag"));
    }
    let cancel = interrupt::cancel()?;
    for name in names {
        let reporter = TransferReporter::new(kind(home, quiet), "pushed");
        let progress = |news| reporter.hear(news);
        let transfer = Transfer { progress: &progress, cancel: cancel.clone(), ..Transfer::default() };
        images.push_root(root, name, &transfer).map_err(image_failed)?;
        drop(reporter);
        if !quiet {
            home.say(&format!("pushed {} as {}", name.familiar(), root.digest));
        }
    }
    Ok(())
}

fn remove(images: &ImageStore, texts: &[String], force: bool) -> Result<(), Failure> {
    let mut failure = None;
    for text in texts {
        match images.remove(text, force) {
            Ok(removed) => {
                for name in &removed.names {
                    print::raw(format!("Untagged: {}\n", name.familiar()).as_bytes())?;
                }
                if let Some(id) = removed.image {
                    print::raw(format!("Deleted: {id}\n").as_bytes())?;
                }
            }
            Err(quern_engine::images::ImageError::Unknown(_)) if force => {}
            Err(error) => failure = Some(image_failed(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

fn save(images: &ImageStore, args: &ImageSave) -> Result<(), Failure> {
    let dest = Dest::of(args.output.as_deref());
    if matches!(dest, Dest::Stdout) && io::stdout().is_terminal() {
        return Err(Failure::input("an archive is not written to a terminal; name a file with -o"));
    }
    let docker = args.format == "docker";
    let form = Form { format: if docker { Format::Docker } else { Format::Oci }, ..Form::default() };
    let mut entries: Vec<Entry> = Vec::new();
    let mut platform = None;
    for text in &args.images {
        let named = images.lookup(text).map_err(image_failed)?;
        let root = images.root(&named.image, &form).map_err(image_failed)?;
        let name = text.parse::<Reference>().ok().filter(|name| named.names.contains(name));
        let own = &named.image.config.platform;
        platform.get_or_insert_with(|| Platform {
            os: own.os.clone(),
            arch: own.architecture.clone(),
            variant: String::new(),
        });
        match entries.iter_mut().find(|entry| entry.root.digest == root.digest) {
            Some(entry) => entry.names.extend(name),
            None => entries.push(Entry { names: name.into_iter().collect(), root }),
        }
    }
    dest.write(|out| images.save(&entries, platform.filter(|_| docker), out).map(drop).map_err(image_failed))
}

fn load(
    home: &Home,
    images: &ImageStore,
    input: Option<&Path>,
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), Failure> {
    let platform = wanted(platform)?;
    let loaded = match input.filter(|path| *path != Path::new("-")) {
        Some(path) => images.load(path, &platform),
        None => {
            if io::stdin().is_terminal() {
                return Err(Failure::input("an archive is read from a file; name it with -i"));
            }
            let spooled = spooled(home)?;
            images.load(spooled.path(), &platform)
        }
    };
    for image in loaded.map_err(image_failed)? {
        if quiet {
            continue;
        }
        if image.names.is_empty() {
            print::raw(format!("Loaded image ID: {}\n", image.record.id).as_bytes())?;
        }
        for name in &image.names {
            print::raw(format!("Loaded image: {}\n", name.familiar()).as_bytes())?;
        }
    }
    Ok(())
}

/// Standard input as a file, because an archive is read here and there.
fn spooled(home: &Home) -> Result<tempfile::NamedTempFile, Failure> {
    let mut file = tempfile::NamedTempFile::new_in(home.store.layout().scratch())?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.rewind()?;
    Ok(file)
}

fn kind(home: &Home, quiet: bool) -> Progress {
    if quiet { Progress::Quiet } else { home.global.progress }
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(Failure::input)
}

fn wanted(platform: Option<&str>) -> Result<Platform, Failure> {
    let Some(text) = platform else { return Ok(Platform::current()) };
    let here = Platform::current();
    let here = quern_spec::dockerfile::Platform::new(&here.os, &here.arch, "");
    let platform = quern_spec::dockerfile::Platform::parse(text, &here)
        .map_err(|error| Failure::input(format!("--platform {error}")))?;
    Ok(Platform { os: platform.os, arch: platform.arch, variant: platform.variant })
}
