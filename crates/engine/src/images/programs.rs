//! Versions of programs, asked for once and remembered until the program's file changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quern_core::DigestWriter;
use quern_core::port::PortError;
use serde::{Deserialize, Serialize};

use super::host::PATH;
use super::write_whole;

/// A program and how to ask it for its version.
pub(super) type Program = (&'static str, &'static str);

/// What is remembered of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
    version: String,
}

/// No program needs longer to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Name and version of those of the programs that are found in [`PATH`].
pub(super) fn versions(
    programs: &[Program],
    memory: &Path,
) -> Result<Vec<(&'static str, String)>, PortError> {
    // A damaged memory is an empty one: it is written anew.
    let known: BTreeMap<PathBuf, Remembered> =
        fs::read(memory).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut now = BTreeMap::new();
    let mut versions = Vec::new();
    for (name, argument) in programs {
        let Some((path, meta)) = find(name) else { continue };
        let same = |old: &&Remembered| {
            (old.inode, old.size, old.seconds, old.nanoseconds)
                == (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
        };
        let version = match known.get(&path).filter(same) {
            Some(old) => old.version.clone(),
            None => ask(&path, argument).map_err(|error| {
                PortError::io(format!("asking {} for its version", path.display()), error)
            })?,
        };
        versions.push((*name, version.clone()));
        let (inode, size, seconds, nanoseconds) = (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        now.insert(path, Remembered { inode, size, seconds, nanoseconds, version });
    }
    if now != known {
        let text = serde_json::to_vec_pretty(&now).expect("paths of the system are text");
        write_whole(memory, &text)?;
    }
    Ok(versions)
}

/// The first program of that name in [`PATH`], links followed.
pub(super) fn find(name: &str) -> Option<(PathBuf, fs::Metadata)> {
    PATH.split(':').find_map(|folder| {
        let path = Path::new(folder).join(name);
        let meta = fs::metadata(&path).ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some((path, meta))
    })
}

/// The first line a program says about its version; the digest of its file if it says none.
fn ask(path: &Path, argument: &str) -> io::Result<String> {
    match first_line(path, argument) {
        Some(line) => Ok(line),
        None => {
            let mut digest = DigestWriter::new();
            io::copy(&mut File::open(path)?, &mut digest)?;
            Ok(digest.finish().to_string())
        }
    }
}

fn first_line(path: &Path, argument: &str) -> Option<String> {
    let mut child = Command::new(path)
        .arg(argument)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break Some(status),
            None if start.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let Some(status) = status else {
        // It is ended and forgotten; that it could not be ended would change nothing here.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    };
    let mut text = Vec::new();
    child.stdout.take()?.take(4096).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    status.success().then(|| line.to_owned())
}
