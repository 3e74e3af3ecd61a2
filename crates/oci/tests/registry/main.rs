//! The client against Debian's registry, with skopeo as the other client, and against a server that lies.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod fake;
mod hostile;
mod keys;
mod real;
mod server;
mod uploads;

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::Blobs;
use quern_core::step::Platform;
use quern_oci::document::{Format, Platform as MadeFor, assemble, assemble_index};
use quern_oci::image::{Layer, Stored};
use quern_oci::layer::{Codec, Compression, Compressor};
use quern_oci::registry::{Options, Problem, RegistryError, TransferError};
use quern_oci::{Descriptor, ImageConfig};
use quern_testkit::MemBlobs;

fn amd64() -> Platform {
    Platform { os: "linux".into(), arch: "amd64".into(), variant: String::new() }
}

fn arm64() -> Platform {
    Platform { os: "linux".into(), arch: "arm64".into(), variant: String::new() }
}

/// Pauses that were asked for; nothing really waits.
type Pauses = Arc<Mutex<Vec<Duration>>>;

fn options() -> (Options, Pauses) {
    let pauses = Pauses::default();
    let noted = Arc::clone(&pauses);
    let sleep = Arc::new(move |pause| noted.lock().unwrap().push(pause));
    (Options { proxies: false, sleep, ..Options::default() }, pauses)
}

/// Bytes that do not compress, so that layers are as large as they look.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn layer(blobs: &MemBlobs, name: &str, content: &[u8]) -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content).unwrap();
    let compression = Compression::new(Codec::Gzip, Some(1), NonZero::<usize>::MIN).unwrap();
    let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
    compressor.write_all(&builder.into_inner().unwrap()).unwrap();
    let (layer, blob) = compressor.finish().unwrap();
    blobs.put(&blob).unwrap();
    layer
}

fn image(blobs: &MemBlobs, platform: &Platform, layers: &[Layer]) -> Descriptor {
    let made = assemble(&ImageConfig::new(MadeFor::of(platform)), layers, Format::Oci, BTreeMap::new());
    blobs.put(&made.config.bytes).unwrap();
    blobs.put(&made.manifest.bytes).unwrap();
    made.manifest.descriptor
}

fn index(blobs: &MemBlobs, manifests: Vec<Descriptor>) -> Descriptor {
    let made = assemble_index(manifests, Format::Oci, BTreeMap::new());
    blobs.put(&made.bytes).unwrap();
    made.descriptor
}

fn stored(blobs: &MemBlobs) -> Stored<'_> {
    Stored { blobs, document_limit: 4 << 20 }
}

fn digest_of(blobs: &MemBlobs, descriptor: &Descriptor) -> Digest {
    Digest::of(&blobs.get(&descriptor.digest).unwrap())
}

fn problem(error: &RegistryError) -> &Problem {
    error.problem().unwrap_or_else(|| panic!("{error}"))
}

fn transfer_problem(error: &TransferError) -> &Problem {
    match error {
        TransferError::Registry(error) => problem(error),
        error => panic!("{error}"),
    }
}
