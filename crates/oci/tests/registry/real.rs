//! Debian's registry and skopeo.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use quern_core::port::Blobs;
use quern_oci::attest::{SPDX, Statement, attest};
use quern_oci::cache::{CacheForm, assemble_cache, cache_layer, find_cache};
use quern_oci::document::Format;
use quern_oci::image::contents;
use quern_oci::registry::{
    Client, DockerCredentials, Problem, Progress, Registry, Remote, Repository, Stage, Transfer, pull, push,
};
use quern_oci::{Layout, Limits, Reference, Source};
use quern_testkit::MemBlobs;

use super::server::Server;
use super::{amd64, arm64, image, index, layer, noise, options, problem, stored, transfer_problem};

fn client(login: Option<&Path>) -> Client {
    Client::new(options().0, login.map(DockerCredentials::from))
}

fn reference(server: &Server, rest: &str) -> Reference {
    format!("{}/{rest}", server.host).parse().unwrap()
}

fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let run = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
    assert!(run.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// How each blob got there, sorted.
fn stages(log: &Mutex<Vec<Progress>>) -> Vec<Stage> {
    let mut last = std::collections::BTreeMap::new();
    for progress in log.lock().unwrap().iter() {
        assert!(!matches!(progress.stage, Stage::Moving(bytes) if bytes > progress.size));
        last.insert(progress.digest, progress.stage);
    }
    let mut stages: Vec<_> = last.into_values().collect();
    stages.sort_by_key(|stage| format!("{stage:?}"));
    stages
}

#[test]
fn an_index_goes_there_and_comes_back() {
    let server = Server::open();
    let blobs = MemBlobs::default();
    let shared = layer(&blobs, "shared", &noise(1, 300_000));
    let (amd, arm) = (layer(&blobs, "amd", &noise(2, 3_000_000)), layer(&blobs, "arm", &noise(3, 1000)));
    let manifests = vec![
        image(&blobs, &arm64(), &[shared.clone(), arm]),
        image(&blobs, &amd64(), &[shared.clone(), amd.clone()]),
    ];
    let root = index(&blobs, manifests.clone());
    let target = reference(&server, "team/app:v1");
    let log = Mutex::new(Vec::new());
    let note = |progress| log.lock().unwrap().push(progress);
    let transfer = Transfer { progress: &note, ..Transfer::default() };
    let client = client(None);
    push(&client, &stored(&blobs), &root, &target, &transfer).unwrap();
    assert_eq!(stages(&log), [Stage::Done; 5], "three layers and two configs");

    // Again: nothing is sent.
    log.lock().unwrap().clear();
    push(&client, &stored(&blobs), &root, &target, &transfer).unwrap();
    assert_eq!(stages(&log), []);

    // What is shared is taken over from the other repository, the rest is sent.
    log.lock().unwrap().clear();
    let own = layer(&blobs, "own", b"own");
    let other = image(&blobs, &amd64(), &[shared, own]);
    let mounts = |_: &_| vec!["team/nowhere".to_owned(), "team/app".to_owned()];
    let transfer = Transfer { progress: &note, mounts: &mounts, ..Transfer::default() };
    push(&client, &stored(&blobs), &other, &reference(&server, "team/other:v1"), &transfer).unwrap();
    assert_eq!(stages(&log), [Stage::Done, Stage::Done, Stage::Mounted]);

    let here = MemBlobs::default();
    log.lock().unwrap().clear();
    let pulled = pull(&client, &target, &amd64(), &here, &transfer).unwrap();
    assert_eq!((pulled.root.digest, pulled.image.manifest.digest), (root.digest, manifests[1].digest));
    assert_eq!(pulled.image.layers[1], amd);
    assert_eq!(here.len(), 5, "index, manifest, config and two layers");
    assert_eq!(stages(&log), [Stage::Done; 2]);
    log.lock().unwrap().clear();
    assert_eq!(pull(&client, &target, &amd64(), &here, &transfer).unwrap(), pulled);
    assert_eq!(stages(&log), [Stage::Present; 2]);

    // skopeo sees the same.
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{target}")]);
    assert_eq!(quern_core::Digest::of(&raw), root.digest);
    let copied = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", copied.path().display());
    skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--override-arch=amd64",
        &format!("docker://{target}"),
        &layout,
    ]);
    let layout = Layout::open(copied.path(), &Limits::default()).unwrap();
    assert_eq!(layout.resolve(None, &amd64()).unwrap().chain_id(), pulled.image.chain_id());
}

