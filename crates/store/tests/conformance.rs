//! The store's adapters pass the suites of their ports, fresh and from several handles at once.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use quern_core::port::{Blobs, Meta};
use quern_core::{ContentRef, Digest};
use quern_store::{DiskBlobs, OpenOptions, SqliteMeta, Store};
use quern_testkit::{TempSpace, blobs_suite, meta_suite};

/// An adapter with the space it lives in.
struct Kept<T>(
    Arc<T>,
    #[expect(dead_code, reason = "kept alive")] Store,
    #[expect(dead_code, reason = "kept alive")] TempSpace,
);

impl Blobs for Kept<DiskBlobs> {
    fn contains(&self, digest: &Digest) -> Result<bool, quern_core::port::PortError> {
        self.0.contains(digest)
    }
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, quern_core::port::PortError> {
        self.0.get(digest)
    }
    fn open(&self, digest: &Digest) -> Result<Box<dyn std::io::Read + Send>, quern_core::port::PortError> {
        self.0.open(digest)
    }
    fn put(&self, bytes: &[u8]) -> Result<ContentRef, quern_core::port::PortError> {
        self.0.put(bytes)
    }
    fn put_stream(&self, reader: &mut dyn std::io::Read) -> Result<ContentRef, quern_core::port::PortError> {
        self.0.put_stream(reader)
    }
    fn sync(&self) -> Result<(), quern_core::port::PortError> {
        self.0.sync()
    }
}

impl Meta for Kept<SqliteMeta> {
    fn read(
        &self,
        f: &mut dyn FnMut(&dyn quern_core::port::MetaRead) -> Result<(), quern_core::port::PortError>,
    ) -> Result<(), quern_core::port::PortError> {
        self.0.read(f)
    }
    fn write(
        &self,
        f: &mut dyn FnMut(&mut dyn quern_core::port::MetaWrite) -> Result<(), quern_core::port::PortError>,
    ) -> Result<(), quern_core::port::PortError> {
        self.0.write(f)
    }
    fn sync(&self) -> Result<(), quern_core::port::PortError> {
        self.0.sync()
    }
}

fn open(space: &TempSpace) -> Store {
    Store::open(&space.path("state"), &OpenOptions::default()).unwrap()
}

#[test]
fn blobs_conformance() {
    blobs_suite(&|| {
        let space = TempSpace::new();
        let store = open(&space);
        Box::new(Kept(Arc::clone(store.blobs()), store, space))
    });
}

#[test]
fn meta_conformance() {
    meta_suite(&|| {
        let space = TempSpace::new();
        let store = open(&space);
        Box::new(Kept(Arc::clone(store.meta()), store, space))
    });
}
