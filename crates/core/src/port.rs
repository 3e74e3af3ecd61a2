//! The ports: what the inner rooms ask of the outside, and what every adapter owes them.
//!
//! Each has a fake and a conformance suite in `quern-testkit`; the real adapter passes the same suite.

use std::any::Any;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::Digest;
use crate::event::Stream;
use crate::id::{Id, Timestamp};
use crate::path::TreePath;
use crate::step::{Attempt, Platform};
use crate::tree::ContentRef;

/// An adapter's failure: what it was doing, and the cause.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Content that is not there.
    #[error("content {0} is not in the store; it was pruned or never arrived")]
    Missing(Digest),
    /// Content whose bytes do not have the digest they are filed under.
    #[error("content {0} is damaged; remove it with `quern doctor` and build it again")]
    Damaged(Digest),
    /// The input or output of the adapter failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Anything else, in words that say what to do.
    #[error("{0}")]
    Other(String),
}

impl PortError {
    /// An I/O failure with its context.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }
}

/// Content-addressed bytes. Immutable: the bytes of a digest never change.
///
/// Obligations: what `get` and `open` give has the digest asked for or is an error; concurrent puts of the same
/// bytes, from several processes too, are harmless; after `sync` returns, everything put before survives
/// a power cut.
pub trait Blobs: Send + Sync {
    /// Whether the bytes are here.
    fn contains(&self, digest: &Digest) -> Result<bool, PortError>;
    /// All bytes at once; for trees, records and small files.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, PortError>;
    /// The bytes as a stream.
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, PortError>;
    /// Keeps bytes.
    fn put(&self, bytes: &[u8]) -> Result<ContentRef, PortError>;
    /// Keeps a stream of any length.
    fn put_stream(&self, reader: &mut dyn Read) -> Result<ContentRef, PortError>;
    /// Keeps bytes for this process alone, at least until what is given back is dropped: `get` and `open` find them.
    /// They need not become durable, so no record may name them.
    fn hold(&self, bytes: &[u8]) -> Result<(ContentRef, Held), PortError> {
        Ok((self.put(bytes)?, Held::default()))
    }
    /// Makes everything put so far durable.
    fn sync(&self) -> Result<(), PortError>;
}

/// What keeps bytes of [`Blobs::hold`]; dropping it lets them go.
#[derive(Default)]
pub struct Held(#[expect(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send + Sync>>);

impl Held {
    /// Runs the drop of `holding` when it is dropped itself.
    pub fn new(holding: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(holding)))
    }
}

/// Small records under text keys, in tables, with transactions across tables.
///
/// Obligations: a `write` is atomic, isolated and, when it returns, seen by every process and kept whatever happens to
/// this one; after `sync` returns, everything written before survives a power cut, too. A power cut takes the latest
/// writes or none, never one from between. `write`s of all processes are serial; a `read` sees one instant. The closure
/// of `write` may run more than once and must have no other effect. Values are JSON texts, so that the database can be
/// read with ordinary tools. A record that refers to a blob is written after [`Blobs::sync`]; what cannot be undone,
/// as removing what a record no longer names, or telling somebody that it is done, comes after `sync`.
pub trait Meta: Send + Sync {
    /// Runs `f` on one instant of the data.
    fn read(&self, f: &mut dyn FnMut(&dyn MetaRead) -> Result<(), PortError>) -> Result<(), PortError>;
    /// Runs `f` and commits what it wrote, or nothing if it fails.
    fn write(&self, f: &mut dyn FnMut(&mut dyn MetaWrite) -> Result<(), PortError>) -> Result<(), PortError>;
    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), PortError>;
}

/// A table of [`Meta`], by name. Tables exist from the first use on; names are `[a-z_]+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub &'static str);

/// Which keys a scan gives, in which order.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Only keys that start with this text.
    pub prefix: String,
    /// Only keys after this one (before it if `reverse`).
    pub after: Option<String>,
    /// Descending instead of ascending.
    pub reverse: bool,
    /// At most so many; none for all.
    pub limit: Option<usize>,
}

impl Scan {
    /// All keys with this prefix, ascending.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }
}

/// Reading one instant of [`Meta`].
pub trait MetaRead {
    /// The value of a key.
    fn get(&self, table: Table, key: &str) -> Result<Option<String>, PortError>;
    /// Keys and values in byte order of the keys.
    fn scan(&self, table: Table, scan: &Scan) -> Result<Vec<(String, String)>, PortError>;
}