#[test]
fn what_skopeo_pushes_is_pulled() {
    let server = Server::open();
    let blobs = MemBlobs::default();
    let root = image(&blobs, &amd64(), &[layer(&blobs, "a", &noise(4, 100_000))]);
    let target = reference(&server, "app:ours");
    let (client, transfer) = (client(None), Transfer::default());
    push(&client, &stored(&blobs), &root, &target, &transfer).unwrap();
    let copies = [("oci", "theirs"), ("v2s2", "docker")];
    for (format, tag) in copies {
        let target = format!("docker://{}/copy:{tag}", server.host);
        let source = format!("docker://{}/app:ours", server.host);
        skopeo(&[
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "-f",
            format,
            &source,
            &target,
        ]);
    }
    for (_, tag) in copies {
        let here = MemBlobs::default();
        let found = reference(&server, &format!("copy:{tag}"));
        let pulled = pull(&client, &found, &amd64(), &here, &transfer).unwrap();
        assert_eq!(pulled.image.layers.len(), 1);
        let by_digest = found.with_digest(pulled.root.digest);
        assert_eq!(client.resolve(&by_digest).unwrap(), pulled.root);
    }
    let mut tags = client.tags(&Repository::of(&reference(&server, "copy"))).unwrap();
    tags.sort();
    assert_eq!(tags, ["docker", "theirs"]);
}

#[test]
fn a_large_layer_is_sent_in_pieces() {
    let server = Server::open();
    let blobs = MemBlobs::default();
    let root = image(&blobs, &amd64(), &[layer(&blobs, "large", &noise(5, 5_000_000))]);
    let (mut options, _) = options();
    options.chunk = 1 << 20;
    let client = Client::new(options, None);
    let target = reference(&server, "large:v1");
    push(&client, &stored(&blobs), &root, &target, &Transfer::default()).unwrap();
    let here = MemBlobs::default();
    pull(&client, &target, &amd64(), &here, &Transfer::default()).unwrap();
    assert_eq!(here.len(), 3);
}

