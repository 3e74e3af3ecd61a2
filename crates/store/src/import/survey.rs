//! Second pass: one look at every file, to tell those that are as remembered from the others.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use quern_core::ContentRef;
use quern_core::port::PortError;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::list::{Folder, NameRef, open_dir};
use super::memory::{Code, Entry};
use super::stamp::{self, Seen, Stamp};
use super::{Failure, Flaw, FlawReason, Kind, Links, Scene};
use crate::workspace::beneath::{self, Through};
use crate::workspace::spread::{SERIAL, spread};

/// What is behind a name, directories apart.
pub(super) enum Found {
    /// A file, or a link to one that is followed.
    File {
        stamp: Stamp,
        executable: bool,
        linked: bool,
        /// Its content, none until it has been read.
        content: Option<ContentRef>,
    },
    /// A link that is kept.
    Link {
        target: String,
        /// It is in what is remembered of a directory that has the names it had.
        as_before: bool,
    },
}

impl Found {
    /// Whether it differs from what is remembered.
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::Link { as_before: true, .. })
    }
}

/// Names that one thread looks at in one go.
const SLICE: usize = 512;

/// Looks at every wanted file of all directories and puts what is not as remembered into [`Folder::found`].
/// Gives number and bytes of the files that need not be read.
pub(super) fn survey(
    scene: &Scene<'_>,
    folders: &mut [Folder<'_>],
    flaws: &mut Vec<Flaw>,
) -> Result<(u64, u64), PortError> {
    let mut slices = Vec::new();
    for (folder, listed) in folders.iter().enumerate() {
        let len = listed.len();
        slices.extend((0..len).step_by(SLICE).map(|start| (folder, start..len.min(start + SLICE))));
    }
    let names: usize = folders.iter().map(Folder::len).sum();
    let grain = if names < SLICE { SERIAL } else { 1 };
    let looked = spread(&slices, grain, |(folder, range)| look(scene, &folders[*folder], range.clone()));
    let (mut files, mut bytes) = (0, 0);
    for ((folder, _), look) in slices.iter().zip(looked) {
        let mut look = look?;
        files += look.files;
        bytes += look.bytes;
        flaws.append(&mut look.flaws);
        folders[*folder].found.append(&mut look.found);
    }
    Ok((files, bytes))
}

#[derive(Default)]
struct Look {
    found: Vec<(usize, Found)>,
    files: u64,
    bytes: u64,
    flaws: Vec<Flaw>,
}

fn look(scene: &Scene<'_>, folder: &Folder<'_>, range: Range<usize>) -> Result<Look, PortError> {
    let mut look = Look::default();
    let dir = match open_dir(scene, folder.path.as_str()) {
        Ok(dir) => dir,
        Err(error) => {
            look.flaws.push(Flaw::io(&folder.path, error));
            return Ok(look);
        }
    };
    for position in range {
        let name = folder.name(position);
        if !name.wanted || name.kind == Kind::Dir {
            continue;
        }
        let before = folder.before.zip(name.before).map(|(before, at)| before.entry(at));
        match look_at_name(scene, folder, &dir, &name, before.as_ref()) {
            Ok(Found::File { stamp, executable, linked, content: Some(content) }) => {
                look.files += 1;
                look.bytes += content.size;
                if !folder.is_as_before() {
                    let content = Some(content);
                    look.found.push((position, Found::File { stamp, executable, linked, content }));
                }
            }
            Ok(Found::Link { target, .. }) => {
                let as_before = folder.is_as_before() && is_remembered_link(before.as_ref(), &target);
                look.found.push((position, Found::Link { target, as_before }));
            }
            Ok(found) => look.found.push((position, found)),
            Err(Failure::Flaws(mut flaws)) => look.flaws.append(&mut flaws),
            Err(Failure::Store(error)) => return Err(error),
        }
    }
    Ok(look)
}

fn look_at_name(
    scene: &Scene<'_>,
    folder: &Folder<'_>,
    dir: &OwnedFd,
    name: &NameRef<'_>,
    before: Option<&Entry<'_>>,
) -> Result<Found, Failure> {
    let path = || format!("{}/{}", folder.path.as_str(), name.text);
    let seen = stamp::look(dir, name.text).map_err(|e| Flaw::io(path(), e))?;
    let (seen, linked) = match (seen.kind, scene.options.links) {
        (Kind::File, _) => (seen, false),
        (Kind::Dir, _) => return Err(Flaw::new(path(), FlawReason::Changing).into()),
        (Kind::Other, _) => return Err(Flaw::new(path(), FlawReason::Special).into()),
        (Kind::Link, Links::Refuse) => return Err(Flaw::new(path(), FlawReason::Link).into()),
        (Kind::Link, Links::Keep) => {
            return Ok(Found::Link { target: read_link(dir, name.text, path)?, as_before: false });
        }
        (Kind::Link, Links::FollowFiles) => (follow(scene, dir, name.text, path)?, true),
    };
    let content = remembered_content(scene, before, &seen, linked)?;
    Ok(Found::File { stamp: seen.stamp, executable: seen.executable, linked, content })
}

/// The content of a file that was not touched since it was read, if the store still has it.
fn remembered_content(
    scene: &Scene<'_>,
    before: Option<&Entry<'_>>,
    seen: &Seen,
    linked: bool,
) -> Result<Option<ContentRef>, PortError> {
    let Some(entry) = before else { return Ok(None) };
    let code = Code::File { executable: seen.executable, linked };
    let same = entry.code == code && entry.stamp == seen.stamp && seen.stamp.settled(scene.memory.started);
    if !same || scene.doubtful && !scene.blobs.contains(&entry.digest)? {
        return Ok(None);
    }
    Ok(Some(entry.content()))
}

fn is_remembered_link(before: Option<&Entry<'_>>, target: &str) -> bool {
    before.is_some_and(|entry| {
        entry.code == Code::Link && entry.digest == quern_core::Digest::of(target.as_bytes())
    })
}

fn read_link(dir: impl AsFd, name: &str, path: impl Fn() -> String) -> Result<String, Flaw> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| Flaw::io(path(), e))?;
    target.into_string().map_err(|_| Flaw::new(path(), FlawReason::TargetNotUtf8))
}

/// The file a link leads to.
fn follow(scene: &Scene<'_>, dir: impl AsFd, name: &str, path: impl Fn() -> String) -> Result<Seen, Flaw> {
    let target = || rustix::fs::readlinkat(&dir, name, Vec::new()).unwrap_or_default();
    let target = || target().to_string_lossy().escape_debug().to_string();
    let whole = path();
    let seen = beneath::open(scene.root, whole.trim_start_matches('/'), Through::Links, OFlags::PATH)
        .and_then(stamp::look_at);
    match seen {
        Ok(seen) if seen.kind == Kind::File => Ok(seen),
        Ok(seen) if seen.kind == Kind::Dir => Err(Flaw::new(whole, FlawReason::LinkToDirectory(target()))),
        Ok(_) => Err(Flaw::new(whole, FlawReason::Special)),
        Err(Errno::XDEV) => Err(Flaw::new(whole, FlawReason::LinkOutside(target()))),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
            Err(Flaw::new(whole, FlawReason::LinkBroken(target())))
        }
        Err(error) => Err(Flaw::io(whole, error)),
    }
}
