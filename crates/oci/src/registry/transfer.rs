//! Whole images between a registry and the store: blobs in parallel, what is there already not at all, and the manifest
//! last, so that nothing half is ever visible.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use quern_core::Digest;
use quern_core::port::{Blobs, Cancel, PortError};
use quern_core::step::Platform;

use super::error::Problem;
use super::{Registry, RegistryError, Remote, Repository};
use crate::blob::BlobError;
use crate::document::{Descriptor, Document};
use crate::image::{Contents, Image, Source, Stored, choose, contents};
use crate::limits::Limits;
use crate::reference::Reference;

/// How a blob got to where it should be, or how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes moved so far.
    Moving(u64),
    /// All of it is there now.
    Done,
    /// It was there before.
    Present,
    /// It was taken over from another repository.
    Mounted,
}

/// News of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What happened.
    pub stage: Stage,
}

/// How to move images.
pub struct Transfer<'a> {
    /// Blobs under way at the same time.
    pub parallel: NonZero<usize>,
    /// Upper limits.
    pub limits: Limits,
    /// Hears what happens, from several threads.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Names of repositories of the same registry that may have a blob, best first.
    pub mounts: &'a (dyn Fn(&Digest) -> Vec<String> + Sync),
    /// Ends the work early.
    pub cancel: Cancel,
}

impl Default for Transfer<'_> {
    fn default() -> Self {
        Self {
            parallel: NonZero::new(4).expect("four is not zero"),
            limits: Limits::default(),
            progress: &|_| (),
            mounts: &|_| Vec::new(),
            cancel: Cancel::default(),
        }
    }
}

/// Why an image was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] PortError),
    /// The image in the store is not whole.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// The caller said stop.
    #[error("cancelled")]
    Cancelled,
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the name stands for: an index or a manifest.
    pub root: Descriptor,
    /// The image for the platform, with everything in the store: manifest, config and layers.
    pub image: Image,
}

/// Gets the image of a platform into the store.
///
/// # Errors
/// [`TransferError`]; what was stored until then is whole and may stay.
pub fn pull(
    registry: &dyn Registry,
    reference: &Reference,
    platform: &Platform,
    blobs: &dyn Blobs,
    transfer: &Transfer<'_>,
) -> Result<Pulled, TransferError> {
    let root = registry.resolve(reference)?;
    let limits = &transfer.limits;
    let repository = Repository::of(reference);
    let document_limit = limits.document;
    let remote =
        Kept { remote: Remote { registry, repository, document_limit }, blobs, read: Mutex::default() };
    let (image, _) = choose(&remote, std::slice::from_ref(&root), platform, limits)?;
    let layers = image.layers.iter().map(|layer| layer.descriptor.clone()).collect();
    fetch(&remote.remote, layers, blobs, transfer)?;
    blobs.sync()?;
    // Documents last: whoever finds a manifest in the store finds what it names.
    for document in remote.read.into_inner().unwrap_or_else(PoisonError::into_inner) {
        blobs.put(&document.bytes)?;
    }
    blobs.sync()?;
    Ok(Pulled { root, image })
}

/// Gets blobs into the store, each once.
fn fetch(
    remote: &Remote<'_>,
    mut wanted: Vec<Descriptor>,
    blobs: &dyn Blobs,
    transfer: &Transfer<'_>,
) -> Result<(), TransferError> {
    let mut seen = std::collections::BTreeSet::new();
    wanted.retain(|blob| seen.insert(blob.digest));
    let limit = transfer.limits.layer;
    if wanted.iter().any(|blob| blob.size > limit) {
        let problem = BlobError::TooLarge { what: "a layer", limit }.into();
        return Err(RegistryError::new(&remote.repository, "reading the layers", problem).into());
    }
    in_parallel(transfer, &wanted, |blob| {
        let report = |stage| (transfer.progress)(Progress { digest: blob.digest, size: blob.size, stage });
        if blobs.contains(&blob.digest)? {
            report(Stage::Present);
            return Ok(());
        }
        let mut reader =
            Watched { source: remote.open(blob)?, moved: 0, report: &report, cancel: &transfer.cancel };
        let stored = match blobs.put_stream(&mut reader) {
            Err(PortError::Io { source, context }) => {
                return Err(match RegistryError::from_io(&source) {
                    Some(error) => error.into(),
                    None if transfer.cancel.is_set() => TransferError::Cancelled,
                    None => match BlobError::from_io(&source) {
                        Some(error) => {
                            RegistryError::new(&remote.repository, "reading a blob", error.into()).into()
                        }
                        None => PortError::Io { source, context }.into(),
                    },
                });
            }
            other => other?,
        };
        if stored.digest != blob.digest {
            let problem = Problem::Broken(format!("blob {} was not read to its end", blob.digest));
            return Err(RegistryError::new(&remote.repository, "storing a blob", problem).into());
        }
        report(Stage::Done);
        Ok(())
    })
}

