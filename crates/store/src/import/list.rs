//! First pass: which directories there are and which names they hold.
//!
//! A directory whose own stamp is remembered and settled holds the names it held, so its names are taken from
//! memory and it is not read at all.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use quern_core::TreePath;
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::memory::Remembered;
use super::stamp::{self, Stamp};
use super::survey::Found;
use super::{Flaw, FlawReason, Kind, Scene};
use crate::workspace::beneath;
use crate::workspace::spread::{SERIAL, spread};

/// All directories, parents before children, level by level.
pub(super) struct Listing<'m> {
    pub folders: Vec<Folder<'m>>,
    pub levels: Vec<Range<usize>>,
}

/// One directory of the source.
pub(super) struct Folder<'m> {
    pub path: TreePath,
    pub stamp: Stamp,
    /// What is remembered of it.
    pub before: Option<Remembered<'m>>,
    pub names: Names,
    /// Its wanted directories: position of the name, index of the directory; ascending.
    pub children: Vec<(usize, usize)>,
    /// What later passes found at a position and is not as remembered; ascending.
    pub found: Vec<(usize, Found)>,
}

/// The names of a directory in ascending order.
pub(super) enum Names {
    /// Exactly those remembered, wanted and unwanted.
    AsBefore {
        /// The stamp of the directory must be remembered anew.
        restamp: bool,
    },
    /// Others.
    New(Vec<Name>),
}

/// A name that is not, or not quite, as remembered.
pub(super) struct Name {
    pub text: String,
    pub kind: Kind,
    pub wanted: bool,
    /// Position of the same name in what is remembered.
    pub before: Option<usize>,
}

/// A name of a directory, wherever it is kept.
pub(super) struct NameRef<'f> {
    pub text: &'f str,
    pub kind: Kind,
    pub wanted: bool,
    pub before: Option<usize>,
}

impl Folder<'_> {
    /// How many names it has.
    pub fn len(&self) -> usize {
        match &self.names {
            Names::AsBefore { .. } => self.before.map_or(0, |before| before.len()),
            Names::New(names) => names.len(),
        }
    }

    /// The name at a position.
    pub fn name(&self, position: usize) -> NameRef<'_> {
        match (&self.names, self.before) {
            (Names::AsBefore { .. }, Some(before)) => {
                let entry = before.entry(position);
                let (kind, wanted) = (entry.code.kind(), entry.code.wanted());
                NameRef { text: entry.name, kind, wanted, before: Some(position) }
            }
            (Names::New(names), _) => {
                let name = &names[position];
                NameRef { text: &name.text, kind: name.kind, wanted: name.wanted, before: name.before }
            }
            (Names::AsBefore { .. }, None) => {
                NameRef { text: "", kind: Kind::Other, wanted: false, before: None }
            }
        }
    }

    /// Whether its names are exactly those remembered.
    pub fn is_as_before(&self) -> bool {
        matches!(self.names, Names::AsBefore { .. })
    }

    /// Whether a file or link in it is not as remembered.
    pub fn has_news(&self) -> bool {
        self.found.iter().any(|(_, found)| found.is_news())
    }

    /// Whether anything is to be remembered anew.
    pub fn is_outdated(&self) -> bool {
        !matches!(self.names, Names::AsBefore { restamp: false }) || self.has_news()
    }
}

struct Pending<'m> {
    path: TreePath,
    before: Option<Remembered<'m>>,
    /// Index of the parent and position of the name in it.
    parent: Option<(usize, usize)>,
}

/// Lists all wanted directories.
pub(super) fn list<'m>(scene: &'m Scene<'_>, flaws: &mut Vec<Flaw>) -> Listing<'m> {
    let mut listing = Listing { folders: Vec::new(), levels: Vec::new() };
    let mut level = vec![Pending { path: TreePath::root(), before: scene.memory.folder(0), parent: None }];
    while !level.is_empty() {
        let start = listing.folders.len();
        let grain = if level.len() < 16 { SERIAL } else { 4 };
        let listed = spread(&level, grain, |pending| list_one(scene, pending));
        let mut next = Vec::new();
        for (pending, result) in level.into_iter().zip(listed) {
            let (folder, mut worse) = match result {
                Ok(good) => good,
                Err(flaw) => {
                    flaws.push(flaw);
                    continue;
                }
            };
            flaws.append(&mut worse);
            let index = listing.folders.len();
            if let Some((parent, position)) = pending.parent {
                listing.folders[parent].children.push((position, index));
            }
            descend(scene, &folder, index, &mut next, flaws);
            listing.folders.push(folder);
        }
        listing.levels.push(start..listing.folders.len());
        level = next;
    }
    listing
}

/// Queues the directories of a folder.
fn descend<'m>(
    scene: &'m Scene<'_>,
    folder: &Folder<'m>,
    index: usize,
    next: &mut Vec<Pending<'m>>,
    flaws: &mut Vec<Flaw>,
) {
    for position in 0..folder.len() {
        let name = folder.name(position);
        if name.kind != Kind::Dir || !name.wanted {
            continue;
        }
        let remembered = folder.before.zip(name.before).map(|(before, at)| before.entry(at));
        let before = remembered.and_then(|e| e.child()).and_then(|child| scene.memory.folder(child));
        match folder.path.child(name.text) {
            Ok(path) => next.push(Pending { path, before, parent: Some((index, position)) }),
            Err(error) => flaws.push(Flaw::new(error.path, FlawReason::Path(error.reason))),
        }
    }
}

