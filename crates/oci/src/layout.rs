//! Images at rest: a directory or a tar archive of blobs in OCI's image layout.

mod archived;
mod docker;
mod tags;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use quern_core::Digest;
use quern_core::step::Platform;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use crate::archive::ArchiveError;
use crate::blob::{Blob, BlobError};
use crate::document::{self, CONTAINERD_NAME, Descriptor, Index, InvalidDocument, REF_NAME, media};
use crate::image::{Image, ImageProblem, Source};
use crate::limits::Limits;

pub use write::LayoutWriter;

/// A folder of blobs, opened.
pub struct Layout {
    path: PathBuf,
    files: Files,
    /// The entry document.
    index: Index,
    limits: Limits,
}

/// Where the files of a layout are.
enum Files {
    Directory(OwnedFd),
    Archive(docker::Archive),
}

/// Why an image could not be found or read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Nothing there, or nothing that is a layout.
    #[error("`{}` is no image layout: {reason}", path.display())]
    NotALayout {
        /// Where.
        path: PathBuf,
        /// What was missing.
        reason: String,
    },
    /// The tag is not there.
    #[error("there is no image with tag `{tag}` in `{}`; it has {}", path.display(), list(known))]
    NoSuchTag {
        /// Where.
        path: PathBuf,
        /// The tag asked for.
        tag: String,
        /// The tags there are.
        known: Vec<String>,
    },
    /// Several images and no tag.
    #[error("`{}` holds several images; add one of the tags: {}", path.display(), list(known))]
    Ambiguous {
        /// Where.
        path: PathBuf,
        /// The tags there are.
        known: Vec<String>,
    },
    /// The documents cannot be used.
    #[error(transparent)]
    Image(#[from] ImageProblem),
    /// A blob that is not there.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// A blob that is not what was announced.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The archive around the layout is damaged.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// Reading failed.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens a directory in OCI's image layout, a tar archive of one (`docker save` makes such since version 25), or an
    /// archive of `docker save` before that.
    ///
    /// # Errors
    /// [`LayoutError`] if it is neither.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, LayoutError> {
        let io_error = |source| LayoutError::Io { path: path.to_owned(), source };
        let files = if path.metadata().map_err(io_error)?.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io_error(errno.into()))?;
            Files::Directory(fd)
        } else {
            let file = File::open(path).map_err(io_error)?;
            let members = archived::members(&file, limits)?;
            let mut archive = docker::Archive { file, members, made: BTreeMap::new() };
            if archive.is_docker() {
                let index = archive.index(path, limits)?;
                let files = Files::Archive(archive);
                return Ok(Self { path: path.to_owned(), files, index, limits: limits.clone() });
            }
            Files::Archive(archive)
        };
        let index = read_index(&files, path, limits)?;
        Ok(Self { path: path.to_owned(), files, index, limits: limits.clone() })
    }

    /// The tags of the images in the layout, as they are written there.
    pub fn tags(&self) -> Vec<String> {
        tags::tags(&self.index)
    }

    /// The one image with a tag (or the only image, without one) that runs on a platform. Everything but the layers is
    /// read and compared with its digest.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn resolve(&self, tag: Option<&str>, platform: &Platform) -> Result<Image, LayoutError> {
        tags::resolve(self, tag, platform)
    }

    /// A blob as a stream that fails if it is not what its descriptor announces.
    ///
    /// # Errors
    /// [`LayoutError::Missing`] or [`LayoutError::Io`].
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Blob, LayoutError> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        match self.files.open(name.as_bytes()) {
            Ok(Some((source, _))) => Ok(Blob::new(source, descriptor)),
            Ok(None) => Err(LayoutError::Missing(descriptor.digest)),
            Err(source) => Err(LayoutError::Io { path: self.path.join(name), source }),
        }
    }

    /// What the layout holds at its top: the name of each image, if it has one, and its manifest or index.
    pub fn entries(&self) -> impl Iterator<Item = (Option<&str>, &Descriptor)> {
        self.index.manifests.iter().map(|entry| {
            let name = [CONTAINERD_NAME, REF_NAME].iter().find_map(|key| entry.annotations.get(*key));
            (name.map(String::as_str), entry)
        })
    }
}

impl Source for Layout {
    type Error = LayoutError;

    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        Ok(Box::new(self.blob(descriptor)?))
    }

    fn document(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, LayoutError> {
        let limit = self.limits.document;
        if descriptor.size > limit {
            return Err(BlobError::TooLarge { what, limit }.into());
        }
        let mut bytes = Vec::new();
        self.blob(descriptor)?.read_to_end(&mut bytes).map_err(|source| {
            match BlobError::from_io(&source) {
                Some(error) => error.into(),
                None => LayoutError::Io { path: self.path.clone(), source },
            }
        })?;
        Ok(bytes)
    }
}

fn read_index(files: &Files, path: &Path, limits: &Limits) -> Result<Index, LayoutError> {
    let not_a_layout = |reason: String| LayoutError::NotALayout { path: path.to_owned(), reason };
    let read = |name: &str| -> Result<Vec<u8>, LayoutError> {
        let io_error = |source| LayoutError::Io { path: path.join(name), source };
        let found = files.open(name.as_bytes()).map_err(io_error)?;
        let (source, size) = found.ok_or_else(|| not_a_layout(format!("it has no `{name}`")))?;
        if size > limits.document {
            return Err(BlobError::TooLarge { what: "an index", limit: limits.document }.into());
        }
        let mut bytes = Vec::new();
        source.take(limits.document).read_to_end(&mut bytes).map_err(io_error)?;
        Ok(bytes)
    };
    let marker: Marker = serde_json::from_slice(&read("oci-layout")?)
        .map_err(|error| not_a_layout(format!("its `oci-layout` is not valid: {error}")))?;
    if !marker.version.starts_with("1.") {
        return Err(not_a_layout(format!("version {} is not known, only 1.x", marker.version)));
    }
    let bytes = read("index.json")?;
    document::index(&bytes, media::INDEX).map_err(|problem| invalid("index", &bytes, problem))
}

impl Files {
    /// A file of the layout with its size; none if there is none. Links that lead out of the layout are not followed.
    fn open(&self, name: &[u8]) -> io::Result<Option<(Box<dyn Read + Send>, u64)>> {
        match self {
            Self::Directory(fd) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = match rustix::fs::openat2(fd, name, flags, Mode::empty(), resolve) {
                    Ok(file) => file,
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(errno.into()),
                };
                let stat = rustix::fs::fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(io::Error::other("it is not a file"));
                }
                Ok(Some((Box::new(File::from(file)), u64::try_from(stat.st_size).unwrap_or_default())))
            }
            Self::Archive(archive) => archive.open(name),
        }
    }
}

fn invalid(what: &'static str, bytes: &[u8], problem: InvalidDocument) -> LayoutError {
    ImageProblem::Document { what, digest: Digest::of(bytes), problem }.into()
}
