//! Blobs on disk: [`Blobs`] over packs, loose files and an index.
//!
//! A put hashes, then appends to the open pack or writes a file in `tmp/`; both are *pending*: known to this process
//! only. [`Blobs::sync`] makes everything pending durable and then public, for all threads that ask at the same time
//! at once. A death before that loses only what nobody was promised.

mod check;
mod compact;
mod held;
mod index;
mod known;
mod loose;
mod pack;
mod pending;
mod sweep;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quern_core::port::{Blobs, Held, PortError};
use quern_core::{ContentRef, Digest};

use crate::layout::Layout;
use crate::lease::Lease;
use held::Holdings;
use index::Index;
use known::{Known, Place};
use pack::{PackId, RECORD_HEADER, Slot};
use pending::{Incoming, Synced};
pub(crate) use sweep::Candidate;

/// So many blobs pending make a sync, to bound memory and what a death can lose.
const PENDING_LIMIT: usize = 50_000;
/// Open packs kept for reading.
const FILES_LIMIT: usize = 64;
/// A blob that moves while it is read is looked up again so often.
const LOOKUPS: usize = 4;

/// Content-addressed bytes in a state folder.
#[derive(Debug)]
pub struct DiskBlobs {
    layout: Layout,
    lease: Arc<Lease>,
    loose_from: usize,
    index: Index,
    /// Set once the index has been compared with the packs.
    prepared: OnceLock<()>,
    preparing: Mutex<()>,
    incoming: Mutex<Incoming>,
    held: Arc<Holdings>,
    synced: Mutex<Synced>,
    known: Mutex<Known>,
    files: Mutex<HashMap<PackId, Arc<File>>>,
}

/// Where the bytes of a blob can be read at this moment.
enum Location {
    Memory(Vec<u8>),
    Packed(Slot),
    File(PathBuf),
}

impl DiskBlobs {
    /// Nothing is opened before the first use.
    pub(crate) fn new(layout: Layout, lease: Arc<Lease>, loose_from: usize) -> Self {
        Self {
            index: Index::new(layout.index_db()),
            layout,
            lease,
            loose_from,
            prepared: OnceLock::new(),
            preparing: Mutex::default(),
            incoming: Mutex::default(),
            held: Arc::default(),
            synced: Mutex::default(),
            known: Mutex::default(),
            files: Mutex::default(),
        }
    }

