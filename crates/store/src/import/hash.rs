//! Third pass: the files whose content is not known are read into the store.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use quern_core::ContentRef;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::list::Folder;
use super::stamp::{self, Seen, Stamp};
use super::survey::Found;
use super::{Failure, Flaw, FlawReason, ImportError, Kind, Output, Scene};
use crate::workspace::beneath::{self, Through};
use crate::workspace::spread::{SERIAL, spread};

/// Files up to this size are held in memory while they are stored.
const WHOLE: u64 = 1 << 20;
/// A file larger than this with less than one in so many bytes stored is refused.
const VERY_SPARSE: (u64, u64) = (1 << 30, 16);
/// How often a file that changes under our hands is read again.
const ATTEMPTS: usize = 3;

/// How much was read.
pub(super) struct Hashed {
    pub files: u64,
    pub bytes: u64,
}

struct Job {
    folder: usize,
    /// Index in [`Folder::found`].
    found: usize,
    path: String,
    linked: bool,
}

struct Taken {
    content: ContentRef,
    stamp: Stamp,
    executable: bool,
}

/// Reads every file without content in [`Folder::found`], and fills it in.
pub(super) fn hash(scene: &Scene<'_>, folders: &mut [Folder<'_>]) -> Result<Hashed, ImportError> {
    let jobs = jobs(folders);
    let grain = if jobs.len() < 16 { SERIAL } else { 8 };
    let taken = super::all_or_flaws(spread(&jobs, grain, |job| take(scene, job)))?;
    let mut hashed = Hashed { files: 0, bytes: 0 };
    for (job, taken) in jobs.iter().zip(taken) {
        hashed.files += 1;
        hashed.bytes += taken.content.size;
        let Taken { content, stamp, executable } = taken;
        let found = Found::File { stamp, executable, linked: job.linked, content: Some(content) };
        folders[job.folder].found[job.found].1 = found;
    }
    Ok(hashed)
}

fn jobs(folders: &[Folder<'_>]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (index, folder) in folders.iter().enumerate() {
        for (found, (position, what)) in folder.found.iter().enumerate() {
            if let Found::File { linked, content: None, .. } = what {
                let name = folder.name(*position).text;
                let path = folder.path.as_str();
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                jobs.push(Job { folder: index, found, path, linked: *linked });
            }
        }
    }
    jobs
}

/// Stores one file; what is stored is what the file held at one instant, or it is an error.
fn take(scene: &Scene<'_>, job: &Job) -> Result<Taken, Failure> {
    let failed = |error: io::Error| Flaw::io(&job.path, error);
    let mut file = open(scene, job).map_err(|e| failed(e.into()))?;
    for _ in 0..ATTEMPTS {
        let before = stamp::look_at(&file).map_err(|e| failed(e.into()))?;
        if before.kind != Kind::File {
            return Err(Flaw::new(&job.path, FlawReason::Changing).into());
        }
        if let Some(output) = scene.output.as_ref().filter(|_| before.stamp.size > WHOLE)
            && let Some(content) = adopt(output, job, &file)?
        {
            let Seen { stamp, executable, .. } = before;
            return Ok(Taken { content, stamp, executable });
        }
        let content = match read_whole(&mut file, before.stamp.size).map_err(failed)? {
            Some(bytes) => scene.blobs.put(&bytes)?,
            None => scene.blobs.put_stream(&mut file)?,
        };
        let after = stamp::look_at(&file).map_err(|e| failed(e.into()))?;
        if after == before && content.size == before.stamp.size {
            return Ok(Taken { content, stamp: before.stamp, executable: before.executable });
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
    }
    Err(Flaw::new(&job.path, FlawReason::Changing).into())
}

/// Takes a large file of an output over as it is; none if it has to be copied.
///
/// Only a file of our own: another owner could still write to it. A sparse file is tiny on disk and endless to read, so a
/// very sparse one is refused before it is read.
fn adopt(output: &Output<'_>, job: &Job, file: &File) -> Result<Option<ContentRef>, Failure> {
    let failed = |error: Errno| Flaw::io(&job.path, error);
    let found = rustix::fs::fstat(file).map_err(failed)?;
    let (size, stored) = (found.st_size as u64, found.st_blocks as u64 * 512);
    if size > VERY_SPARSE.0 && size / VERY_SPARSE.1 > stored {
        return Err(Flaw::new(&job.path, FlawReason::Sparse { size, stored }).into());
    }
    if let Some(large) = output.large
        && found.st_uid == rustix::process::geteuid().as_raw()
    {
        return Ok(Some(large.adopt(&output.path.join(&job.path))?));
    }
    let space = rustix::fs::fstatvfs(file).map_err(failed)?;
    let free = space.f_bavail * space.f_frsize;
    if size > free {
        return Err(Flaw::new(&job.path, FlawReason::NoRoom { size, free }).into());
    }
    Ok(None)
}

/// All bytes of a small file, none for a larger one.
fn read_whole(file: &mut File, size: u64) -> io::Result<Option<Vec<u8>>> {
    if size > WHOLE {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(size as usize + 1);
    file.take(WHOLE).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn open(scene: &Scene<'_>, job: &Job) -> Result<File, Errno> {
    let through = if job.linked { Through::Links } else { Through::NoLinks };
    // A pipe put in the place of the file must not make us wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match beneath::open(scene.root, &job.path, through, flags) {
        Err(Errno::ACCESS) if scene.output.is_some() => {
            beneath::unlock(scene.root, &job.path)?;
            beneath::open(scene.root, &job.path, through, flags)
        }
        result => result,
    };
    file.map(File::from)
}
