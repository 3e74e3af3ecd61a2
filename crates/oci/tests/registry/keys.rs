//! Debian's registry with tokens and with a certificate, both made by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use quern_oci::Reference;
use quern_oci::registry::{
    Client, DockerCredentials, Options, Problem, Registry, Repository, Stage, Transfer, pull, push,
};
use quern_testkit::MemBlobs;

use super::fake::{Answer, Fake, Request};
use super::server::Server;
use super::{amd64, image, layer, options, problem, stored, transfer_problem};

fn openssl(arguments: &[&str]) {
    let run = Command::new("openssl").args(arguments).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// A key and a certificate that signs itself.
fn key(folder: &Path, names: &str) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"];
    let names = format!("subjectAltName={names}");
    let more = [
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        &names,
        "-keyout",
        key,
        "-out",
        certificate,
    ];
    openssl(&[request.as_slice(), &more].concat());
}

/// What a token service signs: who may do what.
fn token(folder: &Path, scopes: &[String]) -> String {
    let certificate = fs::read_to_string(folder.join("cert.pem")).unwrap();
    let certificate: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
    let access: Vec<_> = scopes
        .iter()
        .map(|scope| {
            let parts: Vec<_> = scope.split(':').collect();
            let actions: Vec<_> = parts[2].split(',').collect();
            serde_json::json!({"type": parts[0], "name": parts[1], "actions": actions})
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = serde_json::json!({
        "iss": "issuer", "sub": "user", "aud": "test", "jti": "1",
        "iat": now - 10, "nbf": now - 10, "exp": now + 300, "access": access
    });
    let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    // One request at a time: the client fetches one token at a time.
    let (text, signature) = (folder.join("text"), folder.join("signature"));
    fs::write(&text, &signed).unwrap();
    let (text, out, key) = (text.to_str().unwrap(), signature.to_str().unwrap(), folder.join("key.pem"));
    openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap(), "-out", out, text]);
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(fs::read(&signature).unwrap()))
}

