//! What becomes of an image: kept, written to a file, written out as a directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quern_core::step::Platform as StepPlatform;
use quern_engine::image::provenance::{Stated, bind};
use quern_engine::images::{Form, ImageError, ImageStore, files};
use quern_oci::document::Format;
use quern_oci::layer::Codec;
use quern_oci::save::Entry;
use quern_oci::{Descriptor, Reference};
use quern_spec::dockerfile::Platform;

use super::options::Fields;
use super::{Made, image_failed};
use crate::args::ImageBuild;
use crate::failure::{Failure, Kind};
use crate::wiring::Home;

/// One `--output`.
pub struct Output {
    kind: OutputKind,
    form: Form,
    names: Vec<Reference>,
}

enum OutputKind {
    /// Nowhere: only results are kept, for later builds.
    Nothing,
    /// Kept in the store, and uploaded if `push`.
    Image { push: bool, store: bool },
    /// An archive.
    Archive { docker: bool, dest: Dest },
    /// The files in a directory.
    Local { dir: PathBuf, split: bool },
    /// The files in an archive.
    Tar { dest: Dest, split: bool },
}

/// Where an archive goes.
pub enum Dest {
    /// Standard output.
    Stdout,
    /// A file, which appears at once and whole.
    File(PathBuf),
}

const KNOWN: &str = "type, dest, name, push, store, compression, compression-level, force-compression, \
    oci-mediatypes, rewrite-timestamp, platform-split and tar";

impl Output {
    /// Everything the options ask for; the store, if they ask for nothing.
    pub fn all(args: &ImageBuild, platforms: &[Platform]) -> Result<Vec<Self>, Failure> {
        let several = platforms.len() > 1;
        let parse = |text: &String| Self::parse(text, several);
        let mut outputs = args.output.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if args.push || args.load || outputs.is_empty() {
            if args.load && several {
                return Err(one_only("--load"));
            }
            let kind = OutputKind::Image { push: args.push, store: true };
            outputs.push(Self { kind, form: Form::default(), names: Vec::new() });
        }
        Ok(outputs)
    }

    fn parse(text: &str, several: bool) -> Result<Self, Failure> {
        if !text.contains('=') && !text.contains(',') {
            let kind = match text {
                "-" => OutputKind::Tar { dest: Dest::Stdout, split: several },
                dir => OutputKind::Local { dir: dir.into(), split: several },
            };
            return Ok(Self { kind, form: Form::default(), names: Vec::new() });
        }
        let mut fields = Fields::parse("--output", text)?;
        let kind = fields.need(&["type"])?;
        let dest = fields.take(&["dest"]);
        let kind = match kind.as_str() {
            "image" | "registry" => OutputKind::Image {
                push: fields.flag("push", kind == "registry")?,
                store: fields.flag("store", kind == "image")?,
            },
            "docker" if several => return Err(one_only(&format!("--output `{text}`"))),
            "oci" | "docker" if dest.is_none() && kind == "docker" => {
                OutputKind::Image { push: false, store: true }
            }
            "oci" | "docker" => {
                OutputKind::Archive { docker: kind == "docker", dest: Dest::of(dest.as_deref()) }
            }
            "cacheonly" => OutputKind::Nothing,
            "tar" => {
                let split = split(&mut fields, several)?;
                OutputKind::Tar { dest: Dest::of(dest.as_deref()), split }
            }
            "local" => {
                let dest =
                    dest.ok_or_else(|| fields.wrong("`dest` is missing: the directory to write to"))?;
                OutputKind::Local { dir: dest.into(), split: split(&mut fields, several)? }
            }
            other => {
                let known = "image, registry, oci, docker, local, tar and cacheonly";
                return Err(fields.wrong(&format!("there is no type `{other}`; there are {known}")));
            }
        };
        let names = fields.take(&["name"]).unwrap_or_default();
        let names =
            names.split(',').filter(|name| !name.is_empty()).map(|name| name.parse().map_err(Failure::input));
        let names = names.collect::<Result<Vec<Reference>, _>>()?;
        let form = form(&mut fields, matches!(kind, OutputKind::Archive { docker: true, .. }))?;
        fields.end(KNOWN)?;
        Ok(Self { kind, form, names })
    }

    /// Whether the image gets its names in the store.
    pub fn keeps(&self) -> bool {
        matches!(self.kind, OutputKind::Image { store: true, .. })
    }

    /// Whether the image has its names where it goes.
    pub fn names(&self) -> bool {
        matches!(self.kind, OutputKind::Image { .. } | OutputKind::Archive { .. })
    }

    /// Whether statements about the image go where it goes.
    pub fn holds_statements(&self) -> bool {
        matches!(self.kind, OutputKind::Image { push: true, .. } | OutputKind::Archive { docker: false, .. })
    }