/// Reading and writing inside one transaction; reads see its own writes.
pub trait MetaWrite: MetaRead {
    /// Sets a value.
    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), PortError>;
    /// Removes a key; no error if it is absent.
    fn delete(&mut self, table: Table, key: &str) -> Result<(), PortError>;
    /// The transaction as a reader.
    fn as_read(&self) -> &dyn MetaRead;
}

/// Runs a read and gives its value back.
///
/// # Errors
/// Those of the closure and of the port.
pub fn read<T, E: From<PortError>>(
    meta: &dyn Meta,
    mut f: impl FnMut(&dyn MetaRead) -> Result<T, E>,
) -> Result<T, E> {
    let mut out = None;
    meta.read(&mut |r| {
        out = Some(f(r));
        Ok(())
    })?;
    out.expect("a port that returns Ok has run the closure")
}

/// Runs a write and gives its value back; an error of the closure rolls everything back.
///
/// # Errors
/// Those of the closure and of the port.
pub fn write<T, E: From<PortError>>(
    meta: &dyn Meta,
    mut f: impl FnMut(&mut dyn MetaWrite) -> Result<T, E>,
) -> Result<T, E> {
    let mut out = None;
    let done = meta.write(&mut |w| {
        let result = f(w);
        let failed = result.is_err();
        out = Some(result);
        if failed { Err(PortError::Other("rolled back".into())) } else { Ok(()) }
    });
    match (done, out) {
        (Ok(()), Some(result)) | (Err(_), Some(result @ Err(_))) => result,
        (Err(error), _) => Err(error.into()),
        (Ok(()), None) => {
            Err(PortError::Other("the metadata port did not run the transaction".into()).into())
        }
    }
}

/// Trees as directories: how a step gets to see them, and how what it wrote becomes one.
pub trait Workspace: Send + Sync {
    /// A tree as files. The cost is in proportion to what differs from trees shown before.
    fn present(&self, tree: &Digest) -> Result<Presented, PortError>;
    /// An empty directory on disk for one output, the caller's until it is given back to [`Workspace::take`].
    fn scratch(&self) -> Result<PathBuf, PortError>;
    /// Keeps the files below a scratch directory as a tree and disposes of the directory. Named pipes, sockets
    /// and devices are errors; links are kept as links.
    fn take(&self, scratch: &Path) -> Result<ContentRef, PortError>;
    /// Disposes of a scratch directory without reading it.
    fn discard(&self, scratch: &Path);
    /// The directory of a named cache mount, shared by all who name it. What lies in it is the executor's.
    fn cache_dir(&self, id: &str) -> Result<PathBuf, PortError>;
}

/// A tree made visible.
pub enum Presented {
    /// A few small files, to be written into a private in-memory directory.
    Inline(Vec<InlineEntry>),
    /// A directory on disk that must be shown read-only and not be changed; it stays as it is while the lease lives.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// Keeps it from being reused or removed.
        lease: Box<dyn Any + Send + Sync>,
    },
}

/// One entry of a small tree; parents come before their children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InlineEntry {
    /// A directory.
    Dir(TreePath),
    /// A file with all its bytes.
    File {
        /// Where.
        path: TreePath,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: TreePath,
        /// Its target.
        target: String,
    },
}

/// Images as root file systems.
pub trait Images: Send + Sync {
    /// Turns a user's name for an image into its identity. Does the work of finding it, not of unpacking it.
    fn resolve(&self, name: &str, platform: &Platform) -> Result<Image, PortError>;
    /// The root file system of an image resolved before, unpacked if need be.
    fn rootfs(&self, image: &Digest) -> Result<RootFs, PortError>;
}

/// An image as far as a step's description needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What identifies the root file system; enters keys.
    pub id: Digest,
    /// `NAME=value` defaults, lowest in precedence.
    pub env: Vec<(String, String)>,
    /// Working directory, `/` if the image has none.
    pub workdir: String,
    /// User, none for root.
    pub user: Option<String>,
}

/// Where a root file system is on this machine.
pub struct RootFs {
    /// How it is made up.
    pub layout: RootLayout,
    /// Keeps it from being removed.
    pub lease: Box<dyn Any + Send + Sync>,
}

/// How a root file system is made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootLayout {
    /// One directory, or several to be overlaid, lowest first. Never written to.
    Layers(Vec<PathBuf>),
    /// Parts of the machine itself, read-only, at the same places.
    Host {
        /// Absolute paths. One that is a symbolic link on the machine (`/bin` to `usr/bin`) is shown as that link.
        directories: Vec<PathBuf>,
        /// What is shown as `/etc`: a prepared directory with the few files programs need, without secrets.
        etc: PathBuf,
    },
}