/// The scopes in the query of a request, decoded.
fn scopes(request: &Request) -> Vec<String> {
    let query = request.path.split_once('?').unwrap().1;
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    scopes.map(|scope| scope.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/")).collect()
}

/// Everybody may read `open`; the user with the password may do everything.
#[test]
fn a_registry_with_a_token_service() {
    let keys = tempfile::tempdir().unwrap();
    key(keys.path(), "DNS:test");
    let folder = keys.path().to_owned();
    let known = format!("Basic {}", BASE64_STANDARD.encode("user:secret"));
    let service = Fake::new(move |request| {
        let granted: Vec<_> = match request.header("authorization") {
            Some(header) if header == known => scopes(request),
            Some(_) => return Answer::new(401),
            None => scopes(request).into_iter().filter(|scope| scope == "repository:open:pull").collect(),
        };
        Answer::new(200).bytes(format!(r#"{{"token":"{}","expires_in":300}}"#, token(&folder, &granted)))
    });
    let server = Server::start(|_| {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: test\n    issuer: issuer\n    rootcertbundle: {}\n",
            service.host,
            keys.path().join("cert.pem").display()
        )
    });
    let reference = |rest: &str| format!("{}/{rest}", server.host).parse::<Reference>().unwrap();
    let login = server.login(r#"{"auth":"dXNlcjpzZWNyZXQ="}"#);
    let user = Client::new(options().0, Some(DockerCredentials::from(login.path())));
    let nobody = Client::new(options().0, None);

    let blobs = MemBlobs::default();
    let shared = layer(&blobs, "a", b"a");
    let root = image(&blobs, &amd64(), std::slice::from_ref(&shared));
    let transfer = Transfer::default();
    push(&user, &stored(&blobs), &root, &reference("open:v1"), &transfer).unwrap();
    let asked = service.seen().len();
    assert_eq!(asked, 2, "one token to look, one to write: {:?}", service.lines());
    let stages = std::sync::Mutex::new(Vec::new());
    let note = |progress: quern_oci::registry::Progress| stages.lock().unwrap().push(progress.stage);
    let mounts = |_: &_| vec!["open".to_owned()];
    let mounting = Transfer { progress: &note, mounts: &mounts, ..Transfer::default() };
    let other = image(&blobs, &amd64(), &[shared, layer(&blobs, "b", b"b")]);
    push(&user, &stored(&blobs), &other, &reference("shut:v1"), &mounting).unwrap();
    assert!(stages.lock().unwrap().contains(&Stage::Mounted), "{stages:?}");

    let here = MemBlobs::default();
    assert_eq!(
        pull(&nobody, &reference("open:v1"), &amd64(), &here, &transfer).unwrap().root.digest,
        root.digest
    );
    let error = pull(&nobody, &reference("shut:v1"), &amd64(), &here, &transfer).unwrap_err();
    assert_eq!(transfer_problem(&error), &Problem::LoginNeeded);
    let error = push(&nobody, &stored(&blobs), &other, &reference("open:v2"), &transfer).unwrap_err();
    assert_eq!(transfer_problem(&error), &Problem::LoginNeeded);
    assert_eq!(user.tags(&Repository::of(&reference("open"))).unwrap(), ["v1"], "nothing half tagged");
    let wrong = server.login(r#"{"auth":"dXNlcjp3cm9uZw=="}"#);
    let wrong = Client::new(options().0, Some(DockerCredentials::from(wrong.path())));
    assert_eq!(problem(&wrong.resolve(&reference("open:v1")).unwrap_err()), &Problem::LoginRefused);
}

/// A certificate is believed only if it is signed by an authority that is trusted.
#[test]
fn a_registry_with_a_certificate() {
    let keys = tempfile::tempdir().unwrap();
    key(keys.path(), "IP:0.0.0.0");
    let file = |name: &str| keys.path().join(name);
    let server = Server::start(|_| {
        let (certificate, key) = (file("cert.pem"), file("key.pem"));
        format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
    });
    // An address that leads here, but is no loopback address, so that https is spoken.
    let host = server.host.replace("127.0.0.1", "0.0.0.0");
    let reference: Reference = format!("{host}/app:v1").parse().unwrap();
    let base = Options { attempts: 1, ..options().0 };
    let error = Client::new(base.clone(), None).resolve(&reference).unwrap_err();
    assert!(matches!(problem(&error), Problem::Tls(_)), "{error}");
    let authorities = Some(fs::read(file("cert.pem")).unwrap());
    let trusting = Client::new(Options { authorities, ..base.clone() }, None);
    assert_eq!(problem(&trusting.resolve(&reference).unwrap_err()), &Problem::NotFound);
    let blobs = MemBlobs::default();
    let root = image(&blobs, &amd64(), &[layer(&blobs, "a", b"a")]);
    push(&trusting, &stored(&blobs), &root, &reference, &Transfer::default()).unwrap();
    assert_eq!(trusting.resolve(&reference).unwrap().digest, root.digest);
    // Plain http to a server that wants https is refused by it.
    let insecure = Client::new(Options { insecure: [host].into(), ..base }, None);
    assert!(matches!(problem(&insecure.resolve(&reference).unwrap_err()), Problem::Status(400, _)));
}

/// Docker's folders of certificates: whom to trust at one registry, also on the loopback interface, and who one is.
#[test]
fn certificates_for_one_registry() {
    let keys = tempfile::tempdir().unwrap();
    key(keys.path(), "IP:127.0.0.1");
    let file = |name: &str| keys.path().join(name);
    // The registry wants to know who asks, and believes whoever has this certificate.
    let server = Server::start(|_| {
        let (certificate, key) = (file("cert.pem"), file("key.pem"));
        let (certificate, key) = (certificate.display(), key.display());
        format!(
            "  tls:\n    certificate: {certificate}\n    key: {key}\n    clientcas:\n      - {certificate}\n"
        )
    });
    let reference: Reference = format!("{}/app:v1", server.host).parse().unwrap();
    let folders = tempfile::tempdir().unwrap();
    let own = folders.path().join(&server.host);
    let client = || {
        let certificates = vec![keys.path().join("nowhere"), folders.path().to_owned()];
        Client::new(Options { certificates, attempts: 1, ..options().0 }, None)
    };
    // Without any, plain http is spoken here, and the way out is told.
    let error = client().resolve(&reference).unwrap_err().to_string();
    assert!(error.contains("speaks https") && error.contains("certs.d"), "{error}");
    // With a folder, https is, and nobody is trusted who is not trusted by the system.
    fs::create_dir(&own).unwrap();
    let error = client().resolve(&reference).unwrap_err();
    let text = error.to_string();
    assert!(matches!(problem(&error), Problem::Tls(_)), "{text}");
    assert!(
        text.contains("certificate") && text.contains(&format!("certs.d/{}/ca.crt", server.host)),
        "{text}"
    );
    // The authority is trusted, but the registry does not know who asks.
    fs::copy(file("cert.pem"), own.join("ca.crt")).unwrap();
    assert!(client().resolve(&reference).is_err_and(|error| *problem(&error) != Problem::NotFound));
    // A certificate without its key, then with it.
    fs::copy(file("cert.pem"), own.join("client.cert")).unwrap();
    let error = client().resolve(&reference).unwrap_err().to_string();
    assert!(error.contains("client.key` cannot be read"), "{error}");
    fs::copy(file("key.pem"), own.join("client.key")).unwrap();
    assert_eq!(problem(&client().resolve(&reference).unwrap_err()), &Problem::NotFound);
    let blobs = MemBlobs::default();
    let root = image(&blobs, &amd64(), &[layer(&blobs, "a", b"a")]);
    push(&client(), &stored(&blobs), &root, &reference, &Transfer::default()).unwrap();
    assert_eq!(client().resolve(&reference).unwrap().digest, root.digest);
    // Something else under the name of an authority.
    fs::write(own.join("ca.crt"), "x").unwrap();
    let error = client().resolve(&reference).unwrap_err().to_string();
    assert!(error.contains("ca.crt` holds no certificate"), "{error}");
}