    /// Writes the images, and tells what stands for them there.
    pub fn write(
        &self,
        home: &Home,
        images: &ImageStore,
        made: &[Made],
        names: &[Reference],
    ) -> Result<Option<Descriptor>, Failure> {
        let names = if self.names.is_empty() { names } else { &self.names };
        match &self.kind {
            OutputKind::Nothing | OutputKind::Image { push: false, .. } => Ok(None),
            OutputKind::Image { push: true, .. } => {
                let stated = stated(made, |one| images.root(&one.image, &self.form))?;
                let root = self.bind(images, &stated, names)?;
                crate::commands::image::push(home, images, &root, names, false)?;
                Ok(Some(root))
            }
            OutputKind::Archive { docker, dest } => {
                let manifest = |one: &Made| Ok(images.manifest(&one.image, &self.form)?.descriptor);
                let mut stated = stated(made, manifest)?;
                if *docker {
                    stated.iter_mut().for_each(|stated| stated.said = &[]);
                }
                let root = self.bind(images, &stated, names)?;
                let entry = Entry { names: names.to_vec(), root: root.clone() };
                let platform = docker.then(|| StepPlatform {
                    os: made[0].stage.platform.os.clone(),
                    arch: made[0].stage.platform.arch.clone(),
                    variant: made[0].stage.platform.variant.clone(),
                });
                dest.write(|out| images.save(&[entry], platform, out).map(drop).map_err(image_failed))?;
                Ok(Some(root))
            }
            OutputKind::Local { dir, split } => made
                .iter()
                .try_for_each(|one| {
                    let dir = dir.join(folder(one, *split));
                    files::to_directory(images.layers(), &one.stage.snapshot, &dir)
                })
                .map(|()| None)
                .map_err(|error| Failure::new(Kind::Internal, error)),
            OutputKind::Tar { dest, split } => {
                let snapshots: Vec<_> =
                    made.iter().map(|one| (folder(one, *split), &one.stage.snapshot)).collect();
                dest.write(|out| {
                    files::to_archive(images.layers(), &snapshots, out)
                        .map_err(|error| Failure::new(Kind::Internal, error))
                })
                .map(|()| None)
            }
        }
    }

    fn bind(
        &self,
        images: &ImageStore,
        stated: &[Stated<'_>],
        names: &[Reference],
    ) -> Result<Descriptor, Failure> {
        bind(images, stated, names, self.form.format).map_err(|error| image_failed(error.into()))
    }
}

/// Each image by its manifest, with what is said about it.
fn stated(
    made: &[Made],
    manifest: impl Fn(&Made) -> Result<Descriptor, ImageError>,
) -> Result<Vec<Stated<'_>>, Failure> {
    let one = |one| {
        let mut manifest = manifest(one).map_err(image_failed)?;
        manifest.platform.get_or_insert_with(|| one.image.config.platform.clone());
        Ok(Stated { manifest, said: &one.statements.attached })
    };
    made.iter().map(one).collect()
}

/// The folder of a platform's files, where each has one: `linux_arm64`.
fn folder(made: &Made, split: bool) -> String {
    if split { made.stage.platform.to_string().replace('/', "_") } else { String::new() }
}

/// Whether each platform has a folder of its own.
fn split(fields: &mut Fields, several: bool) -> Result<bool, Failure> {
    let split = fields.flag("platform-split", several)?;
    if several && !split {
        return Err(
            fields.wrong("the files of several platforms need a folder each; leave `platform-split` out")
        );
    }
    Ok(split)
}

fn one_only(option: &str) -> Failure {
    Failure::input(format!(
        "{option} takes the image of one platform; name one with --platform, or use --push or type=oci for several"
    ))
}

/// How layers are compressed.
pub fn compression(fields: &mut Fields, form: Form) -> Result<Form, Failure> {
    let codec = fields.take(&["compression"]).map_or(Ok(Codec::Gzip), |text| text.parse());
    let codec = codec.map_err(|error| fields.wrong(&format!("{error}")))?;
    let level = fields.take(&["compression-level"]);
    let level = level.map(|level| level.parse().map_err(|_| fields.wrong("`compression-level` is a number")));
    Ok(Form {
        codec,
        level: level.transpose()?,
        recompress: fields.flag("force-compression", false)?,
        ..form
    })
}

fn form(fields: &mut Fields, docker: bool) -> Result<Form, Failure> {
    let oci = fields.flag("oci-mediatypes", !docker)?;
    // Times are rewritten whenever there is an epoch.
    let _ = (fields.flag("rewrite-timestamp", true)?, fields.flag("tar", true)?);
    let format = if oci { Format::Oci } else { Format::Docker };
    compression(fields, Form { format, ..Form::default() })
}

impl Dest {
    /// `-` and nothing are standard output.
    pub fn of(text: Option<&str>) -> Self {
        match text {
            None | Some("-") => Self::Stdout,
            Some(path) => Self::File(path.into()),
        }
    }

    /// Lets `write` write there.
    pub fn write(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
        let path = match self {
            Self::File(path) => path,
            Self::Stdout => {
                let mut out = io::BufWriter::new(io::stdout().lock());
                write(&mut out)?;
                return Ok(out.flush()?);
            }
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let failed = |error: io::Error| {
            Failure::new(Kind::Input, format!("cannot write `{}`: {error}", path.display()))
        };
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        File::set_permissions(file.as_file(), mode).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
