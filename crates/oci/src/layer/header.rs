//! The header blocks of one member: ustar, and a PAX header before it for what ustar cannot hold.

use tar::{EntryType, Header};

use super::write::WriteError;
use crate::archive::{Member, MemberKind};
use crate::path::LayerPath;

/// The largest number in a ustar field of 8 bytes: seven octal digits.
const MAX_SMALL: u32 = 0o7_777_777;
/// The largest number in a ustar field of 12 bytes: eleven octal digits, one byte less than 8 GiB.
const MAX_LARGE: u64 = 0o77_777_777_777;

/// The header of a member whose checked name is `path`.
pub(super) fn encode(member: &Member, path: &LayerPath) -> Result<Vec<u8>, WriteError> {
    let unsupported = |reason| WriteError::Unsupported { path: path.clone(), reason };
    let mut pax = Records::default();
    let mut header = Header::new_ustar();
    header.set_mode(member.mode & 0o7777);
    header.set_uid(pax.small("uid", member.uid));
    header.set_gid(pax.small("gid", member.gid));
    header.set_mtime(pax.time(member.mtime).map_err(unsupported)?);
    header.set_size(0);
    header.set_device_major(0).expect("ustar has the field");
    header.set_device_minor(0).expect("ustar has the field");
    header.set_entry_type(kind(&member.kind));
    set_name(&mut header, &mut pax, path, member.kind == MemberKind::Directory);
    match &member.kind {
        MemberKind::File { size, .. } => header.set_size(pax.large("size", *size)),
        MemberKind::Symlink(target) => {
            set_link(&mut header, &mut pax, target).map_err(unsupported)?;
        }
        MemberKind::Hardlink(target) => {
            let reason = "the target of a hard link does not stay inside the root";
            let target = LayerPath::parse(target).map_err(|_| unsupported(reason))?;
            set_link(&mut header, &mut pax, target.as_bytes()).map_err(unsupported)?;
        }
        MemberKind::Char(major, minor) | MemberKind::Block(major, minor) => {
            if *major > MAX_SMALL || *minor > MAX_SMALL {
                return Err(unsupported("its device number is too large"));
            }
            header.set_device_major(*major).expect("ustar has the field");
            header.set_device_minor(*minor).expect("ustar has the field");
        }
        MemberKind::Directory | MemberKind::Fifo => {}
    }
    for (name, value) in &member.xattrs {
        pax.attribute(name, value).map_err(unsupported)?;
    }
    header.set_cksum();
    let mut blocks = pax.blocks();
    blocks.extend_from_slice(header.as_bytes());
    Ok(blocks)
}

fn kind(kind: &MemberKind) -> EntryType {
    match kind {
        MemberKind::File { .. } => EntryType::Regular,
        MemberKind::Directory => EntryType::Directory,
        MemberKind::Symlink(_) => EntryType::Symlink,
        MemberKind::Hardlink(_) => EntryType::Link,
        MemberKind::Char(..) => EntryType::Char,
        MemberKind::Block(..) => EntryType::Block,
        MemberKind::Fifo => EntryType::Fifo,
    }
}

fn set_name(header: &mut Header, pax: &mut Records, path: &LayerPath, directory: bool) {
    let mut name = path.as_bytes().to_vec();
    if path.is_root() {
        name.push(b'.');
    }
    if directory {
        name.push(b'/');
    }
    let ustar = header.as_ustar_mut().expect("made as ustar");
    if let Some((prefix, rest)) = split(&name) {
        ustar.prefix[..prefix.len()].copy_from_slice(prefix);
        ustar.name[..rest.len()].copy_from_slice(rest);
    } else {
        let end = &name[name.len() - 100..];
        ustar.name.copy_from_slice(end);
        pax.add(b"path".to_vec(), &name);
    }
}

/// Prefix and name of a path that fits into ustar's 155 and 100 bytes.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let earliest = name.len() - 101;
    // The slash between the two is not written; neither part may be empty.
    let slash = (earliest..name.len() - 1).find(|at| name[*at] == b'/')?;
    (1..=155).contains(&slash).then(|| (&name[..slash], &name[slash + 1..]))
}