/// Layers of root file systems on disk: directories in the form in which overlayfs keeps them.
///
/// In such a directory a removed entry is a character device 0/0, and a directory that hides the one below has
/// `y` in the extended attribute `trusted.overlay.opaque` (`user.overlay.opaque` where a user namespace made it). A
/// directory is never renamed by reference, no file has attributes only. Once committed, a layer never changes.
///
/// Obligations: ids of committed layers are fresh, however alike their content is; a crash leaves of a commit either
/// nothing or the whole layer, although nothing in a draft was synced by the step that wrote it; drafts nobody commits or discards are removed when their owner is gone; content,
/// owners, modes, times, hard links and extended attributes come out of `open` as they went into the draft. Layers hold
/// setuid programs and devices: the directories above them are closed to other users.
pub trait Layers: Send + Sync {
    /// The directories of layers, in the order asked for (lowest first). [`PortError::Missing`] names a layer that is gone.
    fn open(&self, layers: &[Digest]) -> Result<OpenLayers, PortError>;
    /// A new layer, empty.
    fn begin(&self) -> Result<DraftLayer, PortError>;
    /// Keeps a layer; nobody writes to it any more.
    fn commit(&self, draft: DraftLayer) -> Result<Digest, PortError>;
    /// Disposes of a layer that will not be needed, whatever is in it.
    fn discard(&self, draft: DraftLayer);
}

/// Layers that stay where they are.
pub struct OpenLayers {
    /// Their directories, lowest first.
    pub dirs: Vec<PathBuf>,
    /// Keeps them from being removed.
    pub lease: Box<dyn Any + Send + Sync>,
}

/// A layer that is being made; it goes back to [`Layers::commit`] or [`Layers::discard`].
#[derive(Debug)]
pub struct DraftLayer {
    /// What will be the layer: overlayfs's upper directory.
    pub dir: PathBuf,
    /// An empty directory on the same file system, overlayfs's work directory.
    pub work: PathBuf,
}

/// Runs steps.
pub trait Executor: Send + Sync {
    /// Runs one attempt to its end and keeps its outputs in the store. Blocks.
    ///
    /// A program that fails is an [`Outcome`], not an error; an error means the step could not be run. When
    /// `cancel` is set, the program is ended and the outcome is [`Exit::Cancelled`] within a second.
    fn run(&self, attempt: &Attempt, observer: &dyn Observer, cancel: &Cancel) -> Result<Outcome, PortError>;

    /// Makes ready what the first step would have to wait for; a step is likely to come soon. Blocks. What goes wrong here
    /// goes wrong again, and is told, when a step is run.
    fn prepare(&self) {}
}

/// Hears what a running step says.
pub trait Observer: Send + Sync {
    /// A line without its end.
    fn line(&self, stream: Stream, line: &[u8]);
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the program ended.
    pub exit: Exit,
    /// Trees of [`crate::Step::outputs`], in order; empty unless the program succeeded.
    pub outputs: Vec<ContentRef>,
    /// What the program changed in a writable root, as a layer of [`Layers`]; none unless it succeeded.
    pub layer: Option<Digest>,
    /// What it cost.
    pub usage: Usage,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// By the step's timeout.
    TimedOut,
    /// By its memory limit.
    OutOfMemory,
    /// By the caller.
    Cancelled,
}

/// What a step cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Wall clock, microseconds.
    pub wall_micros: u64,
    /// Processor time of all its processes, microseconds; zero if unknown.
    pub cpu_micros: u64,
    /// Peak memory in bytes; zero if unknown.
    pub peak_memory: u64,
}

/// Says stop; clones share it. Whoever runs something long looks at it every few ten milliseconds.
#[derive(Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    also: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Cancel {
    /// One that is also set as soon as `also` gives true; it is asked often and must be quick.
    pub fn or_when(also: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { flag: Arc::default(), also: Some(Arc::new(also)) }
    }

    /// Says stop, for good.
    pub fn set(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// Whether somebody said stop.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.also.as_ref().is_some_and(|also| also())
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cancel({})", self.is_set())
    }
}

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// New ids.
pub trait Ids: Send + Sync {
    /// An id nobody had before.
    fn fresh(&self) -> Id;
}
