//! Registries that lie, break off, stall, throttle, and want to have credentials.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::Blobs;
use quern_oci::blob::BlobError;
use quern_oci::document::media;
use quern_oci::image::Layer;
use quern_oci::registry::{
    Client, DockerCredentials, Options, Problem, Registry, RegistryError, Repository, Transfer, pull,
};
use quern_oci::{Descriptor, Limits, Reference};
use quern_testkit::MemBlobs;

use super::fake::{Answer, Fake, Request, Then};
use super::{amd64, image, layer, noise, options, problem};

fn repository(fake: &Fake) -> Repository {
    Repository { registry: fake.host.clone(), name: "app".into() }
}

fn reference(fake: &Fake) -> Reference {
    format!("{}/app:v1", fake.host).parse().unwrap()
}

fn blob_of(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media::LAYER, Digest::of(bytes), bytes.len() as u64)
}

/// Reads a blob to its end.
fn read(client: &Client, fake: &Fake, blob: &Descriptor) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut stream = client.blob(&repository(fake), blob).map_err(|error| error.to_string())?;
    stream.read_to_end(&mut bytes).map_err(|error| {
        RegistryError::from_io(&error).map_or_else(|| error.to_string(), |error| error.to_string())
    })?;
    Ok(bytes)
}

fn client() -> Client {
    Client::new(options().0, None)
}

/// The part of `bytes` that a request asks for.
fn part(request: &Request, bytes: &[u8]) -> (usize, Answer) {
    let Some(range) = request.header("range") else { return (0, Answer::new(200).bytes(bytes)) };
    let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let told = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    (start, Answer::new(206).with("Content-Range", told).bytes(&bytes[start..]))
}

#[test]
fn bytes_that_are_not_the_announced_ones() {
    let good = noise(1, 5000);
    let blob = blob_of(&good);
    let check = |answer: Answer, expected: &str| {
        let fake = Fake::new(move |_| answer.clone());
        let error = read(&client(), &fake, &blob).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(Answer::new(200).bytes(noise(2, 5000)), "should have digest");
    check(Answer::new(200).bytes(noise(1, 4999)), "should have 5000 bytes but has fewer");
    check(Answer::new(200).bytes(noise(1, 5001)), "should have 5000 bytes but has more");
    check(Answer::new(200).bytes(good.clone()).announce(1 << 60), "has more");
    check(Answer::new(404), "there is no such thing");
    check(Answer::new(206).with("Content-Range", "bytes 7-9/10").bytes("abc"), "another part");
    let words = r#"{"errors":[{"code":"DENIED","message":"not\u001b[31m yours"}]}"#;
    check(Answer::new(403).bytes(words), "access denied (\"not[31m yours\")");
    check(Answer::new(418).bytes("\u{1b}[2J".repeat(100_000)), "answered 418");
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    let bytes = noise(3, 300_000);
    let blob = blob_of(&bytes);
    for then in [Then::Closes, Then::Stalls] {
        let (mut options, pauses) = options();
        options.idle = Duration::from_millis(300);
        let served = bytes.clone();
        let fake = Fake::new(move |request| {
            let (start, mut answer) = part(request, &served);
            let whole = answer.body.len() as u64;
            if start < 200_000 {
                answer.body.truncate(100_000);
                return answer.announce(whole).then(then);
            }
            answer
        });
        let found = read(&Client::new(options, None), &fake, &blob).unwrap();
        assert!(found == bytes);
        let ranges: Vec<_> =
            fake.seen().iter().map(|request| request.header("range").map(str::to_owned)).collect();
        assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())], "{then:?}");
        assert_eq!(pauses.lock().unwrap().len(), 2);
    }
}

/// A server without ranges sends everything again, and what is there already is passed over.
#[test]
fn a_server_without_ranges() {
    let bytes = noise(4, 50_000);
    let (blob, served, count) = (blob_of(&bytes), bytes.clone(), AtomicUsize::new(0));
    let fake = Fake::new(move |_| {
        let answer = Answer::new(200).bytes(served.clone());
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            return answer;
        }
        Answer::new(200).bytes(&served[..20_000]).announce(50_000).then(Then::Closes)
    });
    assert!(read(&client(), &fake, &blob).unwrap() == bytes);
}