fn list_one<'m>(scene: &Scene<'_>, pending: &Pending<'m>) -> Result<(Folder<'m>, Vec<Flaw>), Flaw> {
    let failed = |error: Errno| Flaw::io(&pending.path, error);
    let dir = open_dir(scene, pending.path.as_str()).map_err(failed)?;
    let seen = stamp::look_at(&dir).map_err(failed)?;
    if scene.output.is_some() && !seen.executable {
        // Its names can be read, but nothing behind them.
        beneath::unlock(scene.root, pending.path.as_str()).map_err(failed)?;
    }
    let stamp = seen.stamp;
    let mut flaws = Vec::new();
    let names = match pending.before {
        Some(before) if before.stamp() == stamp && stamp.settled(scene.memory.started) => {
            Names::AsBefore { restamp: false }
        }
        before => {
            let names = read_names(&dir, &pending.path, &mut flaws).map_err(failed)?;
            match_names(names, before)
        }
    };
    let names = filter(scene, pending, names, &mut flaws);
    let folder = Folder {
        path: pending.path.clone(),
        stamp,
        before: pending.before,
        names,
        children: Vec::new(),
        found: Vec::new(),
    };
    Ok((folder, flaws))
}

/// Opens a directory of the source, made readable first if need be.
pub(super) fn open_dir(scene: &Scene<'_>, path: &str) -> Result<OwnedFd, Errno> {
    match beneath::open_dir(scene.root, path) {
        Err(Errno::ACCESS) if scene.output.is_some() => {
            beneath::unlock(scene.root, path)?;
            beneath::open_dir(scene.root, path)
        }
        result => result,
    }
}

fn read_names(dir: impl AsFd, path: &TreePath, flaws: &mut Vec<Flaw>) -> Result<Vec<Name>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 16384];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let bytes = entry.file_name();
        if bytes == c"." || bytes == c".." {
            continue;
        }
        let Ok(text) = bytes.to_str() else {
            let shown = format!("{}/{}", path.as_str(), bytes.to_string_lossy());
            flaws.push(Flaw::new(shown, FlawReason::NotUtf8));
            continue;
        };
        let kind = match entry.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            FileType::Unknown => stamp::look(&dir, text)?.kind,
            _ => Kind::Other,
        };
        names.push(Name { text: text.to_owned(), kind, wanted: true, before: None });
    }
    names.sort_unstable_by(|a, b| a.text.cmp(&b.text));
    Ok(names)
}

/// Finds each name in what is remembered; if they are the same ones, they need not be kept twice.
fn match_names(mut names: Vec<Name>, before: Option<Remembered<'_>>) -> Names {
    let Some(before) = before else { return Names::New(names) };
    let mut at = 0;
    let mut same = names.len() == before.len();
    for name in &mut names {
        while at < before.len() && before.entry(at).name < name.text.as_str() {
            at += 1;
        }
        if at < before.len() {
            let entry = before.entry(at);
            if entry.name == name.text && entry.code.kind() == name.kind {
                name.before = Some(at);
            }
        }
        same &= name.before.is_some();
    }
    if same { Names::AsBefore { restamp: true } } else { Names::New(names) }
}

/// Asks the filter about every name. Without a filter all names are wanted.
fn filter(scene: &Scene<'_>, pending: &Pending<'_>, names: Names, flaws: &mut Vec<Flaw>) -> Names {
    let mut wanted = |text: &str, kind| match (scene.options.filter, pending.path.child(text)) {
        (None, _) => true,
        (Some(filter), Ok(path)) => filter(&path, kind),
        (Some(_), Err(error)) => {
            flaws.push(Flaw::new(error.path, FlawReason::Path(error.reason)));
            false
        }
    };
    match (names, pending.before) {
        (Names::AsBefore { restamp }, Some(before)) => {
            if scene.options.filter.is_none() && !before.has_unwanted() {
                return Names::AsBefore { restamp };
            }
            let verdicts: Vec<bool> = (0..before.len())
                .map(|at| before.entry(at))
                .map(|entry| wanted(entry.name, entry.code.kind()))
                .collect();
            let same = (0..before.len()).all(|at| before.entry(at).code.wanted() == verdicts[at]);
            if same {
                return Names::AsBefore { restamp };
            }
            let name = |at: usize| {
                let entry = before.entry(at);
                Name {
                    text: entry.name.to_owned(),
                    kind: entry.code.kind(),
                    wanted: verdicts[at],
                    before: Some(at),
                }
            };
            Names::New((0..before.len()).map(name).collect())
        }
        (Names::AsBefore { restamp }, None) => Names::AsBefore { restamp },
        (Names::New(mut names), _) => {
            for name in &mut names {
                name.wanted = wanted(&name.text, name.kind);
            }
            Names::New(names)
        }
    }
}