/// A registry of which the documents are remembered, and not read that the store has.
struct Kept<'a> {
    remote: Remote<'a>,
    blobs: &'a dyn Blobs,
    read: Mutex<Vec<Document>>,
}

impl Source for Kept<'_> {
    type Error = TransferError;

    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, TransferError> {
        Ok(self.remote.open(descriptor)?)
    }

    fn document(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, TransferError> {
        if self.blobs.contains(&descriptor.digest)? {
            let stored = Stored { blobs: self.blobs, document_limit: self.remote.document_limit };
            return stored.document(descriptor, what).map_err(|error| TransferError::Source(error.into()));
        }
        let bytes = self.remote.document(descriptor, what)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.push(Document { descriptor: descriptor.clone(), bytes: bytes.clone() });
        Ok(bytes)
    }
}

impl From<crate::image::ImageProblem> for TransferError {
    fn from(problem: crate::image::ImageProblem) -> Self {
        Self::Registry(problem.into())
    }
}

/// Sends an image, or an index with its images, and points the reference's tag to it. A reference without a tag sends
/// without one.
///
/// # Errors
/// [`TransferError`]; then the tag points to what it pointed to before.
pub fn push<S: Source>(
    registry: &dyn Registry,
    source: &S,
    root: &Descriptor,
    reference: &Reference,
    transfer: &Transfer<'_>,
) -> Result<(), TransferError>
where
    S::Error: Sync + 'static,
{
    let repository = Repository::of(reference);
    let broken = |error: S::Error| TransferError::Source(error.into());
    let Contents { blobs, mut documents } = contents(source, root, &transfer.limits).map_err(broken)?;
    let root = documents.pop().expect("the root is one");
    // Registries keep no manifest without what it names.
    if !registry.has_manifest(&repository, &root.descriptor.digest)? {
        in_parallel(transfer, &blobs, |blob| send(registry, source, &repository, blob, transfer))?;
        for document in &documents {
            stop_if(&transfer.cancel)?;
            registry.put_manifest(&repository, None, document)?;
        }
    }
    stop_if(&transfer.cancel)?;
    Ok(registry.put_manifest(&repository, reference.tag(), &root)?)
}

fn send<S: Source>(
    registry: &dyn Registry,
    source: &S,
    repository: &Repository,
    blob: &Descriptor,
    transfer: &Transfer<'_>,
) -> Result<(), TransferError>
where
    S::Error: Sync + 'static,
{
    let report = |stage| (transfer.progress)(Progress { digest: blob.digest, size: blob.size, stage });
    if registry.has_blob(repository, &blob.digest)? {
        report(Stage::Present);
        return Ok(());
    }
    for from in (transfer.mounts)(&blob.digest) {
        if from != repository.name && registry.mount(repository, &blob.digest, &from)? {
            report(Stage::Mounted);
            return Ok(());
        }
    }
    let open = || -> io::Result<Box<dyn Read + '_>> {
        let source = source.open(blob).map_err(io::Error::other)?;
        Ok(Box::new(Watched { source, moved: 0, report: &report, cancel: &transfer.cancel }))
    };
    match registry.upload(repository, blob, &open) {
        Err(_) if transfer.cancel.is_set() => Err(TransferError::Cancelled),
        Err(error) => Err(error.into()),
        Ok(()) => {
            report(Stage::Done);
            Ok(())
        }
    }
}

fn stop_if(cancel: &Cancel) -> Result<(), TransferError> {
    if cancel.is_set() { Err(TransferError::Cancelled) } else { Ok(()) }
}

/// Passes on what a source gives, tells how much it was, and ends when the caller says stop.
struct Watched<'a> {
    source: Box<dyn Read + Send>,
    moved: u64,
    report: &'a dyn Fn(Stage),
    cancel: &'a Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_set() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.source.read(buffer)?;
        self.moved += count as u64;
        if count > 0 {
            (self.report)(Stage::Moving(self.moved));
        }
        Ok(count)
    }
}

/// Does the work for all items, several at the same time. After the first failure no item is begun.
fn in_parallel<T: Sync>(
    transfer: &Transfer<'_>,
    items: &[T],
    work: impl Fn(&T) -> Result<(), TransferError> + Sync,
) -> Result<(), TransferError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = stop_if(&transfer.cancel).and_then(|()| work(item)) {
                next.store(items.len(), Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..transfer.parallel.get().min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