#[test]
fn one_that_never_gets_on_is_given_up() {
    let bytes = noise(5, 1000);
    let fake = Fake::new(|_| Answer::new(200).announce(1000).then(Then::Closes));
    let error = read(&client(), &fake, &blob_of(&bytes)).unwrap_err();
    assert!(error.contains("cannot be reached"), "{error}");
    assert_eq!(fake.seen().len(), 5);
}

#[test]
fn later_means_later() {
    for status in [429, 500, 502, 503, 504] {
        let count = AtomicUsize::new(0);
        let fake = Fake::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::new(status).with("Retry-After", "7"),
            1 => Answer::new(status).with("Retry-After", "9000"),
            2 => Answer::new(status).with("Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"),
            _ => Answer::new(200).bytes("abc"),
        });
        let (options, pauses) = options();
        assert_eq!(read(&Client::new(options, None), &fake, &blob_of(b"abc")).unwrap(), b"abc");
        let expected = [7, 60, 0].map(Duration::from_secs);
        assert_eq!(*pauses.lock().unwrap(), expected, "as asked, at most a minute, and not into the past");
    }
    let fake = Fake::new(|_| Answer::new(429));
    let error = client().resolve(&reference(&fake)).unwrap_err();
    assert_eq!((problem(&error), fake.seen().len()), (&Problem::Throttled, 5));
    let fake = Fake::new(|_| Answer::new(501));
    let error = client().resolve(&reference(&fake)).unwrap_err();
    assert_eq!((problem(&error), fake.seen().len()), (&Problem::Status(501, String::new()), 1));
}

fn with_login(fake: &Fake) -> (tempfile::TempDir, Client) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#, fake.host);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let client = Client::new(options().0, Some(DockerCredentials::from(folder.path())));
    (folder, client)
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[test]
fn credentials_stay_with_their_host() {
    let bytes = noise(6, 100);
    let served = bytes.clone();
    let other = Fake::new(move |_| Answer::new(200).bytes(served.clone()));
    let target = format!("http://{}/elsewhere", other.host);
    let fake = Fake::new(move |request| match request.header("authorization") {
        None => Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\""),
        Some(_) if request.path.ends_with("/here") => Answer::new(307).with("Location", &target),
        Some(_) => Answer::new(307).with("Location", "/here"),
    });
    let (_folder, client) = with_login(&fake);
    assert!(read(&client, &fake, &blob_of(&bytes)).unwrap() == bytes);
    let sent: Vec<_> =
        fake.seen().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some(BASIC.into()), Some(BASIC.into())], "on the same host it goes along");
    assert_eq!(other.seen().len(), 1);
    assert_eq!(other.seen()[0].header("authorization"), None);
}

/// The host that was redirected to asks for the password, by name of the registry or for a token service of its own.
#[test]
fn another_host_may_not_ask() {
    for challenge in ["Basic realm=\"x\"", "Bearer realm=\"http://127.0.0.1:9/token\""] {
        let other = Fake::new(move |_| Answer::new(401).with("WWW-Authenticate", challenge));
        let target = format!("http://{}/elsewhere", other.host);
        let fake = Fake::new(move |_| Answer::new(307).with("Location", &target));
        let (_folder, client) = with_login(&fake);
        let error = read(&client, &fake, &blob_of(b"x")).unwrap_err();
        assert!(
            error.contains("a redirect was not followed") && error.contains("asks for a login"),
            "{error}"
        );
        assert!(other.seen().iter().all(|request| request.header("authorization").is_none()));
    }
}

#[test]
fn redirects_have_an_end() {
    let fake = Fake::new(|_| Answer::new(302).with("Location", "again"));
    let error = read(&client(), &fake, &blob_of(b"x")).unwrap_err();
    assert!(error.contains("more than 5"), "{error}");
    for target in ["file:///etc/passwd", "gopher://x/", "", "http://user:password@127.0.0.1/"] {
        let fake = Fake::new(move |_| Answer::new(302).with("Location", target));
        let error = read(&client(), &fake, &blob_of(b"x")).unwrap_err();
        assert!(error.contains("not valid") || error.contains("more than 5"), "{target:?} {error}");
    }
}

