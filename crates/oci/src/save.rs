//! Images as one archive, for `docker load`, `skopeo copy oci-archive:` and other readers: OCI's layout in a tar file, for
//! Docker with the list `manifest.json` beside it. Equal images give equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use quern_core::Digest;
use quern_core::step::Platform;
use serde::Serialize;

use crate::archive::{Member, MemberKind, Segment};
use crate::document::{CONTAINERD_NAME, Descriptor, Format, REF_NAME, assemble_index};
use crate::image::{Source, choose, contents};
use crate::layer::{TarWriter, WriteError};
use crate::limits::Limits;
use crate::reference::Reference;

/// For whom an archive is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archived {
    /// Readers of OCI's layout.
    Oci,
    /// `docker load`, too, which takes one platform of each image.
    Docker(Platform),
}

/// An image to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names it shall have there; without any it can be found by digest only.
    pub names: Vec<Reference>,
    /// Its manifest or index.
    pub root: Descriptor,
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError<E: std::error::Error> {
    /// They could not be read.
    #[error(transparent)]
    Source(E),
    /// The archive could not be written, or a blob not be read to its end.
    #[error("saving the image: {0}")]
    Write(#[from] WriteError),
}

/// The two lists that Docker reads: images with their layers, and the topmost layer of each tag.
struct DockerLists {
    manifest: Vec<u8>,
    repositories: Vec<u8>,
}

/// One image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes images and everything they consist of; a blob that several share is there once.
///
/// # Errors
/// [`SaveError`].
pub fn save<S: Source, W: Write>(
    source: &S,
    entries: &[Entry],
    kind: &Archived,
    out: W,
    limits: &Limits,
) -> Result<W, SaveError<S::Error>> {
    let mut archive = TarWriter::new(out);
    write(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = assemble_index(entries.iter().flat_map(named).collect(), Format::Oci, BTreeMap::new());
    write(&mut archive, "index.json", &index.bytes)?;
    if let Archived::Docker(platform) = kind {
        let lists = docker(source, entries, platform, limits)?;
        write(&mut archive, "manifest.json", &lists.manifest)?;
        write(&mut archive, "repositories", &lists.repositories)?;
    }
    let mut blobs = BTreeMap::new();
    let mut documents = BTreeMap::new();
    for entry in entries {
        let found = contents(source, &entry.root, limits).map_err(SaveError::Source)?;
        blobs.extend(found.blobs.into_iter().map(|blob| (blob.digest, blob)));
        documents.extend(found.documents.into_iter().map(|made| (made.descriptor.digest, made.bytes)));
    }
    for folder in ["blobs", "blobs/sha256"] {
        archive.append(&member(folder, MemberKind::Directory, 0o755), io::empty())?;
    }
    let digests: BTreeSet<_> = blobs.keys().chain(documents.keys()).copied().collect();
    for digest in digests {
        let name = place(&digest);
        if let Some(bytes) = documents.get(&digest) {
            write(&mut archive, &name, bytes)?;
        } else {
            let blob = &blobs[&digest];
            let content = source.open(blob).map_err(SaveError::Source)?;
            stream(&mut archive, &name, blob.size, content)?;
        }
    }
    Ok(archive.finish()?)
}

/// The entries of the index: one for each name.
fn named(entry: &Entry) -> Vec<Descriptor> {
    let with = |name: &Reference| {
        let mut descriptor = entry.root.clone();
        descriptor.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_string());
        let tag = name.tag().map_or_else(|| name.to_string(), str::to_owned);
        descriptor.annotations.insert(REF_NAME.to_owned(), tag);
        descriptor
    };
    if entry.names.is_empty() { vec![entry.root.clone()] } else { entry.names.iter().map(with).collect() }
}

fn docker<S: Source>(
    source: &S,
    entries: &[Entry],
    platform: &Platform,
    limits: &Limits,
) -> Result<DockerLists, SaveError<S::Error>> {
    let mut list = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for entry in entries {
        let (image, _) =
            choose(source, std::slice::from_ref(&entry.root), platform, limits).map_err(SaveError::Source)?;
        let tagged = entry.names.iter().filter_map(Reference::without_digest);
        let tagged: Vec<_> = tagged.map(|name| name.familiar()).collect();
        for familiar in &tagged {
            let (repository, tag) = familiar.rsplit_once(':').expect("it has a tag");
            let top = image.layers.last().map_or_else(|| image.id(), |layer| layer.descriptor.digest);
            repositories.entry(repository.to_owned()).or_default().insert(tag.to_owned(), top.hex());
        }
        list.push(Saved {
            config: place(&image.id()),
            repo_tags: tagged,
            layers: image.layers.iter().map(|layer| place(&layer.descriptor.digest)).collect(),
        });
    }
    let manifest = serde_json::to_vec(&list).expect("lists of texts are JSON");
    let repositories = serde_json::to_vec(&repositories).expect("maps of texts are JSON");
    Ok(DockerLists { manifest, repositories })
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn member(name: &str, kind: MemberKind, mode: u32) -> Member {
    Member { path: name.into(), kind, mode, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() }
}

fn write(archive: &mut TarWriter<impl Write>, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
    stream(archive, name, bytes.len() as u64, bytes)
}

fn stream(
    archive: &mut TarWriter<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> Result<(), WriteError> {
    let kind = MemberKind::File { size, segments: vec![Segment { offset: 0, length: size }] };
    archive.append(&member(name, kind, 0o644), content)
}
