//! The canonical bytes of a tree.
use proptest::prelude::*;
use quern_core::{ContentRef, Digest, Entry, Tree};

fn content(bytes: &[u8]) -> ContentRef {
    ContentRef { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

fn file(bytes: &[u8], executable: bool) -> Entry {
    Entry::File { content: content(bytes), executable }
}

#[test]
fn the_empty_tree_is_the_empty_message() {
    assert_eq!(Tree::default().encode(), b"");
    assert_eq!(Tree::default().content_ref(), content(b""));
}

/// The bytes a protobuf library writes for the same `Directory` message.
#[test]
fn bytes_are_those_of_the_remote_execution_message() {
    let tree = Tree::new(vec![
        ("run.sh".into(), file(b"hello", true)),
        ("a".into(), Entry::Link("run.sh".into())),
        ("d".into(), Entry::Dir(Tree::default().content_ref())),
    ])
    .unwrap();
    let hex = |bytes: &[u8]| Digest::of(bytes).hex();
    let mut expected = vec![0x0a, (2 + 6) + (2 + 2 + 64 + 2) + 2, 0x0a, 6];
    expected.extend(b"run.sh");
    expected.extend([0x12, 68, 0x0a, 64]);
    expected.extend(hex(b"hello").bytes());
    expected.extend([0x10, 5, 0x20, 1]);
    expected.extend([0x12, 3 + 2 + 66, 0x0a, 1, b'd', 0x12, 66, 0x0a, 64]);
    expected.extend(hex(b"").bytes());
    expected.extend([0x1a, 3 + 8, 0x0a, 1, b'a', 0x12, 6]);
    expected.extend(b"run.sh");
    assert_eq!(tree.encode(), expected);
}

#[test]
fn bad_names_and_bytes_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert!(Tree::new(vec![(name.into(), file(b"", false))]).is_err(), "{name:?}");
    }
    let twice = vec![("a".to_owned(), file(b"", false)), ("a".to_owned(), Entry::Link("x".into()))];
    assert!(Tree::new(twice).is_err());
    let good =
        Tree::new(vec![("a".into(), file(b"x", false)), ("b".into(), file(b"y", true))]).unwrap().encode();
    for cut in 1..good.len() {
        if let Ok(tree) = Tree::decode(&good[..cut]) {
            assert_eq!(tree.encode(), good[..cut]);
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<(String, Entry)>> {
    let entry = prop_oneof![
        (any::<u64>(), any::<[u8; 32]>(), any::<bool>()).prop_map(|(size, digest, executable)| Entry::File {
            content: ContentRef { digest: Digest::from_bytes(digest), size },
            executable,
        }),
        (any::<u64>(), any::<[u8; 32]>())
            .prop_map(|(size, digest)| Entry::Dir(ContentRef { digest: Digest::from_bytes(digest), size })),
        ".*".prop_map(Entry::Link),
    ];
    prop::collection::btree_map("[a-c é\n]{1,4}", entry, 0..8).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn decode_is_the_inverse_of_encode(entries in entries()) {
        let tree = Tree::new(entries).unwrap();
        prop_assert_eq!(Tree::decode(&tree.encode()), Ok(tree));
    }

    #[test]
    fn what_decodes_was_canonical(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Tree::new(entries).unwrap().encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(tree) = Tree::decode(&bytes) {
                prop_assert_eq!(tree.encode(), bytes);
            }
        }
    }
}