#[test]
fn logins_without_end() {
    for challenge in ["Basic realm=\"x\"", "Digest realm=\"x\"", "", "Bearer realm=\"nonsense\""] {
        let fake = Fake::new(move |_| Answer::new(401).with("WWW-Authenticate", challenge));
        let (_folder, client) = with_login(&fake);
        let error = client.resolve(&reference(&fake)).unwrap_err();
        let expected = match challenge.split(' ').next().unwrap() {
            "Basic" => "refuses the stored login",
            "Bearer" => "no valid token service",
            _ => "in no known way",
        };
        assert!(error.to_string().contains(expected), "{error}");
        assert!(fake.seen().len() <= 2, "{:?}", fake.lines());
    }
}

/// A registry that wants tokens: the service gets the password once, the registry only tokens.
#[test]
fn tokens_are_fetched_and_kept() {
    let service = Fake::new(|request| {
        let scope = if request.path.contains("pull%2Cpush") { "push" } else { "pull" };
        Answer::new(200).bytes(format!(r#"{{"token":"token-{scope}","expires_in":300}}"#))
    });
    let realm = format!("Bearer realm=\"http://{}/token?x=1\",service=\"r s\"", service.host);
    let fake = Fake::new(move |request| {
        let needed = if request.method == "POST" { "push" } else { "" };
        match request.header("authorization") {
            Some(token) if token.starts_with("Bearer token-") && token.contains(needed) => {
                match request.method.as_str() {
                    "POST" => Answer::new(202).with("Location", "/upload"),
                    "PUT" => Answer::new(201),
                    _ => Answer::new(200).bytes("abc"),
                }
            }
            _ => Answer::new(401).with("WWW-Authenticate", &realm),
        }
    });
    let (_folder, client) = with_login(&fake);
    for _ in 0..3 {
        assert_eq!(read(&client, &fake, &blob_of(b"abc")).unwrap(), b"abc");
    }
    client.upload(&repository(&fake), &blob_of(b"abc"), &|| Ok(Box::new(b"abc".as_slice()))).unwrap();
    let asked = service.lines();
    assert_eq!(
        asked,
        [
            "GET /token?x=1&service=r%20s&scope=repository%3Aapp%3Apull&account=user",
            "GET /token?x=1&service=r%20s&scope=repository%3Aapp%3Apull%2Cpush&account=user",
        ]
    );
    assert!(service.seen().iter().all(|request| request.header("authorization") == Some(BASIC)));
    let sent = fake.seen();
    assert!(sent.iter().all(|request| request.header("authorization") != Some(BASIC)), "{sent:?}");
}

/// An identity token is exchanged in the body of a POST, and never in an address, which is logged.
#[test]
fn identity_tokens_are_exchanged() {
    let service = Fake::new(|_| Answer::new(200).bytes(r#"{"access_token":"short"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", service.host);
    let fake = Fake::new(move |request| match request.header("authorization") {
        Some("Bearer short") => Answer::new(200).bytes("abc"),
        _ => Answer::new(401).with("WWW-Authenticate", &realm),
    });
    let folder = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"auths":{{"{}":{{"identitytoken":"l o n g"}}}}}}"#, fake.host);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let client = Client::new(options().0, Some(DockerCredentials::from(folder.path())));
    assert_eq!(read(&client, &fake, &blob_of(b"abc")).unwrap(), b"abc");
    let seen = service.seen();
    assert_eq!(seen[0].line(), "POST /token");
    let form = "service=s&grant_type=refresh_token&client_id=quern&scope=repository%3Aapp%3Apull&refresh_token=l%20o%20n%20g";
    assert_eq!(seen[0].body, form.as_bytes());
}

#[test]
fn token_services_that_misbehave() {
    let check = |answer: Answer, expected: &str| {
        let service = Fake::new(move |_| answer.clone());
        let realm = format!("Bearer realm=\"http://{}/token\"", service.host);
        let fake = Fake::new(move |_| Answer::new(401).with("WWW-Authenticate", &realm));
        let (_folder, client) = with_login(&fake);
        let error = client.resolve(&reference(&fake)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
    };
    check(Answer::new(200).bytes("no json"), "gave no JSON");
    check(Answer::new(200).bytes(r#"{"token":"a\nb"}"#), "no valid token");
    check(Answer::new(200).then(Then::Floods).announce(1 << 40), "larger than the limit");
    check(Answer::new(200).bytes(r#"{"token":"good"}"#), "refuses the stored login");
    check(Answer::new(401), "refuses the stored login");
    check(Answer::new(500), "answered 500");
}

#[test]
fn manifests_that_lie_or_never_end() {
    let bytes = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::INDEX);
    let descriptor = Descriptor::new(media::INDEX, Digest::of(bytes.as_bytes()), bytes.len() as u64);
    let fetch = |answer: Answer| {
        let fake = Fake::new(move |_| answer.clone().with("Content-Type", media::INDEX));
        let result = client().manifest(&repository(&fake), &descriptor);
        result.map_err(|error| problem(&error).clone())
    };
    assert_eq!(fetch(Answer::new(200).bytes(bytes.clone())), Ok(bytes.clone().into_bytes()));
    let changed = bytes.replace('2', "3");
    assert!(matches!(fetch(Answer::new(200).bytes(changed)), Err(Problem::Blob(BlobError::Digest { .. }))));
    assert!(matches!(fetch(Answer::new(200).bytes("{}")), Err(Problem::Blob(BlobError::Size { .. }))));
    let endless = fetch(Answer::new(200).announce(1 << 50).then(Then::Floods));
    assert!(
        matches!(&endless, Err(Problem::Broken(reason)) if reason.contains("limit of 4194304")),
        "{endless:?}"
    );

    // What the headers say of a tag is compared with what comes; a name by digest must have that digest.
    let resolve = |answer: Answer, name: &str| {
        let fake = Fake::new(move |_| answer.clone());
        let reference: Reference = format!("{}/app{name}", fake.host).parse().unwrap();
        client().resolve(&reference).map_err(|error| error.to_string())
    };
    let head = Answer::new(200).bytes(bytes.clone()).with("Content-Type", media::INDEX);
    assert_eq!(resolve(head.clone(), ":v1").unwrap(), descriptor, "without a digest it is computed");
    let told = head.clone().with("Docker-Content-Digest", Digest::of(b"x"));
    assert_eq!(resolve(told.clone(), ":v1").unwrap().digest, Digest::of(b"x"));
    let named = format!("@{}", descriptor.digest);
    assert!(resolve(told, &named).unwrap_err().contains("should have digest"));
    assert_eq!(resolve(head.clone(), &named).unwrap(), descriptor);
    let html = Answer::new(200).bytes("<html>").with("Content-Type", "text/html; charset=utf-8");
    assert!(resolve(html, ":v1").unwrap_err().contains("`text/html` is no type of an image"));
}

#[test]
fn a_server_that_does_not_answer() {
    let fake = Fake::new(|_| Answer::new(200).bytes("a").announce(3).then(Then::Stalls));
    let (options, pauses) = options();
    let options = Options { idle: Duration::from_millis(100), attempts: 2, ..options };
    let error = read(&Client::new(options, None), &fake, &blob_of(b"abc")).unwrap_err();
    assert!(error.contains("stopped answering"), "{error}");
    assert_eq!((fake.seen().len(), pauses.lock().unwrap().len()), (2, 1));
}

#[test]
fn lists_of_tags() {
    let fake = Fake::new(|request| match request.path.as_str() {
        "/v2/app/tags/list?n=1000" => Answer::new(200)
            .bytes(r#"{"name":"app","tags":["a","b"]}"#)
            .with("Link", "</v2/app/tags/list?last=b>; rel=\"next\""),
        _ => Answer::new(200).bytes(r#"{"tags":["c"]}"#),
    });
    assert_eq!(client().tags(&repository(&fake)).unwrap(), ["a", "b", "c"]);
    let fake = Fake::new(|_| {
        Answer::new(200).bytes(r#"{"tags":null}"#).with("Link", "<http://other.example/>; rel=\"next\"")
    });
    let error = client().tags(&repository(&fake)).unwrap_err();
    assert!(matches!(problem(&error), Problem::Redirect(_)), "{error}");
    let fake = Fake::new(|_| Answer::new(200).bytes(r#"{"tags":[]}"#).with("Link", "</again>; rel=\"next\""));
    let error = client().tags(&repository(&fake)).unwrap_err().to_string();
    assert!(error.contains("without an end"), "{error}");
}

/// A name that is not on this machine is never spoken to in plain http unless that is asked for.
#[test]
fn plain_http_only_where_asked() {
    let (options, _) = options();
    let options = Options { attempts: 1, ..options };
    let reference: Reference = "nowhere.invalid:5000/app".parse().unwrap();
    let error = Client::new(options, None).resolve(&reference).unwrap_err();
    assert!(matches!(problem(&error), Problem::Unreachable(_)), "{error}");
    let fake = Fake::new(|_| Answer::new(404));
    let port = fake.host.rsplit_once(':').unwrap().1;
    // 0.0.0.0 leads here, but it is not a loopback address by its name.
    let there = format!("0.0.0.0:{port}");
    let (options, _) = super::options();
    let reference: Reference = format!("{there}/app").parse().unwrap();
    let error =
        Client::new(Options { attempts: 1, ..options.clone() }, None).resolve(&reference).unwrap_err();
    assert!(error.to_string().contains("insecure"), "{error}");
    assert!(fake.lines().iter().all(|line| !line.contains("/v2/")), "{:?}", fake.lines());
    let insecure = [there].into();
    let error = Client::new(Options { insecure, ..options }, None).resolve(&reference).unwrap_err();
    assert_eq!(problem(&error), &Problem::NotFound);
}

/// A layer that is not what the manifest says leaves nothing behind that looks like an image.
#[test]
fn a_pull_of_a_damaged_image() {
    let blobs = MemBlobs::default();
    let made = layer(&blobs, "a", &noise(7, 10_000));
    let root = image(&blobs, &amd64(), std::slice::from_ref(&made));
    let attempt = |answer: Option<Answer>, root: &Descriptor| {
        let (served, media_type, digest) = (blobs.clone(), root.media_type.clone(), made.descriptor.digest);
        let fake = Fake::new(move |request| {
            let asked = request.path.rsplit('/').next().unwrap();
            match &answer {
                Some(answer) if asked == digest.to_string() => answer.clone(),
                _ => {
                    let bytes = served.get(&asked.parse().unwrap()).unwrap();
                    Answer::new(200).with("Content-Type", &media_type).bytes(bytes)
                }
            }
        });
        let here = MemBlobs::default();
        let named = reference(&fake).with_digest(root.digest);
        let transfer =
            Transfer { limits: Limits { layer: 1 << 30, ..Limits::default() }, ..Transfer::default() };
        let result = pull(&client(), &named, &amd64(), &here, &transfer);
        (result.map(drop).map_err(|error| error.to_string()), here.len())
    };
    assert_eq!(attempt(None, &root), (Ok(()), 3));
    let (result, kept) = attempt(Some(Answer::new(200).bytes(noise(8, 10_123))), &root);
    assert!(result.as_ref().unwrap_err().contains("should have"), "{result:?}");
    assert_eq!(kept, 0, "no manifest, no config, no layer");
    let size = usize::try_from(made.descriptor.size).unwrap();
    let (result, kept) = attempt(Some(Answer::new(200).bytes(noise(8, size))), &root);
    assert!(result.as_ref().unwrap_err().contains("should have digest"), "{result:?}");
    assert_eq!(kept, 0);
    // A layer of a size that no disk has is refused before it is asked for.
    let huge = Layer { descriptor: Descriptor { size: 1 << 50, ..made.descriptor.clone() }, ..made.clone() };
    let huge = image(&blobs, &amd64(), &[huge]);
    let (result, kept) = attempt(None, &huge);
    assert!(result.as_ref().unwrap_err().contains("larger than the limit of 1073741824"), "{result:?}");
    assert_eq!(kept, 0);
}
