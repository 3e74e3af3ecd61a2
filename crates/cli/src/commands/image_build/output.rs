//! What becomes of an image: kept, written to a file, written out as a directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quern_core::step::Platform;
use quern_engine::images::{Form, ImageStore, KnownImage, files};
use quern_oci::document::Format;
use quern_oci::layer::Codec;
use quern_oci::save::Entry;
use quern_oci::{Descriptor, Reference};

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
    /// Kept in the store, and uploaded if `push`.
    Image { push: bool, store: bool },
    /// An archive.
    Archive { docker: bool, dest: Dest },
    /// The files in a directory.
    Local(PathBuf),
    /// The files in an archive.
    Tar(Dest),
}

/// Where an archive goes.
pub enum Dest {
    /// Standard output.
    Stdout,
    /// A file, which appears at once and whole.
    File(PathBuf),
}

const KNOWN: &str = "type, dest, name, push, store, compression, compression-level, force-compression, \
    oci-mediatypes, rewrite-timestamp and tar";

impl Output {
    /// Everything the options ask for; the store, if they ask for nothing.
    pub fn all(args: &ImageBuild) -> Result<Vec<Self>, Failure> {
        let mut outputs = args.output.iter().map(|text| Self::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if args.push || args.load || outputs.is_empty() {
            let kind = OutputKind::Image { push: args.push, store: true };
            outputs.push(Self { kind, form: Form::default(), names: Vec::new() });
        }
        Ok(outputs)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        if !text.contains('=') && !text.contains(',') {
            let kind =
                if text == "-" { OutputKind::Tar(Dest::Stdout) } else { OutputKind::Local(text.into()) };
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
            "oci" | "docker" if dest.is_none() && kind == "docker" => {
                OutputKind::Image { push: false, store: true }
            }
            "oci" | "docker" => {
                OutputKind::Archive { docker: kind == "docker", dest: Dest::of(dest.as_deref()) }
            }
            "tar" => OutputKind::Tar(Dest::of(dest.as_deref())),
            "local" => {
                let dest =
                    dest.ok_or_else(|| fields.wrong("`dest` is missing: the directory to write to"))?;
                OutputKind::Local(dest.into())
            }
            other => {
                let known = "image, registry, oci, docker, local and tar";
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

    /// Whether statements about the image go where it goes.
    pub fn holds_statements(&self) -> bool {
        matches!(self.kind, OutputKind::Image { push: true, .. } | OutputKind::Archive { docker: false, .. })
    }

    /// Writes the image, and tells what stands for it there.
    pub fn write(
        &self,
        home: &Home,
        images: &ImageStore,
        image: &KnownImage,
        made: &Made,
        names: &[Reference],
    ) -> Result<Option<Descriptor>, Failure> {
        let names = if self.names.is_empty() { names } else { &self.names };
        match &self.kind {
            OutputKind::Image { push: false, .. } => Ok(None),
            OutputKind::Image { push: true, .. } => {
                let manifest = images.root(image, &self.form).map_err(image_failed)?;
                let root = made.statements.beside(images, manifest, names)?;
                crate::commands::image::push(home, images, &root, names, false)?;
                Ok(Some(root))
            }
            OutputKind::Archive { docker, dest } => {
                let manifest = images.manifest(image, &self.form).map_err(image_failed)?.descriptor;
                let root = match docker {
                    true => manifest,
                    false => made.statements.beside(images, manifest, names)?,
                };
                let entry = Entry { names: names.to_vec(), root: root.clone() };
                let platform = docker.then(|| Platform {
                    os: image.config.platform.os.clone(),
                    arch: image.config.platform.architecture.clone(),
                });
                dest.write(|out| images.save(&[entry], platform, out).map(drop).map_err(image_failed))?;
                Ok(Some(root))
            }
            OutputKind::Local(dir) => files::to_directory(images.layers(), &made.built.snapshot, dir)
                .map(|()| None)
                .map_err(|error| Failure::new(Kind::Internal, error)),
            OutputKind::Tar(dest) => dest
                .write(|out| {
                    files::to_archive(images.layers(), &made.built.snapshot, out)
                        .map_err(|error| Failure::new(Kind::Internal, error))
                })
                .map(|()| None),
        }
    }
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