    /// A number that is another one whenever blobs may have been removed since it was read.
    ///
    /// Read it after the store was opened: what is removed later waits for the lease of this process. So who kept
    /// this number with a list of blobs, and finds the same number now, can rely on all of them.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn epoch(&self) -> Result<u64, PortError> {
        self.index()?.epoch()
    }

    /// The file of a large blob: mode 0644, never written again, may be linked to. None for small or absent blobs.
    pub fn loose_path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = loose::path(&self.layout, digest);
        path.exists().then_some(path)
    }

    /// Takes over a regular file that nobody else has open or linked: a large one is renamed into the store, a
    /// small one is copied and removed. Links are not followed.
    ///
    /// # Errors
    /// If it is not a regular file or cannot be read.
    pub fn put_file(&self, path: &Path) -> Result<ContentRef, PortError> {
        let failed = |error| PortError::io(format!("keeping {}", path.display()), error);
        let no_follow = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let mut file = File::options().read(true).custom_flags(no_follow).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")));
        }
        // A file that another user owns or that has other names could be changed later.
        let ours = metadata.nlink() == 1 && metadata.uid() == rustix::process::geteuid().as_raw();
        if metadata.len() < self.loose_from as u64 || !ours {
            let content = self.put_stream(&mut file)?;
            fs::remove_file(path).map_err(failed)?;
            return Ok(content);
        }
        let content = loose::digest_of(&mut file).map_err(failed)?;
        if self.has(&content.digest)? {
            fs::remove_file(path).map_err(failed)?;
            return Ok(content);
        }
        let temp = self.layout.tmp().join(self.lease.name());
        match fs::rename(path, &temp) {
            Ok(()) => {
                file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
                self.add_loose(&content.digest, temp)?;
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                io::Seek::rewind(&mut file).map_err(failed)?;
                self.put_stream(&mut file)?;
                fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(content)
    }

    /// A new file in `tmp/` with `start` and then everything from `reader`.
    fn write_temp(&self, start: &[u8], reader: &mut dyn Read) -> Result<(PathBuf, ContentRef), PortError> {
        let temp = self.layout.tmp().join(self.lease.name());
        match loose::copy(start, reader, &temp) {
            Ok(content) => Ok((temp, content)),
            Err(error) => {
                // The error at hand says more than one about a leftover, which is tidied anyway.
                let _ = fs::remove_file(&temp);
                Err(PortError::io("keeping a stream", error))
            }
        }
    }

    /// The index, compared with the packs at the first use.
    fn index(&self) -> Result<&Index, PortError> {
        if self.prepared.get().is_none() {
            let _one = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.prepared.get().is_none() {
                self.index.prepare()?;
                self.recover_packs()?;
                self.prepared.get_or_init(|| ());
            }
        }
        Ok(&self.index)
    }

    /// Whether the bytes are here to stay: pending, or public and not about to be removed.
    fn has(&self, digest: &Digest) -> Result<bool, PortError> {
        if self.incoming().pending.contains_key(digest) || self.known().get(digest).is_some() {
            return Ok(true);
        }
        let found = self.index()?.find(digest)?;
        let place = match found.slot {
            _ if found.doomed => None,
            Some(slot) => Some(Place::Packed(slot)),
            None => loose::lasting(&self.layout, digest)
                .map_err(|error| PortError::io(format!("looking for content {digest}"), error))?
                .then_some(Place::Loose),
        };
        if let Some(place) = place {
            self.known().insert(*digest, place);
        }
        Ok(place.is_some())
    }

    fn locate(&self, digest: &Digest) -> Result<Option<Location>, PortError> {
        if let Some(bytes) = self.held.get(digest) {
            return Ok(Some(Location::Memory(bytes.to_vec())));
        }
        match self.incoming().locate(digest) {
            // A sync that failed later has given the file its name already.
            Some(Location::File(path)) if !path.exists() => {
                return Ok(Some(Location::File(loose::path(&self.layout, digest))));
            }
            Some(location) => return Ok(Some(location)),
            None => {}
        }
        let known = self.known().get(digest);
        let place = match known {
            Some(place) => Some(place),
            None => match self.index()?.find(digest)? {
                index::Found { slot: Some(slot), doomed } => {
                    if !doomed {
                        self.known().insert(*digest, Place::Packed(slot));
                    }
                    Some(Place::Packed(slot))
                }
                index::Found { slot: None, .. } => self.loose_path(digest).map(|_| Place::Loose),
            },
        };
        Ok(place.map(|place| match place {
            Place::Packed(slot) => Location::Packed(slot),
            Place::Loose => Location::File(loose::path(&self.layout, digest)),
        }))
    }

    /// Calls `read` with the blob's location until it is not surprised: a location is out of date once a sync, a
    /// compaction or a prune has moved the bytes, and is then asked for again.
    fn read_at<T>(
        &self,
        digest: &Digest,
        read: impl Fn(Location) -> Result<Option<T>, PortError>,
    ) -> Result<T, PortError> {
        let mut damaged = false;
        for _ in 0..LOOKUPS {
            let Some(location) = self.locate(digest)? else { return Err(PortError::Missing(*digest)) };
            damaged = matches!(location, Location::Packed(_));
            if let Some(value) = read(location)? {
                return Ok(value);
            }
            self.known().remove(digest);
        }
        Err(if damaged { PortError::Damaged(*digest) } else { PortError::Missing(*digest) })
    }

    /// The content of a slot; none if the pack is gone or has something else there.
    fn read_slot(&self, digest: &Digest, slot: &Slot) -> Result<Option<Vec<u8>>, PortError> {
        let failed = |error| PortError::io(format!("reading pack {:08x}", slot.pack), error);
        let Some(file) = self.pack_file(slot.pack).map_err(failed)? else { return Ok(None) };
        let mut bytes = vec![0; RECORD_HEADER as usize + slot.length as usize];
        match file.read_exact_at(&mut bytes, u64::from(slot.offset) - RECORD_HEADER) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(failed)?,
        }
        let content = bytes.split_off(RECORD_HEADER as usize);
        Ok(pack::is_header_of(&bytes, digest, slot.length).then_some(content))
    }

    fn pack_file(&self, pack: PackId) -> io::Result<Option<Arc<File>>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&pack) {
            return Ok(Some(Arc::clone(file)));
        }
        match File::open(pack::path(&self.layout.packs(), pack)) {
            Ok(file) => {
                if files.len() >= FILES_LIMIT {
                    files.clear();
                }
                Ok(Some(Arc::clone(files.entry(pack).or_insert(Arc::new(file)))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs for DiskBlobs {
    fn contains(&self, digest: &Digest) -> Result<bool, PortError> {
        self.has(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, PortError> {
        let bytes = self.read_at(digest, |location| match location {
            Location::Memory(bytes) => Ok(Some(bytes)),
            Location::Packed(slot) => self.read_slot(digest, &slot),
            Location::File(path) => match fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(PortError::io(format!("reading {}", path.display()), error)),
            },
        })?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(PortError::Damaged(*digest)) }
    }

    /// The stream of a large blob fails at its end with [`io::ErrorKind::InvalidData`] if the bytes were damaged.
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, PortError> {
        self.read_at(digest, |location| match location {
            Location::File(path) => match File::open(&path) {
                Ok(file) => Ok(Some(Box::new(loose::Verified::new(file, *digest)) as Box<dyn Read + Send>)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(PortError::io(format!("reading {}", path.display()), error)),
            },
            _ => self.get(digest).map(|bytes| Some(Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>)),
        })
    }

    fn put(&self, bytes: &[u8]) -> Result<ContentRef, PortError> {
        let content = ContentRef { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if self.has(&content.digest)? {
            return Ok(content);
        }
        if bytes.len() < self.loose_from {
            self.add_packed(&content.digest, bytes)?;
        } else {
            let (temp, _) = self.write_temp(bytes, &mut io::empty())?;
            self.add_loose(&content.digest, temp)?;
        }
        Ok(content)
    }

    fn put_stream(&self, reader: &mut dyn Read) -> Result<ContentRef, PortError> {
        let mut start = Vec::new();
        reader
            .take(self.loose_from as u64)
            .read_to_end(&mut start)
            .map_err(|error| PortError::io("reading a stream to keep", error))?;
        if start.len() < self.loose_from {
            return self.put(&start);
        }
        let (temp, content) = self.write_temp(&start, reader)?;
        if self.has(&content.digest)? {
            fs::remove_file(&temp)
                .map_err(|error| PortError::io(format!("removing {}", temp.display()), error))?;
        } else {
            self.add_loose(&content.digest, temp)?;
        }
        Ok(content)
    }

    fn hold(&self, bytes: &[u8]) -> Result<(ContentRef, Held), PortError> {
        let digest = Digest::of(bytes);
        let held = Held::new(self.held.hold(digest, bytes));
        Ok((ContentRef { digest, size: bytes.len() as u64 }, held))
    }

    fn sync(&self) -> Result<(), PortError> {
        self.sync_pending()
    }
}
