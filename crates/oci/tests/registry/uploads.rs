//! Uploads that break off, and what is visible then.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use quern_core::Digest;
use quern_oci::document::media;
use quern_oci::registry::{Client, Problem, Registry, Repository, Transfer, TransferError, push};
use quern_oci::{Descriptor, Reference};
use quern_testkit::MemBlobs;

use super::fake::{Answer, Fake, Request, Then};
use super::{amd64, digest_of, image, layer, noise, options, problem, stored, transfer_problem};

/// A registry that takes uploads in pieces; a hook may answer before it does.
fn registry(
    hook: impl Fn(&Request, usize) -> Option<Answer> + Send + Sync + 'static,
) -> (Fake, Arc<Mutex<Vec<u8>>>) {
    let arrived = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&arrived);
    let fake = Fake::new(move |request| {
        let mut kept = kept.lock().unwrap();
        if let Some(answer) = hook(request, kept.len()) {
            return answer;
        }
        let at = |kept: &[u8]| format!("0-{}", kept.len().saturating_sub(1));
        match request.method.as_str() {
            "POST" => {
                kept.clear();
                Answer::new(202).with("Location", "/upload?state=0")
            }
            "PATCH" => {
                let start: usize =
                    request.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                if start != kept.len() {
                    return Answer::new(416).with("Range", at(&kept));
                }
                kept.extend_from_slice(&request.body);
                Answer::new(202)
                    .with("Location", format!("/upload?state={}", kept.len()))
                    .with("Range", at(&kept))
            }
            "GET" => Answer::new(204).with("Location", "/upload?state=again").with("Range", at(&kept)),
            "PUT" => {
                kept.extend_from_slice(&request.body);
                let digest = Digest::of(&kept).to_string();
                let wanted = request.path.split("digest=").nth(1).unwrap().replace("%3A", ":");
                if wanted == digest {
                    Answer::new(201).with("Docker-Content-Digest", digest)
                } else {
                    Answer::new(400)
                }
            }
            _ => Answer::new(404),
        }
    });
    (fake, arrived)
}

fn upload(fake: &Fake, bytes: &[u8], chunk: u64) -> Result<usize, Problem> {
    let (mut options, pauses) = options();
    options.chunk = chunk;
    let repository = Repository { registry: fake.host.clone(), name: "app".into() };
    let blob = Descriptor::new(media::LAYER, Digest::of(bytes), bytes.len() as u64);
    let open = || Ok(Box::new(bytes) as Box<dyn Read>);
    let result = Client::new(options, None).upload(&repository, &blob, &open);
    result.map(|()| pauses.lock().unwrap().len()).map_err(|error| problem(&error).clone())
}

