//! Which files the sources of a `COPY` or `ADD` mean.
//!
//! A source is a path of the tree or a pattern for paths; links on the way and in the last place are followed inside the tree.
//! A directory stands for what is in it. Excluded paths are relative to the directory that is copied. With
//! `--parents` a source keeps its own path, or the part after `/./`, and its links are kept as links.
//! (The rules of BuildKit; what a wildcard matching nothing means, too: nothing is copied.)

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::context::{clean, split_wild};
use super::filter::{PathFilter, Verdict};
use super::pattern::{Pattern, PatternError, Stars, is_wild};
use super::resolve::{Last, ResolveError, resolve};
use super::source::{Absence, FileKind, FileSource, SourceError, Stat, shown};

/// Sources as an instruction names them.
#[derive(Clone, Copy)]
pub struct Selection<'s> {
    /// Paths or patterns, absolute or relative to the root of the tree.
    pub sources: &'s [PathBuf],
    /// What is left out.
    pub exclude: Option<&'s dyn PathFilter>,
    /// The directories on the way are copied, too.
    pub parents: bool,
}

/// What a selection means in one tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selected {
    /// In the order in which they are copied.
    pub(super) picks: Vec<Pick>,
}

/// A file, or the content of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pick {
    /// Path in the source, links resolved.
    pub path: PathBuf,
    /// The name it was asked for by, links not resolved.
    pub name: OsString,
    pub stat: Stat,
    /// What is below it, parents before children, names ascending.
    pub items: Vec<Item>,
    /// The directory itself counts, not only what is in it.
    pub whole: bool,
}

/// Something below a directory that was picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Relative to the directory that was picked.
    pub path: PathBuf,
    pub stat: Stat,
    /// A directory that is there only because of what is below it.
    pub on_the_way: bool,
}

/// Why a selection means nothing.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source is not there.
    #[error("no such file: `{}`{}", shown(source_path), if absence.ignored { ", which is there but ignored" } else { "" })]
    Missing {
        /// As it was written.
        source_path: PathBuf,
        /// What may help.
        absence: Absence,
    },
    /// A source is a wrong pattern.
    #[error("`{}` {reason}", shown(source_path))]
    Pattern {
        /// As it was written.
        source_path: PathBuf,
        /// What is wrong.
        reason: PatternError,
    },
    /// Links lead nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The tree cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Selection<'_> {
    /// Looks for the sources in a tree.
    ///
    /// # Errors
    /// [`SelectError`]. A wildcard that matches nothing is none.
    pub fn find(&self, source: &dyn FileSource) -> Result<Selected, SelectError> {
        let mut picks = Vec::new();
        for written in self.sources {
            match self.parents {
                true => self.pick_with_parents(source, written, &mut picks)?,
                false => self.pick(source, written, &mut picks)?,
            }
        }
        Ok(Selected { picks })
    }

    fn pick(
        &self,
        source: &dyn FileSource,
        written: &Path,
        picks: &mut Vec<Pick>,
    ) -> Result<(), SelectError> {
        for path in matches(source, written, written)? {
            let real = resolve(source, &path, Last::Follow)?;
            let stat = source.stat(&real)?.ok_or_else(|| missing(source, written, &real))?;
            let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
            if stat.kind != FileKind::Dir && self.verdict(Path::new(&name), false) != Verdict::Keep {
                continue;
            }
            let items = self.items(source, &real, &stat, None)?;
            picks.push(Pick { path: real, name, stat, items, whole: false });
        }
        Ok(())
    }

    fn pick_with_parents(
        &self,
        source: &dyn FileSource,
        written: &Path,
        picks: &mut Vec<Pick>,
    ) -> Result<(), SelectError> {
        let (pivot, rest) = split_pivot(written);
        let rest = clean(rest);
        let text = rest.as_os_str().as_bytes();
        let wild = is_wild(text);
        let include = match wild {
            true => Pattern::new(text, Stars::Cross).map_err(|reason| wrong(written, reason))?,
            false => Pattern::literal(text),
        };
        for path in matches(source, pivot, written)? {
            let real = resolve(source, &path, Last::Follow)?;
            let stat = source.stat(&real)?.ok_or_else(|| missing(source, written, &real))?;
            if stat.kind != FileKind::Dir {
                return Err(missing(source, written, &real.join(&rest)));
            }
            let include = (!rest.as_os_str().is_empty()).then_some(&include);
            let items = self.items(source, &real, &stat, include)?;
            if !wild && !text.is_empty() && source.stat(&real.join(&rest))?.is_none() {
                return Err(missing(source, written, &real.join(&rest)));
            }
            let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
            picks.push(Pick { path: real, name, stat, items, whole: false });
        }
        Ok(())
    }

    /// What is below a directory that was picked; nothing for anything else.
    fn items(
        &self,
        source: &dyn FileSource,
        path: &Path,
        stat: &Stat,
        include: Option<&Pattern>,
    ) -> Result<Vec<Item>, SourceError> {
        let mut items = Vec::new();
        if stat.kind == FileKind::Dir {
            let descent = Descent { source, root: path, include, selection: self };
            descent.descend(Path::new(""), include.is_none(), &mut items)?;
        }
        Ok(items)
    }

    fn verdict(&self, path: &Path, is_dir: bool) -> Verdict {
        self.exclude.map_or(Verdict::Keep, |exclude| exclude.verdict(path, is_dir))
    }
}

