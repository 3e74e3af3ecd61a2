//! The members of layers as files below a directory.
//!
//! Safety rests on one rule: every system call names one component below a directory that is held open, and such a
//! directory is reached only through `root::Root`, which resolves links itself, inside the root. So nothing is
//! written, changed or removed outside, whatever a layer says. On top of that, what no honest tool writes is refused,
//! because two readers of it would see two different file systems:
//! a name twice in one layer, a path through a link that the same layer has made, `..` anywhere in a name.
//!
//! What is kept: names, types, contents, holes, permission bits, owners and groups (as root), times,
//! `user.*` and `security.capability` attributes. What is left out is told in [`Report::notes`]: device nodes unless they are asked
//! for, further attributes, and what the kernel refuses to an ordinary user.

mod file;
mod made;
mod root;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use quern_core::Digest;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::archive::{Archive, ArchiveError, Member, MemberKind};
use crate::blob::BlobError;
use crate::image::Image;
use crate::layer::LayerReader;
use crate::layout::{Layout, LayoutError};
use crate::limits::Limits;
use crate::path::{LayerPath, PathProblem};
use file::Attributes;
use made::{Made, MadeKind};
use root::{Place, Root};

/// How to unpack.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Upper limits.
    pub limits: Limits,
    /// Give files to the owners that the layer names; only root can.
    pub owners: bool,
    /// Make device nodes; only root can. Steps get their own `/dev`, so nothing needs them.
    pub devices: bool,
}

impl UnpackOptions {
    /// What the current user can do: owners as root, no devices.
    pub fn for_current_user() -> Self {
        Self { limits: Limits::default(), owners: rustix::process::geteuid().is_root(), devices: false }
    }
}

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Members unpacked, whiteouts included.
    pub members: u64,
    /// Bytes of file contents written.
    pub bytes: u64,
    /// What was left out; the first [`Report::MAX_NOTES`] of them.
    pub notes: Vec<Note>,
    /// How many notes there are in all.
    pub note_count: u64,
}

impl Report {
    /// How many notes are kept.
    pub const MAX_NOTES: usize = 100;

    fn note(&mut self, path: &LayerPath, left_out: LeftOut) {
        self.note_count += 1;
        if self.notes.len() < Self::MAX_NOTES {
            self.notes.push(Note { path: path.to_string(), left_out });
        }
    }
}

/// Something of a layer that is not in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Of which member.
    pub path: String,
    /// What.
    pub left_out: LeftOut,
}

/// What was left out of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// The whole member, a device node.
    Device,
    /// Owner and group, which the kernel refused.
    Owner,
    /// An extended attribute, with its name.
    Attribute(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.left_out {
            LeftOut::Device => write!(f, "{}: device node left out", self.path),
            LeftOut::Owner => write!(f, "{}: owner left out", self.path),
            LeftOut::Attribute(name) => write!(f, "{}: attribute {name} left out", self.path),
        }
    }
}