#[test]
fn in_one_request_or_in_pieces() {
    let bytes = noise(1, 10_000);
    let (fake, arrived) = registry(|_, _| None);
    assert_eq!(upload(&fake, &bytes, 1 << 20), Ok(0));
    assert!(*arrived.lock().unwrap() == bytes);
    assert_eq!(fake.seen().len(), 2, "{:?}", fake.lines());
    assert_eq!(upload(&fake, &bytes, 4096), Ok(0));
    let ranges: Vec<_> =
        fake.seen().iter().filter_map(|r| r.header("content-range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["0-4095", "4096-8191", "8192-9999"]);
    assert_eq!(upload(&fake, b"", 4096), Ok(0));
}

/// The second piece fails: the upload goes on from what arrived.
#[test]
fn a_broken_upload_goes_on() {
    let bytes = noise(2, 10_000);
    let broken = Mutex::new(false);
    let (fake, arrived) = registry(move |request, length| {
        let mut broken = broken.lock().unwrap();
        if request.method != "PATCH" || length != 4000 || *broken {
            return None;
        }
        *broken = true;
        Some(Answer::new(500).then(Then::Closes))
    });
    assert_eq!(upload(&fake, &bytes, 4000), Ok(1));
    assert!(*arrived.lock().unwrap() == bytes);
    let methods: Vec<_> = fake.seen().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PATCH", "GET", "PATCH", "PATCH", "PUT"]);
}

/// The registry forgets an upload: a new one is begun.
#[test]
fn a_lost_upload_is_begun_again() {
    let bytes = noise(3, 10_000);
    let lost = Mutex::new(0);
    let (fake, arrived) = registry(move |request, length| {
        let mut lost = lost.lock().unwrap();
        match (request.method.as_str(), *lost) {
            ("PATCH", 0) if length == 4000 => *lost = 1,
            ("GET", 1) => *lost = 2,
            _ => return None,
        }
        Some(Answer::new(if *lost == 1 { 503 } else { 404 }))
    });
    assert_eq!(upload(&fake, &bytes, 4000), Ok(2));
    assert!(*arrived.lock().unwrap() == bytes);
    assert_eq!(fake.seen().iter().filter(|request| request.method == "POST").count(), 2);
}

#[test]
fn uploads_that_cannot_succeed_end() {
    let bytes = noise(4, 10_000);
    let (fake, _) = registry(|request, _| (request.method == "PATCH").then(|| Answer::new(500)));
    assert!(matches!(upload(&fake, &bytes, 4000), Err(Problem::Status(500, _))));
    assert!(fake.seen().len() < 80, "{}", fake.seen().len());
    let (fake, _) = registry(|request, _| {
        (request.method == "PUT").then(|| Answer::new(201).with("Docker-Content-Digest", "sha256:0"))
    });
    assert!(matches!(upload(&fake, &bytes, 4000), Err(Problem::Broken(_))));
    let (fake, _) = registry(|request, _| {
        (request.method == "POST").then(|| Answer::new(307).with("Location", "http://elsewhere.invalid/"))
    });
    assert!(matches!(upload(&fake, &bytes, 4000), Err(Problem::Redirect(_))));
    let (fake, _) = registry(|request, _| {
        (request.method == "GET")
            .then(|| Answer::new(204).with("Range", "0-99999999"))
            .or_else(|| (request.method == "PATCH").then(|| Answer::new(502)))
    });
    assert!(matches!(upload(&fake, &bytes, 4000), Err(Problem::Broken(_))));
}

/// A source that fails is named as such, and not tried again.
#[test]
fn a_source_that_fails() {
    let (fake, _) = registry(|_, _| None);
    let repository = Repository { registry: fake.host.clone(), name: "app".into() };
    let blob = Descriptor::new(media::LAYER, Digest::of(b"abc"), 3);
    let client = Client::new(options().0, None);
    let check = |open: &dyn Fn() -> io::Result<Box<dyn Read + 'static>>, expected: &str| {
        let error = client.upload(&repository, &blob, &|| open()).unwrap_err();
        assert!(matches!(problem(&error), Problem::Local(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&|| Err(io::Error::other("no disk")), "no disk");
    check(&|| Ok(Box::new(b"ab".as_slice())), "shorter than announced");
}

/// Nothing is tagged before everything is there.
#[test]
fn a_failed_push_leaves_no_manifest() {
    let blobs = MemBlobs::default();
    let layers = [layer(&blobs, "a", &noise(5, 1000)), layer(&blobs, "b", &noise(6, 1000))];
    let root = image(&blobs, &amd64(), &layers);
    let refused = layers[1].descriptor.digest.hex();
    let fake = Fake::new(move |request| match request.method.as_str() {
        "POST" => Answer::new(202).with("Location", "/upload"),
        "PUT" if request.path.contains(&refused) => Answer::new(400),
        "PUT" => Answer::new(201),
        _ => Answer::new(404),
    });
    let target: Reference = format!("{}/app:v1", fake.host).parse().unwrap();
    let client = Client::new(options().0, None);
    let error = push(&client, &stored(&blobs), &root, &target, &Transfer::default()).unwrap_err();
    assert!(matches!(transfer_problem(&error), Problem::Status(400, _)), "{error}");
    assert!(fake.lines().iter().all(|line| !line.starts_with("PUT /v2/app/manifests")), "{:?}", fake.lines());

    // An image that is not whole is not sent at all; one whose bytes changed is not tagged.
    let damaged = MemBlobs::default();
    assert_eq!(digest_of(&blobs, &root), root.digest);
    let error = push(&client, &stored(&damaged), &root, &target, &Transfer::default()).unwrap_err();
    assert!(matches!(error, TransferError::Source(_)), "{error}");

    let transfer = Transfer::default();
    transfer.cancel.set();
    let error = push(&client, &stored(&blobs), &root, &target, &transfer).unwrap_err();
    assert!(matches!(error, TransferError::Cancelled), "{error}");
}
