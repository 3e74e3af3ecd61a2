//! Layers on disk become layers of images, and the other way round.

use std::io::{self, Read as _, Write};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use quern_core::Digest;
use quern_core::port::PortError;
use quern_oci::archive::{Member, MemberKind, Segment};
use quern_oci::image::Layer;
use quern_oci::layer::{Codec, Compression, LayerWriter, WriteError};
use quern_oci::path::LayerPath;
use quern_store::layers::{Change, ChangeKind, Changes, ChangesError, LayerStore, Times};

/// Nanoseconds.
const SECOND: i64 = 1_000_000_000;

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The layer on disk cannot be read.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// It cannot be written as an archive.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of it cannot be read.
    #[error("cannot read `/{path}`: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// Packs a layer on disk and writes the blob to `out`. The same layer gives the same bytes at any time.
///
/// # Errors
/// [`PackError`]; what was written then is of no use.
pub fn pack<W: Write>(
    layers: &LayerStore,
    id: &Digest,
    times: Times,
    compression: Compression,
    out: W,
) -> Result<(Layer, W), PackError> {
    let mut writer = LayerWriter::new(out, compression)?;
    append_changes(&mut writer, layers.changes(id, times), Path::new(""))?;
    Ok(writer.finish()?)
}

/// Packs entries in their order, below a folder; without a name for that, at the top.
///
/// # Errors
/// [`PackError`].
pub fn append_changes<W: Write>(
    writer: &mut LayerWriter<W>,
    changes: Changes,
    folder: &Path,
) -> Result<(), PackError> {
    for change in changes {
        let mut change = change?;
        if folder != Path::new("") {
            change.path = folder.join(&change.path);
            if let ChangeKind::HardLink { target } = &mut change.kind {
                *target = folder.join(&target);
            }
        }
        append(writer, &change)?;
    }
    Ok(())
}

/// The diff id of a layer on disk and the length of its plain tar stream, without keeping the stream.
///
/// # Errors
/// [`PackError`].
pub fn measure(layers: &LayerStore, id: &Digest, times: Times) -> Result<(Digest, u64), PackError> {
    let plain = Compression::new(Codec::None, None, NonZero::<usize>::MIN).expect("it has no levels");
    let (layer, _) = pack(layers, id, times, plain, io::sink())?;
    Ok((layer.diff_id, layer.descriptor.size))
}

/// A layer on disk as it would be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Which layer.
    pub id: Digest,
    /// Digest of the plain tar stream.
    pub diff_id: Digest,
    /// Its length.
    pub size: u64,
}

/// Measures several layers, as many at a time as there are processors. Keep them open meanwhile.
///
/// # Errors
/// The first [`PackError`].
pub fn measure_all(layers: &LayerStore, ids: &[Digest], times: Times) -> Result<Vec<Measured>, PackError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(ids.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (diff_id, size) = measure(layers, id, times)?;
            done.push(Measured { id: *id, diff_id, size });
        }
        Ok::<_, PackError>(done)
    };
    let mut all = Vec::with_capacity(ids.len());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        results.extend(others.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        for result in results {
            all.extend(result?);
        }
        Ok(all)
    })
}

fn append<W: Write>(writer: &mut LayerWriter<W>, change: &Change) -> Result<(), PackError> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let kind = match &change.kind {
        ChangeKind::File { size } => return append_file(writer, change, *size),
        ChangeKind::Whiteout => return Ok(writer.whiteout(&layer_path(&change.path)?)?),
        ChangeKind::Opaque => return Ok(writer.opaque(&layer_path(&change.path)?)?),
        ChangeKind::HardLink { target } => MemberKind::Hardlink(bytes(target)),
        ChangeKind::Dir => MemberKind::Directory,
        ChangeKind::Symlink { target } => MemberKind::Symlink(bytes(target)),
        ChangeKind::CharDevice { device: (major, minor) } => MemberKind::Char(*major, *minor),
        ChangeKind::BlockDevice { device: (major, minor) } => MemberKind::Block(*major, *minor),
        ChangeKind::Fifo => MemberKind::Fifo,
    };
    Ok(writer.append(&member(change, kind), io::empty())?)
}

fn append_file<W: Write>(writer: &mut LayerWriter<W>, change: &Change, size: u64) -> Result<(), PackError> {
    let failed = |source| PackError::Read { path: change.path.display().to_string(), source };
    let contents = change.contents().map_err(failed)?;
    // Where a file has holes is no part of the image: it is packed as one stretch.
    let segments = if size == 0 { Vec::new() } else { vec![Segment { offset: 0, length: size }] };
    Ok(writer.append(&member(change, MemberKind::File { size, segments }), contents.take(size))?)
}

fn member(change: &Change, kind: MemberKind) -> Member {
    let xattrs = change.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Member {
        path: change.path.as_os_str().as_bytes().to_vec(),
        kind,
        mode: change.mode,
        uid: change.uid,
        gid: change.gid,
        mtime: (change.modified.div_euclid(SECOND), change.modified.rem_euclid(SECOND) as u32),
        xattrs,
    }
}

fn layer_path(path: &Path) -> Result<LayerPath, PackError> {
    LayerPath::parse(path.as_os_str().as_bytes())
        .map_err(|problem| PackError::Write(WriteError::Path { path: path.display().to_string(), problem }))
}