impl Selected {
    /// A path with everything below it and its own metadata: what a mount of it shows.
    ///
    /// # Errors
    /// [`SelectError`].
    pub fn whole(source: &dyn FileSource, written: &Path) -> Result<Self, SelectError> {
        let path = resolve(source, written, Last::Follow)?;
        let stat = source.stat(&path)?.ok_or_else(|| missing(source, written, &path))?;
        let all = Selection { sources: &[], exclude: None, parents: false };
        let items = all.items(source, &path, &stat, None)?;
        Ok(Self { picks: vec![Pick { path, name: OsString::new(), stat, items, whole: true }] })
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// How many files, links and directories it holds, directories that stand for their content not counted.
    pub fn len(&self) -> usize {
        let of = |pick: &Pick| pick.items.len() + usize::from(pick.stat.kind != FileKind::Dir || pick.whole);
        self.picks.iter().map(of).sum()
    }
}

/// For tests and traces: `name` or `name->path` of a file, `path/{items}` of a directory, in brackets what is only on the way.
impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, pick) in self.picks.iter().enumerate() {
            let (gap, path) = (if number == 0 { "" } else { " " }, pick.path.to_string_lossy());
            if pick.stat.kind == FileKind::Dir {
                let item = |item: &Item| match item.on_the_way {
                    true => format!("({})", item.path.to_string_lossy()),
                    false => item.path.to_string_lossy().into_owned(),
                };
                let items: Vec<String> = pick.items.iter().map(item).collect();
                write!(f, "{gap}{path}/{{{}}}", items.join(" "))?;
            } else if pick.path.file_name() == Some(&pick.name) {
                write!(f, "{gap}{path}")?;
            } else {
                write!(f, "{gap}{}->{path}", pick.name.to_string_lossy())?;
            }
        }
        Ok(())
    }
}

/// Going down from a directory that was picked.
struct Descent<'d> {
    source: &'d dyn FileSource,
    root: &'d Path,
    include: Option<&'d Pattern>,
    selection: &'d Selection<'d>,
}

impl Descent<'_> {
    /// Adds what is in the directory `at`, relative to the root; with `all` whatever is not excluded.
    fn descend(&self, at: &Path, all: bool, items: &mut Vec<Item>) -> Result<(), SourceError> {
        for entry in self.source.list(&self.root.join(at))? {
            let (path, stat) = (below(at, entry.name), entry.stat);
            let is_dir = stat.kind == FileKind::Dir;
            let all = all || self.include.is_none_or(|include| include.matches(&path));
            let verdict = self.selection.verdict(&path, is_dir);
            if !is_dir {
                if all && verdict == Verdict::Keep {
                    items.push(Item { path, stat, on_the_way: false });
                }
                continue;
            }
            let leads = all || self.include.is_some_and(|include| include.may_match_below(&path));
            if verdict == Verdict::Drop || !leads {
                continue;
            }
            let on_the_way = !all || verdict == Verdict::DropUnlessKept;
            items.push(Item { path: path.clone(), stat, on_the_way });
            let before = items.len();
            self.descend(&path, all, items)?;
            if on_the_way && items.len() == before {
                items.pop();
            }
        }
        Ok(())
    }
}

/// The path of a name in a directory, in one piece of memory.
fn below(dir: &Path, name: OsString) -> PathBuf {
    if dir.as_os_str().is_empty() {
        return name.into();
    }
    let mut path = OsString::with_capacity(dir.as_os_str().len() + 1 + name.len());
    path.push(dir);
    path.push("/");
    path.push(name);
    path.into()
}

/// The paths a source means, before links in the last place are followed.
fn matches(source: &dyn FileSource, path: &Path, written: &Path) -> Result<Vec<PathBuf>, SelectError> {
    let path = clean(path);
    let (plain, wild) = split_wild(&path);
    if wild.as_os_str().is_empty() {
        return Ok(vec![plain]);
    }
    let pattern = Pattern::new(wild.as_os_str().as_bytes(), Stars::Plain);
    let pattern = pattern.map_err(|reason| wrong(written, reason))?;
    let base = resolve(source, &plain, Last::Follow)?;
    if source.stat(&base)?.is_none_or(|stat| stat.kind != FileKind::Dir) {
        return Err(missing(source, written, &base));
    }
    Ok(matching(source, &base, &pattern)?.into_iter().map(|(path, _)| path).collect())
}

/// Everything below `base` whose path from there matches. Links are not followed, matches not entered.
pub(super) fn matching(
    source: &dyn FileSource,
    base: &Path,
    pattern: &Pattern,
) -> Result<Vec<(PathBuf, Stat)>, SourceError> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        if source.stat(&base.join(&dir))?.is_none_or(|stat| stat.kind != FileKind::Dir) {
            continue;
        }
        for entry in source.list(&base.join(&dir))? {
            let path = dir.join(entry.name);
            if pattern.matches(&path) {
                found.push((base.join(path), entry.stat));
            } else if entry.stat.kind == FileKind::Dir && pattern.may_match_below(&path) {
                dirs.push(path);
            }
        }
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// Splits at the first `/./`: the directory that is copied from, and what is copied with its parents.
fn split_pivot(written: &Path) -> (&Path, &Path) {
    let bytes = written.as_os_str().as_bytes();
    match bytes.windows(3).position(|window| window == b"/./") {
        Some(at) => (path_of(&bytes[..at]), path_of(&bytes[at + 3..])),
        None => (Path::new(""), written),
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn missing(source: &dyn FileSource, written: &Path, path: &Path) -> SelectError {
    SelectError::Missing { source_path: written.to_owned(), absence: source.absence(path) }
}

fn wrong(written: &Path, reason: PatternError) -> SelectError {
    SelectError::Pattern { source_path: written.to_owned(), reason }
}
