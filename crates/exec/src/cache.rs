//! Cache mounts: who may use a cache now, and what a new one holds.
//!
//! The directory of a cache has `data`, which steps see, and `lock`, which they do not. Whoever uses the data holds the lock
//! (`flock`): shared with others, or alone. It is gone with its holder, so no crash leaves it behind, and whoever gets
//! it alone without waiting may remove the cache. Further copies, for steps that want one each at the
//! same time, are `data.1` with `lock.1` and so on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::{Cancel, PortError, Workspace};
use quern_core::step::{Mount, Sharing, Step};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::refusal::ExecError;

/// How often somebody looks whether a lock is free; the kernel cannot be asked to wait for it and for a cancellation.
const TICK: Duration = Duration::from_millis(20);
const DEFAULT_MODE: u32 = 0o755;
/// More copies of one cache mean that something is wrong.
const MOST_COPIES: usize = 1000;

/// The caches of one step, held until this is dropped.
pub(crate) struct Caches(BTreeMap<String, Held>);

/// One cache.
pub(crate) struct Held {
    /// What the step sees.
    pub data: PathBuf,
    /// Whether it is yet to be made, from a snapshot.
    pub is_new: bool,
    _lock: File,
}

impl Caches {
    /// Waits for the caches of a step; none if it was cancelled meanwhile.
    ///
    /// Always in the same order, so that two steps never wait for each other.
    pub fn hold(step: &Step, workspace: &dyn Workspace, cancel: &Cancel) -> Result<Option<Self>, ExecError> {
        let mut wishes: BTreeMap<String, (&Mount, Sharing)> = BTreeMap::new();
        for mount in &step.mounts {
            if let Mount::Cache { sharing, .. } = mount {
                let wish = wishes.entry(name(mount)).or_insert((mount, *sharing));
                wish.1 = stricter(wish.1, *sharing);
            }
        }
        let mut held = BTreeMap::new();
        for (name, (mount, sharing)) in wishes {
            let dir = workspace.cache_dir(&name)?;
            let one = hold_one(&dir, mount, sharing, cancel);
            let Some(one) = one.map_err(|error| PortError::io(format!("using the cache `{name}`"), error))?
            else {
                return Ok(None);
            };
            held.insert(name, one);
        }
        Ok(Some(Self(held)))
    }

    /// What was got for a cache mount of the step.
    pub fn of(&self, mount: &Mount) -> &Held {
        &self.0[&name(mount)]
    }
}

/// The name of a cache's directory. What a cache holds at first is a part of what it is.
fn name(mount: &Mount) -> String {
    let Mount::Cache { id, seed, owner, mode, .. } = mount else {
        unreachable!("only caches have such names")
    };
    let mode = mode.filter(|mode| *mode != DEFAULT_MODE);
    let owner = owner.filter(|owner| *owner != (0, 0));
    if (seed, owner, mode) == (&None, None, None) {
        return id.clone();
    }
    let start = Digest::of(format!("{seed:?} {owner:?} {mode:?}").as_bytes()).hex();
    format!("{id}-{}", &start[..12])
}

fn stricter(one: Sharing, other: Sharing) -> Sharing {
    match (one, other) {
        (Sharing::Locked, _) | (_, Sharing::Locked) => Sharing::Locked,
        (Sharing::Private, _) | (_, Sharing::Private) => Sharing::Private,
        (Sharing::Shared, Sharing::Shared) => Sharing::Shared,
    }
}

fn hold_one(dir: &Path, mount: &Mount, sharing: Sharing, cancel: &Cancel) -> io::Result<Option<Held>> {
    if sharing == Sharing::Private {
        for number in 0..MOST_COPIES {
            let end = if number == 0 { String::new() } else { format!(".{number}") };
            let (data, lock) = (dir.join(format!("data{end}")), open_lock(&dir.join(format!("lock{end}")))?);
            if try_lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
                let is_new = is_yet_to_be_made(&data, mount)?;
                return Ok(Some(Held { data, is_new, _lock: lock }));
            }
        }
        return Err(io::Error::other("too many steps use it at once"));
    }
    let (data, lock) = (dir.join("data"), open_lock(&dir.join("lock"))?);
    let mut alone = false;
    while sharing == Sharing::Shared && !alone {
        if !wait(&lock, FlockOperation::NonBlockingLockShared, cancel)? {
            return Ok(None);
        }
        if data.exists() {
            return Ok(Some(Held { data, is_new: false, _lock: lock }));
        }
        flock(&lock, FlockOperation::Unlock)?;
        // Not waited for: whoever is faster makes the cache, and shares it then for as long as its step takes.
        alone = try_lock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    }
    if !alone && !wait(&lock, FlockOperation::NonBlockingLockExclusive, cancel)? {
        return Ok(None);
    }
    let is_new = is_yet_to_be_made(&data, mount)?;
    if sharing == Sharing::Shared && !is_new && !wait(&lock, FlockOperation::NonBlockingLockShared, cancel)? {
        return Ok(None);
    }
    Ok(Some(Held { data, is_new, _lock: lock }))
}

/// Makes a cache that starts empty; one that starts with files is made in the sandbox, where snapshots can be mounted.
fn is_yet_to_be_made(data: &Path, mount: &Mount) -> io::Result<bool> {
    let Mount::Cache { seed, owner, mode, .. } = mount else { return Ok(false) };
    if data.exists() || seed.is_some() {
        return Ok(!data.exists());
    }
    let new = with_end(data, ".new");
    match fs::create_dir(&new) {
        // Left by somebody who was killed here; nothing was in it yet.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if let Some((user, group)) = owner.filter(|owner| *owner != (0, 0)) {
        chown(&new, Some(user), Some(group))?;
    }
    fs::set_permissions(&new, fs::Permissions::from_mode(mode.unwrap_or(DEFAULT_MODE) & 0o7777))?;
    fs::rename(&new, data)?;
    Ok(false)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn wait(lock: &File, operation: FlockOperation, cancel: &Cancel) -> io::Result<bool> {
    while !try_lock(lock, operation)? {
        if cancel.is_set() {
            return Ok(false);
        }
        std::thread::sleep(TICK);
    }
    Ok(true)
}

fn try_lock(lock: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(lock, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::name;
    use quern_core::Digest;
    use quern_core::step::{Mount, Sharing};

    fn cache(seed: Option<&str>, owner: Option<(u32, u32)>, mode: Option<u32>) -> Mount {
        let seed = seed.map(|path| (Digest::of(b"s"), path.to_owned()));
        let (target, id) = ("/c".into(), "id".into());
        Mount::Cache { target, id, sharing: Sharing::Locked, seed, owner, mode, read_only: false }
    }

    #[test]
    fn what_a_cache_holds_at_first_is_a_part_of_its_name() {
        for plain in [cache(None, None, None), cache(None, Some((0, 0)), Some(0o755))] {
            assert_eq!(name(&plain), "id");
        }
        let others = [
            cache(Some("/"), None, None),
            cache(Some("/a"), None, None),
            cache(None, Some((1, 0)), None),
            cache(None, None, Some(0o700)),
        ];
        let mut names: Vec<_> = others.iter().map(name).collect();
        assert!(names.iter().all(|name| name.starts_with("id-") && name.len() == 15), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len());
    }
}
