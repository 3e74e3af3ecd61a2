//! The files of a build, without an image around them.

use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;

use quern_core::port::PortError;
use quern_oci::archive::{Member, MemberKind};
use quern_oci::layer::{Codec, Compression, LayerWriter};
use quern_store::layers::{Changes, Files, FlattenError, LayerStore, Times, materialise};

use super::pack::{PackError, append_changes};
use crate::snapshot::Snapshot;

/// Why files could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// As an archive.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// As a directory.
    #[error(transparent)]
    Directory(#[from] FlattenError),
    /// The directory cannot be made, or is not empty.
    #[error("cannot write to `{path}`: {source}")]
    Place {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// Writes what a snapshot shows into a directory, which is made if need be and must be empty.
///
/// # Errors
/// [`FilesError`].
pub fn to_directory(layers: &LayerStore, snapshot: &Snapshot, dir: &Path) -> Result<(), FilesError> {
    let failed = |source| FilesError::Place { path: dir.display().to_string(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(failed(io::ErrorKind::DirectoryNotEmpty.into()));
    }
    if snapshot.layers().is_empty() {
        return Ok(());
    }
    Ok(materialise(&layers.view(snapshot.layers())?, dir, Files::Copy)?)
}

/// Writes what snapshots show as one tar archive, each below a folder of its own; without a name for that, at the top.
///
/// # Errors
/// [`FilesError`].
pub fn to_archive<W: Write>(
    layers: &LayerStore,
    snapshots: &[(String, &Snapshot)],
    out: W,
) -> Result<(), FilesError> {
    let plain = Compression::new(Codec::None, None, NonZero::<usize>::MIN).expect("it has no levels");
    let mut archive = LayerWriter::new(out, plain).map_err(PackError::from)?;
    for (folder, snapshot) in snapshots {
        if !folder.is_empty() {
            archive.append(&directory(folder), io::empty()).map_err(PackError::from)?;
        }
        let view = layers.view(snapshot.layers())?;
        append_changes(&mut archive, Changes::of_view(&view, Times::Keep), Path::new(folder))?;
    }
    archive.finish().map_err(PackError::from)?;
    Ok(())
}

fn directory(name: &str) -> Member {
    let (kind, mtime) = (MemberKind::Directory, (0, 0));
    Member { path: name.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}
