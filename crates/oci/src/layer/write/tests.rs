use std::num::NonZero;

use super::*;
use crate::archive::Archive;
use crate::layer::Codec;
use crate::limits::Limits;

fn plain() -> Compression {
    Compression::new(Codec::None, None, NonZero::<usize>::MIN).unwrap()
}

fn member(path: &[u8], kind: MemberKind) -> Member {
    Member { path: path.to_vec(), kind, mode: 0o644, uid: 0, gid: 0, mtime: (1, 0), xattrs: Vec::new() }
}

fn file(size: u64) -> MemberKind {
    let segments = if size == 0 { Vec::new() } else { vec![Segment { offset: 0, length: size }] };
    MemberKind::File { size, segments }
}

fn write(members: &[(Member, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), plain()).unwrap();
    for (member, content) in members {
        writer.append(member, *content).unwrap();
    }
    writer.finish().unwrap().1
}

/// What is written reads as it was, except that names are normalised and holes are zeros.
#[test]
fn members_of_every_kind_and_size_of_field() {
    let long = b"long/".repeat(60);
    let mut odd = member(b"odd\xff\n=", file(5));
    (odd.uid, odd.gid, odd.mtime, odd.mode) = (3_000_000, u32::MAX - 1, (-2, 750_000_000), 0o6755);
    odd.xattrs =
        vec![(b"user.z".to_vec(), b"a\nb=c\0".to_vec()), (b"security.capability".to_vec(), vec![1, 0, 0, 2])];
    let mut late = member(b"late", MemberKind::Fifo);
    late.mtime = (1 << 40, 1);
    let members = [
        (member(b"", MemberKind::Directory), b"".as_slice()),
        (member(&long, MemberKind::Directory), b""),
        (odd, b"hello"),
        (member(b"link", MemberKind::Symlink(b"/t".repeat(80))), b""),
        (member(b"same", MemberKind::Hardlink(b"odd\xff\n=".to_vec())), b""),
        (member(b"same2", MemberKind::Hardlink([long.as_slice(), b"x"].concat())), b""),
        (member(b"char", MemberKind::Char(4095, 1_048_575)), b""),
        (member(b"block", MemberKind::Block(8, 0)), b""),
        (late, b""),
        (member(b"empty", file(0)), b""),
    ];
    let archive = write(&members);
    assert_eq!(archive.len() % 512, 0);
    let mut reader = Archive::new(archive.as_slice(), &Limits::default());
    for (member, content) in &members {
        let mut found = reader.next_member().unwrap().expect("as many members");
        let mut bytes = Vec::new();
        reader.content().read_to_end(&mut bytes).unwrap();
        let mut expected = member.clone();
        expected.xattrs.sort();
        found.path = LayerPath::parse(&found.path).unwrap().as_bytes().to_vec();
        expected.path = LayerPath::parse(&expected.path).unwrap().as_bytes().to_vec();
        if let MemberKind::File { size: 0, segments } = &mut found.kind {
            segments.clear();
        }
        assert_eq!((found, bytes.as_slice()), (expected, *content));
    }
    assert_eq!(reader.next_member().unwrap(), None);
}

/// A header of ustar alone where it suffices: 512 bytes and no more.
#[test]
fn an_extension_only_where_it_is_needed() {
    let blocks = |member: Member| write(&[(member, b"")]).len() / 512 - 2;
    assert_eq!(blocks(member(b"plain", file(0))), 1);
    assert_eq!(blocks(member(&[b"d".repeat(150), b"/".to_vec(), b"f".repeat(99)].concat(), file(0))), 1);
    assert_eq!(blocks(member(&b"f".repeat(101), file(0))), 3);
    let mut fraction = member(b"plain", file(0));
    fraction.mtime.1 = 1;
    assert_eq!(blocks(fraction), 3);
}

#[test]
fn a_file_larger_than_ustar_can_say() {
    // 9 GiB with one byte of data in the middle; nothing but a hash is kept of it.
    let size = 9 << 30;
    let kind = MemberKind::File { size, segments: vec![Segment { offset: 5 << 30, length: 1 }] };
    let mut header =
        header::encode(&member(b"big", kind.clone()), &LayerPath::parse(b"big").unwrap()).unwrap();
    assert_eq!(header.len(), 3 * 512);
    assert!(header[512..].starts_with(b"19 size=9663676416\n"));
    header.truncate(3 * 512);
    let member = Archive::new(header.as_slice(), &Limits::default()).next_member().unwrap().unwrap();
    assert_eq!(member.kind, file(size));
}

#[test]
fn holes_are_written_as_zeros() {
    let segments = vec![Segment { offset: 1000, length: 3 }, Segment { offset: 300_000, length: 2 }];
    let kind = MemberKind::File { size: 400_000, segments };
    let mut whole = vec![0; 400_000];
    whole[1000..1003].copy_from_slice(b"abc");
    whole[300_000..300_002].copy_from_slice(b"de");
    assert!(write(&[(member(b"f", kind), b"abcde")]) == write(&[(member(b"f", file(400_000)), &whole)]));
}

#[test]
fn whiteouts_are_empty_files_with_a_mark() {
    let mut writer = LayerWriter::new(Vec::new(), plain()).unwrap();
    writer.append(&member(b"d", MemberKind::Directory), io::empty()).unwrap();
    writer.opaque(&LayerPath::parse(b"d").unwrap()).unwrap();
    writer.whiteout(&LayerPath::parse(b"d/gone").unwrap()).unwrap();
    let (_, bytes) = writer.finish().unwrap();
    let mut reader = Archive::new(bytes.as_slice(), &Limits::default());
    let names: Vec<_> =
        std::iter::from_fn(|| reader.next_member().unwrap()).map(|member| member.path).collect();
    assert_eq!(names, [b"d/".to_vec(), b"d/.wh..wh..opq".to_vec(), b"d/.wh.gone".to_vec()]);
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let refused = |member: &Member, content: &[u8], reason: &str| {
        let mut writer = LayerWriter::new(Vec::new(), plain()).unwrap();
        let error = writer.append(member, content).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(&member(b"../x", file(0)), b"", "contains `..`");
    refused(&member(b"a\0b", file(0)), b"", "NUL");
    refused(&member(b"/", file(0)), b"", "is the root");
    refused(&member(b"a/.wh.b", file(0)), b"", "mean deleted files");
    refused(&member(b".wh..wh..opq/x", file(0)), b"", "mean deleted files");
    refused(&member(b"f", file(3)), b"ab", "fewer than 3 bytes; it changed");
    refused(&member(b"f", file(3)), b"abcd", "more than 3 bytes; it changed");
    refused(&member(b"l", MemberKind::Symlink(Vec::new())), b"", "target is empty");
    refused(&member(b"l", MemberKind::Hardlink(b"../x".to_vec())), b"", "does not stay inside");
    refused(&member(b"c", MemberKind::Char(u32::MAX, 0)), b"", "device number");
    let overlapping = vec![Segment { offset: 0, length: 2 }, Segment { offset: 1, length: 2 }];
    refused(&member(b"f", MemberKind::File { size: 9, segments: overlapping }), b"abcd", "map of holes");
    let beyond = vec![Segment { offset: 8, length: 2 }];
    refused(&member(b"f", MemberKind::File { size: 9, segments: beyond }), b"ab", "map of holes");
    let mut attribute = member(b"f", file(0));
    attribute.xattrs.push((b"user.a=b".to_vec(), Vec::new()));
    refused(&attribute, b"", "attribute");
}