fn set_link(header: &mut Header, pax: &mut Records, target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.contains(&0) {
        return Err("its target is empty or contains a NUL byte");
    }
    let start = &target[..target.len().min(100)];
    header.as_old_mut().linkname[..start.len()].copy_from_slice(start);
    if target.len() > 100 {
        pax.add(b"linkpath".to_vec(), target);
    }
    Ok(())
}

/// Records of a PAX header.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn add(&mut self, name: Vec<u8>, value: &[u8]) {
        self.0.push((name, value.to_vec()));
    }

    /// The number for the ustar field: 0 if the record says it.
    fn small(&mut self, name: &str, number: u32) -> u64 {
        if number <= MAX_SMALL {
            return number.into();
        }
        self.add(name.into(), number.to_string().as_bytes());
        0
    }

    fn large(&mut self, name: &str, number: u64) -> u64 {
        if number <= MAX_LARGE {
            return number;
        }
        self.add(name.into(), number.to_string().as_bytes());
        0
    }

    fn time(&mut self, (seconds, nanos): (i64, u32)) -> Result<u64, &'static str> {
        if nanos >= 1_000_000_000 {
            return Err("its time has a second or more of nanoseconds");
        }
        match u64::try_from(seconds) {
            Ok(seconds) if nanos == 0 && seconds <= MAX_LARGE => Ok(seconds),
            _ => {
                self.add(b"mtime".to_vec(), time(seconds, nanos).as_bytes());
                Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_LARGE).unwrap_or(0))
            }
        }
    }

    fn attribute(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err("the name of an attribute is empty or contains `=` or a NUL byte");
        }
        self.add([b"SCHILY.xattr.", name].concat(), value);
        Ok(())
    }

    /// Header and data of the extension, each filled up to whole blocks; nothing if there are no records.
    fn blocks(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        self.0.sort();
        let data: Vec<u8> = self.0.iter().flat_map(|(name, value)| record(name, value)).collect();
        let mut header = Header::new_ustar();
        let name = b"././@PaxHeader";
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        let mut blocks = header.as_bytes().to_vec();
        blocks.extend(data);
        blocks.resize(blocks.len().next_multiple_of(512), 0);
        blocks
    }
}

/// `<length> <name>=<value>\n`, where the length counts itself.
fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    let length = (rest + digits).to_string();
    [length.as_bytes(), b" ", name, b"=", value, b"\n"].concat()
}

/// Seconds with a fraction. A time before 1970 is written as a sum: -1.25 is 2 seconds back and 0.75 forward.
fn time(seconds: i64, nanos: u32) -> String {
    let text = match (seconds, nanos) {
        (seconds, 0) => return seconds.to_string(),
        (0.., nanos) => format!("{seconds}.{nanos:09}"),
        (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(record(b"a", b"b"), b"6 a=b\n");
        assert_eq!(record(b"a", b"bcdef"), b"11 a=bcdef\n");
        for length in 0..2000 {
            let record = record(b"path", &vec![b'x'; length]);
            let space = record.iter().position(|byte| *byte == b' ').unwrap();
            assert_eq!(String::from_utf8_lossy(&record[..space]), record.len().to_string());
        }
    }

    #[test]
    fn times_before_1970_count_backwards() {
        assert_eq!(time(1, 500_000_000), "1.5");
        assert_eq!(time(-2, 750_000_000), "-1.25");
        assert_eq!(time(-1, 999_999_999), "-0.000000001");
        assert_eq!(time(-3, 0), "-3");
        assert_eq!(time(100, 0), "100");
    }

    #[test]
    fn names_are_split_at_a_slash() {
        let check = |name: &str, expected: Option<(usize, usize)>| {
            let found = split(name.as_bytes()).map(|(prefix, rest)| (prefix.len(), rest.len()));
            assert_eq!(found, expected, "{name}");
        };
        check(&"x".repeat(100), Some((0, 100)));
        check(&"x".repeat(101), None);
        check(&format!("{}/{}", "d".repeat(155), "f".repeat(100)), Some((155, 100)));
        check(&format!("{}/{}", "d".repeat(156), "f".repeat(100)), None);
        check(&format!("{}/{}/", "d".repeat(101), "f".repeat(99)), Some((101, 100)));
        check(&format!("d/{}/", "f".repeat(100)), None);
        check(&format!("/{}", "f".repeat(100)), None);
    }
}
