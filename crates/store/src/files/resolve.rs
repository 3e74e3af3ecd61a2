//! Symbolic links followed inside a source: an absolute target starts at the root of the source, `..` ends there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::source::{FileKind, FileSource, SourceError};

/// So many links are followed in one path.
const MAX_LINKS: usize = 255;

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The links on the way lead in a circle.
    #[error("`{}` leads through more than {MAX_LINKS} symbolic links", super::source::shown(.0))]
    Links(PathBuf),
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What becomes of a link in the last place of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is kept.
    Keep,
}

/// The path without links that `path` leads to. `path` may be absolute and hold `.`, `..` and repeated `/`. What does not exist, and
/// whatever follows it, is taken as it is written; so the result may be absent in the source.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(source: &dyn FileSource, path: &Path, last: Last) -> Result<PathBuf, ResolveError> {
    let mut done = PathBuf::new();
    let mut todo = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(&name);
        if last == Last::Keep && todo.is_empty() {
            break;
        }
        let is_link = source.stat(&done)?.is_some_and(|stat| stat.kind == FileKind::Link);
        if is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(ResolveError::Links(path.to_owned()));
            }
            let target = source.target(&done)?;
            done.pop();
            if target.is_absolute() {
                done.clear();
            }
            todo.extend(names(&target));
        }
    }
    Ok(done)
}

/// The names of a path, last one first, without `.`.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(|name| OsStr::from_bytes(name).to_owned()).collect()
}