#[test]
fn passwords_are_needed_and_suffice() {
    let server = Server::with_password();
    let blobs = MemBlobs::default();
    let root = image(&blobs, &amd64(), &[layer(&blobs, "a", b"a")]);
    let (target, transfer) = (reference(&server, "app:v1"), Transfer::default());
    let push = |client: &Client| push(client, &stored(&blobs), &root, &target, &transfer);

    let error = push(&client(None)).unwrap_err();
    assert_eq!(transfer_problem(&error), &Problem::LoginNeeded);
    assert!(error.to_string().contains(&format!("docker login {}", server.host)), "{error}");
    let wrong = server.login(r#"{"auth":"dXNlcjp3cm9uZw=="}"#);
    assert_eq!(transfer_problem(&push(&client(Some(wrong.path()))).unwrap_err()), &Problem::LoginRefused);
    let right = server.login(r#"{"auth":"dXNlcjpzZWNyZXQ="}"#);
    push(&client(Some(right.path()))).unwrap();
    assert_eq!(client(Some(right.path())).resolve(&target).unwrap().digest, root.digest);
    let error = client(None).resolve(&target).unwrap_err();
    assert_eq!(problem(&error), &Problem::LoginNeeded);
}

#[test]
fn what_is_not_there() {
    let server = Server::open();
    let client = client(None);
    let error = client.resolve(&reference(&server, "no/such:v1")).unwrap_err();
    assert_eq!(problem(&error), &Problem::NotFound);
    assert!(error.to_string().contains("no/such") && error.to_string().contains("check the name"), "{error}");
    assert!(
        !client.has_blob(&Repository::of(&reference(&server, "a")), &quern_core::Digest::of(b"x")).unwrap()
    );
    let host = server.host.clone();
    drop(server);
    let gone: Reference = format!("{host}/app").parse().unwrap();
    let (options, pauses) = options();
    let error = Client::new(options, None).resolve(&gone).unwrap_err();
    assert!(matches!(problem(&error), Problem::Unreachable(_)), "{error}");
    let pauses = pauses.lock().unwrap();
    assert_eq!(pauses.len(), 4, "five attempts");
    assert!(pauses.is_sorted(), "each about twice the last: {pauses:?}");
}

#[test]
fn an_image_for_another_platform_is_refused_before_its_layers() {
    let server = Server::open();
    let blobs = MemBlobs::default();
    let root = image(&blobs, &arm64(), &[layer(&blobs, "a", b"a")]);
    let target = reference(&server, "app:v1");
    let client = client(None);
    push(&client, &stored(&blobs), &root, &target, &Transfer::default()).unwrap();
    let here = MemBlobs::default();
    let error = pull(&client, &target, &amd64(), &here, &Transfer::default()).unwrap_err();
    assert!(error.to_string().contains("not made for linux/amd64, only for linux/arm64"), "{error}");
    assert!(here.is_empty());
}

/// Caches in each form, and statements beside an image, pass through a registry.
#[test]
fn caches_and_statements_are_kept_by_a_registry() {
    let server = Server::open();
    let blobs = MemBlobs::default();
    let (client, transfer) = (client(None), Transfer::default());
    let layers = vec![cache_layer(&layer(&blobs, "a", &noise(7, 1000)), Some("2026-01-02T03:04:05Z"))];
    let forms = [CacheForm::Manifest, CacheForm::Index(Format::Oci), CacheForm::Index(Format::Docker)];
    for (number, form) in forms.into_iter().enumerate() {
        let made = assemble_cache(b"{}".to_vec(), layers.clone(), form);
        blobs.put(&made.config.bytes).unwrap();
        blobs.put(&made.manifest.bytes).unwrap();
        let target = reference(&server, &format!("cache:{number}"));
        push(&client, &stored(&blobs), &made.manifest.descriptor, &target, &transfer)
            .unwrap_or_else(|error| panic!("{form:?} {error}"));
        let root = client.resolve(&target).unwrap();
        let repository = Repository::of(&target);
        let remote = Remote { registry: &client, repository, document_limit: 1 << 20 };
        let found = find_cache(&remote, &root).unwrap().unwrap();
        assert_eq!((found.config.as_slice(), found.layers.len()), (b"{}".as_slice(), 1));
        let mut bytes = Vec::new();
        remote.open(&found.layers[0]).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, layers[0].size);
    }

    let image = image(&blobs, &amd64(), &[layer(&blobs, "b", b"b")]);
    let statement = Statement::new(SPDX, Vec::new(), serde_json::json!({"spdxVersion": "SPDX-2.3"}));
    let made = attest(&image, &[statement]);
    for document in made.statements.iter().chain([&made.documents.config, &made.documents.manifest]) {
        blobs.put(&document.bytes).unwrap();
    }
    let root = index(&blobs, vec![image.clone(), made.documents.manifest.descriptor]);
    let target = reference(&server, "attested:v1");
    push(&client, &stored(&blobs), &root, &target, &transfer).unwrap();
    let here = MemBlobs::default();
    let pulled = pull(&client, &target, &amd64(), &here, &transfer).unwrap();
    assert_eq!(pulled.image.manifest.digest, image.digest);
    let repository = Repository::of(&target);
    let remote = Remote { registry: &client, repository, document_limit: 1 << 20 };
    let everything = contents(&remote, &root, &Limits::default()).unwrap();
    assert_eq!((everything.documents.len(), everything.blobs.len()), (3, 4));
}
