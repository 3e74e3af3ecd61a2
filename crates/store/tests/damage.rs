//! Bytes that rot, files that are cut or lost.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use quern_core::Digest;
use quern_core::port::{Blobs as _, PortError};
use quern_store::{OpenOptions, Store};
use quern_testkit::TempSpace;
use quern_testkit::blobs::noise;

fn open(space: &TempSpace) -> Store {
    Store::open(&space.path("state"), &OpenOptions { loose_from: 10_000, ..OpenOptions::default() }).unwrap()
}

/// Keeps ten blobs of 1000 bytes, one loose one of 50,000, and closes the store.
fn filled(space: &TempSpace) -> Vec<Digest> {
    let store = open(space);
    let mut digests: Vec<_> = (0..10).map(|i| store.blobs().put(&noise(i, 1000)).unwrap().digest).collect();
    digests.push(store.blobs().put(&noise(10, 50_000)).unwrap().digest);
    store.blobs().sync().unwrap();
    digests
}

fn only_pack(space: &TempSpace) -> PathBuf {
    let packs: Vec<_> = fs::read_dir(space.path("state/packs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(packs.len(), 1);
    packs[0].clone()
}

fn forget_index(space: &TempSpace) {
    for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(space.path("state/db").join(file));
    }
}

fn overwrite(path: &PathBuf, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn readable(store: &Store, digests: &[Digest]) -> Vec<bool> {
    digests.iter().map(|digest| store.blobs().get(digest).is_ok()).collect()
}

#[test]
fn rotten_bytes_are_reported() {
    let space = TempSpace::new();
    let digests = filled(&space);
    // The content of the third record, the header of the fifth.
    overwrite(&only_pack(&space), 8 + 2 * 1040 + 500, b"rot");
    overwrite(&only_pack(&space), 8 + 4 * 1040, b"rot");
    let store = open(&space);
    let loose = store.blobs().loose_path(&digests[10]).unwrap();
    overwrite(&loose, 40_000, b"rot");
    for i in [2, 4, 10] {
        let result = store.blobs().get(&digests[i]);
        assert!(matches!(result, Err(PortError::Damaged(digest)) if digest == digests[i]), "{i}");
    }
    let mut bytes = Vec::new();
    let error = store.blobs().open(&digests[10]).unwrap().read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    fs::remove_file(&loose).unwrap();
    assert!(matches!(store.blobs().get(&digests[10]), Err(PortError::Missing(_))));
}

#[test]
fn a_lost_index_is_made_anew_around_the_rot() {
    let space = TempSpace::new();
    let digests = filled(&space);
    overwrite(&only_pack(&space), 8 + 2 * 1040 + 500, b"rot");
    overwrite(&only_pack(&space), 8 + 4 * 1040 + 2, b"rot");
    forget_index(&space);
    let store = open(&space);
    let expected: Vec<_> = (0..11).map(|i| i != 2 && i != 4).collect();
    assert_eq!(readable(&store, &digests), expected);
    // What was lost can be put again.
    for i in [2, 4] {
        assert!(!store.blobs().contains(&digests[i]).unwrap());
        store.blobs().put(&noise(i as u64, 1000)).unwrap();
    }
    store.blobs().sync().unwrap();
    assert_eq!(readable(&open(&space), &digests), [true; 11]);
}

#[test]
fn a_torn_tail_is_cut_off_and_written_over() {
    for cut in [1, 500, 1000, 1001, 1039, 1040, 1041, 10_400] {
        let space = TempSpace::new();
        let digests = filled(&space);
        let pack = only_pack(&space);
        let length = fs::metadata(&pack).unwrap().len();
        File::options().write(true).open(&pack).unwrap().set_len(length - cut).unwrap();
        forget_index(&space);
        let store = open(&space);
        let left = 10 - usize::try_from(cut.div_ceil(1040)).unwrap();
        let expected: Vec<_> = (0..11).map(|i| i < left || i == 10).collect();
        assert_eq!(readable(&store, &digests), expected, "{cut} bytes cut off");
        store.blobs().put(b"the next one").unwrap();
        store.blobs().sync().unwrap();
        assert_eq!(fs::metadata(only_pack(&space)).unwrap().len(), 8 + left as u64 * 1040 + 40 + 12);
        assert_eq!(readable(&open(&space), &digests), expected, "{cut} bytes cut off, one added");
    }
}

#[test]
fn an_index_from_yesterday_is_brought_up_to_date() {
    let space = TempSpace::new();
    let mut digests = filled(&space);
    for suffix in ["", "-wal"] {
        let index = space.path(format!("state/db/index.sqlite{suffix}"));
        fs::copy(index, space.path(format!("yesterday{suffix}"))).unwrap();
    }
    let store = open(&space);
    digests.extend((20..30).map(|i| store.blobs().put(&noise(i, 1000)).unwrap().digest));
    store.blobs().sync().unwrap();
    drop(store);
    forget_index(&space);
    for suffix in ["", "-wal"] {
        let index = space.path(format!("state/db/index.sqlite{suffix}"));
        fs::rename(space.path(format!("yesterday{suffix}")), index).unwrap();
    }
    assert_eq!(readable(&open(&space), &digests), [true; 21]);
}

#[test]
fn a_check_up_finds_damage_and_mends_it() {
    let space = TempSpace::new();
    let digests = filled(&space);
    assert_eq!(open(&space).check_up(false).unwrap().damaged, []);
    overwrite(&only_pack(&space), 8 + 2 * 1040 + 500, b"rot");
    let store = open(&space);
    overwrite(&store.blobs().loose_path(&digests[10]).unwrap(), 40_000, b"rot");
    let found = store.check_up(false).unwrap();
    assert_eq!((found.blobs.count, found.blobs.bytes), (11, 60_000));
    assert_eq!(found.damaged, [digests[2], digests[10]]);
    assert!(store.blobs().contains(&digests[2]).unwrap(), "nothing was mended");
    assert_eq!(store.check_up(true).unwrap(), found);
    assert!(!store.blobs().contains(&digests[2]).unwrap());
    store.blobs().put(&noise(2, 1000)).unwrap();
    store.blobs().put(&noise(10, 50_000)).unwrap();
    store.blobs().sync().unwrap();
    assert_eq!(readable(&open(&space), &digests), [true; 11]);
    assert_eq!(open(&space).check_up(true).unwrap().damaged, []);
}

#[test]
fn a_file_that_is_no_database_is_an_error_with_advice_and_can_be_mended() {
    let space = TempSpace::new();
    let digests = filled(&space);
    forget_index(&space);
    space.write("state/db/index.sqlite", "this is not a database, it is some text".repeat(100));
    let error = open(&space).blobs().get(&digests[0]).unwrap_err().to_string();
    assert!(error.contains("index.sqlite") && error.contains("quern doctor"), "{error}");
    let found = open(&space).check_up(false).unwrap();
    assert_eq!((found.databases.len(), found.index_renewed), (1, false));
    let other = open(&space);
    let error = open(&space).check_up(true).unwrap_err().to_string();
    assert!(error.contains("end the 1 other processes"), "{error}");
    drop(other);
    let found = open(&space).check_up(true).unwrap();
    assert_eq!((found.blobs.count, found.damaged.len(), found.index_renewed), (11, 0, true));
    assert_eq!(readable(&open(&space), &digests), [true; 11]);
}