/// Why an image could not be unpacked. The directory then holds a part of it and must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A blob or document is missing or not what was announced.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A layer is no archive, or its bytes are not what was announced.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A name that leads nowhere good.
    #[error("the layer has a member `{path}` whose name {problem}; the image is refused")]
    Path {
        /// The name.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// A whiteout that names nothing, itself or its parent.
    #[error("the layer has a whiteout `{0}` that names no file; the image is refused")]
    Whiteout(LayerPath),
    /// The same name twice.
    #[error("the layer has `{0}` twice; readers disagree about which one counts, so the image is refused")]
    Duplicate(LayerPath),
    /// A path through a link of the same layer.
    #[error("the layer makes the link `{link}` and then writes through it to `{path}`; the image is refused")]
    ThroughLink {
        /// The member.
        path: LayerPath,
        /// The link.
        link: LayerPath,
    },
    /// A hard link to something that is not a file inside the root.
    #[error("the layer has a hard link `{path}` to `{target}`, which {reason}; the image is refused")]
    HardLink {
        /// The link.
        path: LayerPath,
        /// Where it points.
        target: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A path that leads through a file, or through links without end.
    #[error("the layer has a member `{path}` but `{at}` {reason}; the image is refused")]
    Unreachable {
        /// The member.
        path: LayerPath,
        /// The component in the way.
        at: LayerPath,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit was reached.
    #[error("the layer has directories deeper than the limit of {limit} at `{path}`; the image is refused")]
    TooDeep {
        /// The member.
        path: LayerPath,
        /// The limit.
        limit: usize,
    },
    /// A layer unpacks to other bytes than the config says.
    #[error("layer {layer}: {problem}")]
    DiffId {
        /// Its number, the lowest is 1.
        layer: usize,
        /// The two digests.
        problem: BlobError,
    },
    /// The file system refused.
    #[error("cannot {action} `{path}` while unpacking: {source}")]
    Io {
        /// Doing what.
        action: &'static str,
        /// Of which member.
        path: LayerPath,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    fn io(action: &'static str, path: &LayerPath) -> impl FnOnce(Errno) -> Self {
        let path = path.clone();
        move |errno| Self::Io { action, path, source: errno.into() }
    }
}

/// Unpacks all layers of an image, lowest first, into an empty directory.
///
/// # Errors
/// [`UnpackError`]; the directory then holds a part of the image.
pub fn unpack_image(
    layout: &Layout,
    image: &Image,
    directory: &Path,
    options: &UnpackOptions,
) -> Result<Report, UnpackError> {
    let mut unpacker = Unpacker::new(directory, options)?;
    for (number, layer) in image.layers.iter().enumerate() {
        let blob = layout.blob(&layer.descriptor)?;
        let reader = LayerReader::new(blob, &options.limits).map_err(ArchiveError::from)?;
        let found = unpacker.layer(reader)?.finish().map_err(ArchiveError::from)?;
        if found != layer.diff_id {
            let problem = BlobError::Digest { what: "the unpacked layer", expected: layer.diff_id, found };
            return Err(UnpackError::DiffId { layer: number + 1, problem });
        }
    }
    Ok(unpacker.report)
}

/// The digest that identifies a stack of unpacked layers, by OCI's rule for chain ids.
pub fn chain_id(diff_ids: impl IntoIterator<Item = Digest>) -> Option<Digest> {
    diff_ids.into_iter().reduce(|below, layer| Digest::of(format!("{below} {layer}").as_bytes()))
}

/// Unpacks layers one over the other.
pub struct Unpacker {
    root: Root,
    options: UnpackOptions,
    report: Report,
}

impl Unpacker {
    /// Unpacks into an existing directory.
    ///
    /// # Errors
    /// [`UnpackError::Io`] if it cannot be opened.
    pub fn new(directory: &Path, options: &UnpackOptions) -> Result<Self, UnpackError> {
        let root = Root::open(directory, options.limits.depth)
            .map_err(UnpackError::io("open the directory for", &LayerPath::root()))?;
        Ok(Self { root, options: options.clone(), report: Report::default() })
    }

    /// What was done so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Puts one layer over what is there, and gives the stream back, at the end of the archive.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub fn layer<R: Read>(&mut self, stream: R) -> Result<R, UnpackError> {
        self.members(stream, true)
    }

    /// Puts an archive that is no layer over what is there: names that begin with `.wh.` mean themselves, and of a name that
    /// comes twice the last counts, as `tar` has it.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub fn archive<R: Read>(&mut self, stream: R) -> Result<R, UnpackError> {
        self.members(stream, false)
    }

    fn members<R: Read>(&mut self, stream: R, is_layer: bool) -> Result<R, UnpackError> {
        let mut archive = Archive::new(stream, &self.options.limits);
        let (made, directories) = (Made::default(), BTreeMap::new());
        let mut layer = Layer { unpacker: self, made, directories, is_layer };
        while let Some(member) = archive.next_member()? {
            layer.member(&member, &mut archive)?;
        }
        layer.finish_directories()?;
        Ok(archive.into_inner())
    }
}

/// One layer on its way to the disk.
struct Layer<'a> {
    unpacker: &'a mut Unpacker,
    made: Made,
    /// Attributes of directories, set at the end: writing into a directory changes its time, and a mode may forbid it.
    directories: BTreeMap<LayerPath, Attributes>,
    /// Whether names can mean whiteouts, and no name may come twice.
    is_layer: bool,
}

