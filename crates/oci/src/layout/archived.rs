//! Layouts saved as one tar file, as `docker save` and `skopeo copy ... oci-archive:` make them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use crate::archive::{Archive, ArchiveError, MemberKind};
use crate::limits::Limits;
use crate::path::LayerPath;

/// Where the files of an archive start and how long they are. Their bytes are not read. Links are followed if they stay
/// inside; `docker save` makes links for layers that it has twice.
pub(super) fn members(file: &File, limits: &Limits) -> Result<BTreeMap<Vec<u8>, (u64, u64)>, ArchiveError> {
    let mut reader = BufReader::new(file);
    let mut members = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut at = 0;
    loop {
        reader.seek(SeekFrom::Start(at))?;
        // One archive per member: reading starts where the last one ended, without passing over its bytes.
        let mut archive = Archive::new(Counting { source: &mut reader, count: 0 }, limits);
        let Some(member) = archive.next_member()? else { break };
        let start = at + archive.into_inner().count;
        let (size, segments) = match member.kind {
            MemberKind::File { size, segments } => (size, segments),
            other => {
                at = start;
                let target = match other {
                    MemberKind::Symlink(target) => beside(&member.path, &target),
                    MemberKind::Hardlink(target) => Some(target),
                    _ => None,
                };
                if let (Ok(path), Some(target)) = (LayerPath::parse(&member.path), target)
                    && (links.len() as u64) < limits.members
                {
                    links.insert(path.as_bytes().to_vec(), target);
                }
                continue;
            }
        };
        if segments.len() != 1 || members.len() as u64 >= limits.members {
            return Err(ArchiveError::Malformed(
                "an archived layout has too many files, or files with holes",
            ));
        }
        at = start.saturating_add(size).saturating_add((512 - size % 512) % 512);
        if let Ok(path) = LayerPath::parse(&member.path) {
            members.insert(path.as_bytes().to_vec(), (start, size));
        }
    }
    // Once is enough: tools link to files, not to links.
    let followed: Vec<_> = links
        .into_iter()
        .filter_map(|(name, target)| members.get(&target).copied().map(|place| (name, place)))
        .collect();
    for (name, place) in followed {
        members.entry(name).or_insert(place);
    }
    Ok(members)
}

/// Where a link at `path` leads, without `.` and `..`; none if it leaves the archive.
fn beside(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    names.pop();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    names.retain(|name| !matches!(*name, b"" | b"."));
    Some(names.join(&b'/'))
}

struct Counting<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}
