//! Owners by name, as the file system they are for knows them.

use std::io::Read as _;
use std::path::Path;

use quern_solver::OpError;
use quern_store::files::{FileSource, Last, resolve};

/// Most bytes of `/etc/passwd` or `/etc/group` that are read.
const MOST: u64 = 8 << 20;

/// The numbers of `user[:group]`. A user alone brings its own group, a number alone the group of that number.
///
/// # Errors
/// A name that the file system does not know.
pub fn find(root: &dyn FileSource, owner: Option<&str>) -> Result<Option<(u32, u32)>, OpError> {
    let Some(owner) = owner else { return Ok(None) };
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (owner, None),
    };
    let (uid, own_group) = match user.parse() {
        Ok(uid) => (uid, uid),
        Err(_) => user_of(root, user)?,
    };
    let gid = match group {
        None => own_group,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => number_in(root, "etc/group", group, 2)?
                .ok_or_else(|| unknown("group", group, "/etc/group"))?[0],
        },
    };
    Ok(Some((uid, gid)))
}

fn user_of(root: &dyn FileSource, name: &str) -> Result<(u32, u32), OpError> {
    match number_in(root, "etc/passwd", name, 2)?.as_deref() {
        Some([uid, gid, ..]) => Ok((*uid, *gid)),
        Some([uid]) => Ok((*uid, *uid)),
        _ => Err(unknown("user", name, "/etc/passwd")),
    }
}

/// The numbers from field `at` on of the line of this name.
fn number_in(root: &dyn FileSource, file: &str, name: &str, at: usize) -> Result<Option<Vec<u32>>, OpError> {
    let path = resolve(root, Path::new(file), Last::Follow).map_err(OpError::failed)?;
    if root.stat(&path).map_err(OpError::failed)?.is_none() {
        return Ok(None);
    }
    let mut text = Vec::new();
    root.open(&path)
        .map_err(OpError::failed)?
        .take(MOST)
        .read_to_end(&mut text)
        .map_err(|error| OpError::failed(format!("cannot read /{file}: {error}")))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').skip(at).map_while(|field| field.parse().ok()).collect()))
        .map(|numbers: Option<Vec<u32>>| numbers.filter(|numbers| !numbers.is_empty()))
}

fn unknown(what: &str, name: &str, file: &str) -> OpError {
    OpError::failed(format!("there is no {what} `{name}` in {file}; use a number, or add it before"))
}