impl Layer<'_> {
    fn member<R: Read>(&mut self, member: &Member, archive: &mut Archive<R>) -> Result<(), UnpackError> {
        self.unpacker.report.members += 1;
        let path = parse(&member.path)?;
        let Some((parent, name)) = path.split_last() else {
            return self.whole_root(&path, member);
        };
        if self.is_layer && parent.names().any(|name| name.starts_with(b".wh..wh.")) {
            return Ok(()); // Below the book-keeping of an old storage driver.
        }
        if self.is_layer && parent.names().any(|name| name.starts_with(b".wh.")) {
            return Err(UnpackError::Whiteout(path));
        }
        let Some(hidden) = name.strip_prefix(b".wh.").filter(|_| self.is_layer) else {
            let parent = self.unpacker.root.directory(&parent, &path, &mut self.made)?;
            self.made.touch(&parent.path, &parent.fd).map_err(UnpackError::io("look at", &parent.path))?;
            let place = parent.child(name).map_err(|problem| bad_path(&member.path, problem))?;
            return self.place(&place, member, archive);
        };
        self.hide(&path, &parent, hidden)
    }

    /// The member that stands for the root directory itself.
    fn whole_root(&mut self, path: &LayerPath, member: &Member) -> Result<(), UnpackError> {
        if member.kind != MemberKind::Directory {
            return Err(bad_path(&member.path, PathProblem::Root));
        }
        self.directories.insert(path.clone(), Attributes::of(member));
        Ok(())
    }

    fn place<R: Read>(
        &mut self,
        place: &Place,
        member: &Member,
        archive: &mut Archive<R>,
    ) -> Result<(), UnpackError> {
        let kind = match member.kind {
            MemberKind::Directory => MadeKind::Directory,
            MemberKind::Symlink(_) => MadeKind::Link,
            _ => MadeKind::Other,
        };
        match (self.made.get(&place.path), kind) {
            (Some(MadeKind::Directory | MadeKind::ImpliedDirectory), MadeKind::Directory) => {}
            (Some(_), _) if self.is_layer => return Err(UnpackError::Duplicate(place.path.clone())),
            (Some(_), kind) => self.unpacker.root.make_room(place, kind == MadeKind::Directory)?,
            (None, MadeKind::Directory) => self.unpacker.root.make_room(place, true)?,
            (None, _) if self.is_layer && self.made.any_below(&place.path) => {
                return Err(UnpackError::Duplicate(place.path.clone()));
            }
            (None, _) => self.unpacker.root.make_room(place, false)?,
        }
        self.create(place, member, archive)?;
        self.made.insert(place.path.clone(), kind);
        Ok(())
    }

    fn create<R: Read>(
        &mut self,
        place: &Place,
        member: &Member,
        archive: &mut Archive<R>,
    ) -> Result<(), UnpackError> {
        let attributes = Attributes::of(member);
        match &member.kind {
            MemberKind::Directory => {
                self.unpacker.root.make_directory(place)?;
                self.directories.insert(place.path.clone(), attributes);
                Ok(())
            }
            MemberKind::File { size, segments } => {
                let file = file::create(place, *size, segments, &mut archive.content())?;
                self.unpacker.report.bytes += segments.iter().map(|segment| segment.length).sum::<u64>();
                let Unpacker { options, report, .. } = &mut *self.unpacker;
                attributes.set_on_open(&file, &place.path, options, report)
            }
            MemberKind::Hardlink(target) => self.hard_link(place, target),
            MemberKind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), place.parent(), place.name())
                    .map_err(UnpackError::io("make the link", &place.path))?;
                self.finish_special(place, &attributes)
            }
            MemberKind::Fifo => self.make_node(place, (FileType::Fifo, 0), &attributes),
            MemberKind::Char(..) | MemberKind::Block(..) if !self.unpacker.options.devices => {
                self.unpacker.report.note(&place.path, LeftOut::Device);
                Ok(())
            }
            MemberKind::Char(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.make_node(place, (FileType::CharacterDevice, device), &attributes)
            }
            MemberKind::Block(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.make_node(place, (FileType::BlockDevice, device), &attributes)
            }
        }
    }

    fn make_node(
        &mut self,
        place: &Place,
        (kind, device): (FileType, u64),
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(place.parent(), place.name(), kind, mode, device)
            .map_err(UnpackError::io("make the node", &place.path))?;
        self.finish_special(place, attributes)
    }

    fn finish_special(&mut self, place: &Place, attributes: &Attributes) -> Result<(), UnpackError> {
        let Unpacker { options, report, .. } = &mut *self.unpacker;
        attributes.set_by_name(place, options, report)
    }

    fn hard_link(&mut self, place: &Place, target: &[u8]) -> Result<(), UnpackError> {
        let refuse = |reason| UnpackError::HardLink {
            path: place.path.clone(),
            target: target.escape_ascii().to_string(),
            reason,
        };
        let path = LayerPath::parse(target).map_err(|_| refuse("does not stay inside the root"))?;
        let (parent, name) = path.split_last().ok_or_else(|| refuse("is the root"))?;
        let parent = match self.unpacker.root.existing(&parent) {
            Ok(Some(parent)) => parent,
            Ok(None) => return Err(refuse("does not exist")),
            Err(errno) => return Err(UnpackError::io("find the target of", &place.path)(errno)),
        };
        let stat = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(refuse("does not exist")),
            Err(errno) => return Err(UnpackError::io("find the target of", &place.path)(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => {
                rustix::fs::linkat(&parent.fd, name, place.parent(), place.name(), AtFlags::empty())
                    .map_err(UnpackError::io("make the hard link", &place.path))
            }
            _ => Err(refuse("is not a file")),
        }
    }

    /// Carries out a whiteout: what lies below this layer disappears, what this layer made stays.
    fn hide(&mut self, path: &LayerPath, parent: &LayerPath, hidden: &[u8]) -> Result<(), UnpackError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::Whiteout(path.clone()));
        }
        let opaque = hidden == b".wh..opq";
        if hidden.starts_with(b".wh.") && !opaque {
            return Ok(()); // That book-keeping itself, ignored by every engine.
        }
        let Some(directory) =
            self.unpacker.root.existing(parent).map_err(UnpackError::io("look for", path))?
        else {
            return Ok(());
        };
        if opaque {
            return self.unpacker.root.keep_only(&directory, &mut self.made);
        }
        let place = directory.child(hidden).map_err(|problem| bad_path(path.as_bytes(), problem))?;
        self.made.touch(&directory.path, &directory.fd).map_err(UnpackError::io("look at", path))?;
        self.unpacker.root.clear(&place, &mut self.made)
    }

    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, time) in self.made.unnamed().filter(|(path, _)| !self.directories.contains_key(*path)) {
            // A whiteout or another kind of member may have taken its place.
            if let Some(directory) = self.unpacker.root.existing_at(path)? {
                file::set_time(&directory, time).map_err(UnpackError::io("set the time of", path))?;
            }
        }
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let Unpacker { root, options, report } = &mut *self.unpacker;
            if let Some(directory) = root.existing_at(&path)? {
                attributes.set_on_open(&directory, &path, options, report)?;
            }
        }
        Ok(())
    }
}

fn parse(path: &[u8]) -> Result<LayerPath, UnpackError> {
    LayerPath::parse(path).map_err(|problem| bad_path(path, problem))
}

fn bad_path(path: &[u8], problem: PathProblem) -> UnpackError {
    let path = path[..path.len().min(300)].escape_ascii().to_string();
    UnpackError::Path { path, problem }
}
