use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, ArchiveError> {
    let limits = Limits { extension: 10_000, members: 100, ..Limits::default() };
    let mut archive = Archive::new(bytes, &limits);
    let mut members = Vec::new();
    while let Some(member) = archive.next_member()? {
        let mut content = Vec::new();
        archive.content().read_to_end(&mut content)?;
        members.push((member, content));
    }
    Ok(members)
}

#[test]
fn long_names_in_both_formats() {
    let long = "d/".repeat(90) + "file";
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(EntryType::Regular, 2), &long, b"gn".as_slice()).unwrap();
    builder.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5"), ("uid", b"70000")]).unwrap();
    builder.append_data(&mut header(EntryType::Regular, 3), "short", b"pax".as_slice()).unwrap();
    builder.append_link(&mut header(EntryType::Symlink, 0), "link", &long).unwrap();
    let members = read(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(members[0].0.path, long.as_bytes());
    assert_eq!((members[1].0.path.as_slice(), members[1].1.as_slice()), (long.as_bytes(), b"pax".as_slice()));
    assert_eq!((members[1].0.mtime, members[1].0.uid), ((1, 500_000_000), 70_000));
    assert_eq!(members[2].0.kind, MemberKind::Symlink(long.into_bytes()));
}

/// What the GNU program writes about a file with holes, this reads; both forms.
#[test]
fn holes_as_gnu_tar_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("holes")).unwrap();
    let mut expected = vec![0; 3 << 20];
    for at in (1..=10).map(|i| i * 200_000) {
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"data", at as u64).unwrap();
        expected[at..at + 4].copy_from_slice(b"data");
    }
    file.set_len(expected.len() as u64).unwrap();
    file.flush().unwrap();
    for format in ["gnu", "pax"] {
        let run = Command::new("tar")
            .args(["--sparse", "--format", format, "-cf", "-", "-C"])
            .arg(folder.path())
            .arg("holes")
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let members = read(&run.stdout).unwrap();
        let (member, data) = &members[0];
        assert_eq!(member.path, b"holes", "{format}");
        let MemberKind::File { size, segments } = &member.kind else { panic!("{member:?}") };
        assert!(segments.len() >= 10, "{format}: the file system under the test keeps no holes");
        let (mut found, mut at) = (vec![0; usize::try_from(*size).unwrap()], 0);
        for segment in segments {
            let (offset, length) = (segment.offset as usize, segment.length as usize);
            found[offset..offset + length].copy_from_slice(&data[at..at + length]);
            at += length;
        }
        assert!(found == expected, "{format}");
    }
}

#[test]
fn numbers_in_headers() {
    let check = |field: &[u8], expected: Option<u64>| assert_eq!(number(field).ok(), expected, "{field:?}");
    check(b"0000644\0", Some(0o644));
    check(b"   644 \0", Some(0o644));
    check(b"\0\0\0\0\0\0\0\0", Some(0));
    check(b"00000008", None);
    check(b"-0000001", None);
    check(&[0x80, 0, 0, 0, 0, 0, 1, 2], Some(258));
    check(&[0xff; 12], Some(u64::MAX));
    check(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let refused = |build: &dyn Fn(&mut Builder<Vec<u8>>), reason: &str| {
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        let error = read(&builder.into_inner().unwrap()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    };
    let long = |builder: &mut Builder<Vec<u8>>, kind: EntryType| {
        let mut header = header(kind, 4);
        header.set_cksum();
        builder.append(&header, b"name".as_slice()).unwrap();
    };
    refused(&|b| (0..2).for_each(|_| long(b, EntryType::GNULongName)), "two extension headers");
    refused(&|b| long(b, EntryType::GNULongName), "ends after an extension header");
    refused(
        &|b| {
            long(b, EntryType::GNULongName);
            b.append_pax_extensions([("path", b"other".as_slice())]).unwrap();
            b.append_data(&mut header(EntryType::Regular, 0), "x", io::empty()).unwrap();
        },
        "in two formats",
    );
    refused(
        &|b| {
            let mut header = header(EntryType::GNULongName, 20_000);
            header.set_cksum();
            b.append(&header, vec![b'x'; 20_000].as_slice()).unwrap();
        },
        "more bytes of long names",
    );
    refused(&|b| b.append_data(&mut header(EntryType::new(b'M'), 0), "x", io::empty()).unwrap(), "type `M`");
    refused(
        &|b| (0..101).for_each(|_| b.append_data(&mut header(EntryType::Fifo, 0), "x", io::empty()).unwrap()),
        "more members",
    );
    refused(
        &|b| {
            b.append_pax_extensions([("size", b"18446744073709551615".as_slice())]).unwrap();
            b.append_data(&mut header(EntryType::Regular, 0), "x", io::empty()).unwrap();
        },
        "truncated",
    );
}

fn sample() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(EntryType::Directory, 0), "dir/", io::empty()).unwrap();
    builder.append_pax_extensions([("SCHILY.xattr.user.x", b"1".as_slice()), ("mtime", b"5")]).unwrap();
    builder.append_data(&mut header(EntryType::Regular, 700), "dir/file", [7; 700].as_slice()).unwrap();
    builder.append_link(&mut header(EntryType::Link, 0), "dir/link", "dir/file").unwrap();
    builder.into_inner().unwrap()
}

proptest! {
    #[test]
    fn damaged_archives_end_in_an_error_or_a_list(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 0..20),
        cut in 0usize..5000,
    ) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
            // Keep the checksum of the header valid half of the time, to get past it.
            if byte % 2 == 0 {
                let start = at / 512 * 512;
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
                header.set_cksum();
                bytes[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        bytes.truncate(cut);
        if let Ok(members) = read(&bytes) {
            prop_assert!(members.len() <= 100);
        }
    }
}
