//! What is on disk when: files before the record that names them, and records of known formats only.

use std::io::Read;
use std::sync::Mutex;

use quern_catalog::{Branch, Catalog, Commit, Literal, PutOptions, Repo};
use quern_core::port::{Blobs, Meta, MetaRead, MetaWrite, PortError};
use quern_core::{ContentRef, Digest};

use crate::shop::{Shop, path};

/// Blobs and metadata that write down what is done to them.
struct Witness<'a> {
    shop: &'a Shop,
    log: Mutex<Vec<&'static str>>,
}

impl Witness<'_> {
    fn note(&self, what: &'static str) {
        let mut log = self.log.lock().unwrap();
        if log.last() != Some(&what) {
            log.push(what);
        }
    }
}

impl Blobs for Witness<'_> {
    fn contains(&self, digest: &Digest) -> Result<bool, PortError> {
        self.shop.blobs.contains(digest)
    }
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, PortError> {
        self.shop.blobs.get(digest)
    }
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, PortError> {
        self.shop.blobs.open(digest)
    }
    fn put(&self, bytes: &[u8]) -> Result<ContentRef, PortError> {
        self.note("blob");
        self.shop.blobs.put(bytes)
    }
    fn put_stream(&self, reader: &mut dyn Read) -> Result<ContentRef, PortError> {
        self.note("blob");
        self.shop.blobs.put_stream(reader)
    }
    fn sync(&self) -> Result<(), PortError> {
        self.note("sync");
        Ok(())
    }
}

impl Meta for Witness<'_> {
    fn read(&self, f: &mut dyn FnMut(&dyn MetaRead) -> Result<(), PortError>) -> Result<(), PortError> {
        self.shop.meta.read(f)
    }
    fn write(&self, f: &mut dyn FnMut(&mut dyn MetaWrite) -> Result<(), PortError>) -> Result<(), PortError> {
        self.note("record");
        self.shop.meta.write(f)
    }
    fn sync(&self) -> Result<(), PortError> {
        self.note("records durable");
        Ok(())
    }
}

#[test]
fn files_are_durable_before_the_one_transaction_that_names_them() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[("/d/a", "1"), ("/e", "2")]);
    let witness = Witness { shop: &shop, log: Mutex::default() };
    let catalog = Catalog::new(&witness, &witness, &shop.clock, &shop.ids);
    let sources = [(path("/d/a"), shop.file("3"))];
    catalog.put(&shop.at("r@b"), &sources, &PutOptions::default()).unwrap();
    catalog.delete_files(&shop.at("r@b"), &Literal::new(&path("/e")), "").unwrap();
    assert_eq!(*witness.log.lock().unwrap(), ["blob", "sync", "record", "blob", "sync", "record"]);
}

#[test]
fn stored_records_stay_readable() {
    let repo = r#"{"version":1,"name":"r","description":"d","created":5,"last_number":2}"#;
    let branch =
        r#"{"version":1,"branch":"r@b","head":"00000000000000000000000000000001","provenance":["s@m"]}"#;
    let commit = r#"{"version":1,"id":"00000000000000000000000000000002","repo":"r","branch":"b","number":2,
        "parent":null,"tree":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "size":0},"size":0,"started":5,"finished":6,"description":"","origin":"auto",
        "provenance":["00000000000000000000000000000003"],"state":"failed",
        "job":"00000000000000000000000000000004"}"#;
    fn check<T: serde::Serialize + serde::de::DeserializeOwned>(text: &str) {
        let record: T = serde_json::from_str(text).unwrap();
        let again: serde_json::Value = serde_json::to_value(&record).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).unwrap());
        let newer = text.replacen(r#""version":1"#, r#""version":2"#, 1);
        let error = serde_json::from_str::<T>(&newer).err().unwrap().to_string();
        assert!(error.contains("format 2"), "{error}");
    }
    check::<Repo>(repo);
    check::<Branch>(branch);
    check::<Commit>(commit);
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let shop = Shop::with_repo("r");
    let damage = |meta: &mut dyn MetaWrite| meta.put(quern_core::port::Table("repos"), "r", "{}");
    shop.meta.write(&mut |meta| damage(meta)).unwrap();
    let error = shop.catalog().read(|v| v.repo(&"r".parse().unwrap())).unwrap_err();
    assert!(error.to_string().starts_with("record `r` of table repos cannot be read"), "{error}");
}
