//! Users and passwords from Docker's `config.json` and from the helpers that it names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;

/// What proves who one is. Its text form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A long-lived token that is exchanged for short-lived ones.
    Identity(String),
    /// A token that is sent as it is.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user}, ...)"),
            Self::Identity(_) => write!(f, "Identity(...)"),
            Self::Bearer(_) => write!(f, "Bearer(...)"),
        }
    }
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is not what Docker writes.
    #[error("`{}` is not valid: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A helper failed.
    #[error("the credential helper `{helper}` named in `{}` {reason}", path.display())]
    Helper {
        /// The program.
        helper: String,
        /// The file that names it.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// Docker's store of credentials, read anew at each question.
#[derive(Debug, Clone)]
pub struct DockerCredentials {
    file: PathBuf,
    helper_path: Option<OsString>,
    timeout: Duration,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FromHelper {
    username: String,
    secret: String,
}

/// Docker's name for its own registry, from the time of its first protocol.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// More is no config file and no answer of a helper.
const LIMIT: u64 = 1 << 20;

impl DockerCredentials {
    /// Those of a `config.json`; it may be absent.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), helper_path: None, timeout: Duration::from_secs(30) }
    }

    /// Looks for helpers in these directories, written like `PATH`, instead of those of the process.
    #[must_use]
    pub fn with_helper_path(mut self, path: impl Into<OsString>) -> Self {
        self.helper_path = Some(path.into());
        self
    }

    /// How long a helper may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What is known for a registry; none means nobody in particular.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn find(&self, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
        let config = self.read()?;
        let server = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
        let helper = config.cred_helpers.get(server).or_else(|| config.cred_helpers.get(registry));
        if let Some(helper) = helper {
            return self.ask(helper, server);
        }
        if !config.creds_store.is_empty()
            && let Some(found) = self.ask(&config.creds_store, server)?
        {
            return Ok(Some(found));
        }
        let exact = config.auths.get(server);
        let alike = || config.auths.iter().find(|(key, _)| host(key) == host(server)).map(|(_, auth)| auth);
        exact.or_else(alike).map_or(Ok(None), |auth| self.decode(auth))
    }

    fn read(&self) -> Result<ConfigFile, CredentialsError> {
        let invalid = |reason: String| CredentialsError::File { path: self.file.clone(), reason };
        let file = match std::fs::File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
            Err(error) => return Err(invalid(error.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| invalid(error.to_string()))?;
        if bytes.len() as u64 > LIMIT {
            return Err(invalid(format!("it is larger than {LIMIT} bytes")));
        }
        // The reason names a line, never a value.
        serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("line {}, column {}", error.line(), error.column())))
    }

    fn decode(&self, auth: &Auth) -> Result<Option<Credentials>, CredentialsError> {
        if !auth.registrytoken.is_empty() {
            return Ok(Some(Credentials::Bearer(auth.registrytoken.clone())));
        }
        if !auth.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(auth.identitytoken.clone())));
        }
        let (user, password) = if auth.auth.is_empty() {
            (auth.username.clone(), auth.password.clone())
        } else {
            let invalid = || CredentialsError::File {
                path: self.file.clone(),
                reason: "an `auth` is not the base64 of `user:password`".to_owned(),
            };
            let padding =
                GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let decoder = GeneralPurpose::new(&base64::alphabet::STANDARD, padding);
            let bytes = decoder.decode(auth.auth.trim()).map_err(|_| invalid())?;
            let text = String::from_utf8(bytes).map_err(|_| invalid())?;
            let (user, password) = text.split_once(':').ok_or_else(invalid)?;
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        Ok((!user.is_empty()).then_some(Credentials::Password { user, password }))
    }

    /// Runs `docker-credential-<name> get`.
    fn ask(&self, name: &str, server: &str) -> Result<Option<Credentials>, CredentialsError> {
        let helper = format!("docker-credential-{name}");
        let failed = |reason: String| CredentialsError::Helper {
            helper: helper.clone(),
            path: self.file.clone(),
            reason,
        };
        if name.is_empty()
            || !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        {
            return Err(failed("is not the name of a program".to_owned()));
        }
        let mut command = Command::new(&helper);
        if let Some(path) = &self.helper_path {
            command.env("PATH", path);
        }
        let (success, output) = run(command.arg("get"), server, self.timeout).map_err(failed)?;
        let text = String::from_utf8_lossy(&output);
        if !success {
            // Every helper says it so.
            if text.contains("credentials not found") {
                return Ok(None);
            }
            return Err(failed(format!("failed for {server}")));
        }
        let found: FromHelper = serde_json::from_slice(&output)
            .map_err(|_| failed(format!("gave no valid answer for {server}")))?;
        Ok(match found {
            FromHelper { username, secret } if username == "<token>" => Some(Credentials::Identity(secret)),
            FromHelper { username, .. } if username.is_empty() => None,
            FromHelper { username, secret } => {
                Some(Credentials::Password { user: username, password: secret })
            }
        })
    }
}

/// Runs a program with an input, for a limited time. Gives its success and its output.
fn run(command: &mut Command, input: &str, timeout: Duration) -> Result<(bool, Vec<u8>), String> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|error| format!("cannot be started: {error}"))?;
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let stdout = child.stdout.take().expect("it is a pipe");
    // A helper that does not read its input is none of our problems.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.take(LIMIT).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    let deadline = Instant::now() + timeout;
    let output = receiver.recv_timeout(timeout);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if output.is_ok() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not answer within {} s", timeout.as_secs_f32()));
            }
        }
    };
    Ok((status.success(), output.unwrap_or_default()))
}

/// Host and port of a key in `auths`, which may be a whole address.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// The file in Docker's folder of settings.
impl From<&Path> for DockerCredentials {
    fn from(folder: &Path) -> Self {
        Self::new(folder.join("config.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Space(tempfile::TempDir);

    impl Space {
        fn new(config: &str) -> Self {
            let space = Self(tempfile::tempdir().unwrap());
            std::fs::write(space.0.path().join("config.json"), config).unwrap();
            space
        }

        fn helper(&self, name: &str, script: &str) {
            let file = self.0.path().join(format!("docker-credential-{name}"));
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn credentials(&self) -> DockerCredentials {
            let path = format!("{}:/usr/bin:/bin", self.0.path().display());
            DockerCredentials::from(self.0.path()).with_helper_path(path)
        }

        fn find(&self, registry: &str) -> Result<Option<Credentials>, String> {
            self.credentials().find(registry).map_err(|error| error.to_string())
        }
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn the_file_alone() {
        let space = Space::new(
            r#"{"auths":{"r.example:5000":{"auth":"dXNlcjpwYTpzcw=="},"https://old.example/v2/":{"auth":"dTpw"},
               "https://index.docker.io/v1/":{"username":"hub","password":"secret"},
               "id.example":{"auth":"dTpw","identitytoken":"T"},"empty.example":{},"bad.example":{"auth":"?"}},"HttpHeaders":{}}"#,
        );
        assert_eq!(space.find("r.example:5000"), Ok(password("user", "pa:ss")));
        assert_eq!(space.find("r.example"), Ok(None));
        assert_eq!(space.find("old.example"), Ok(password("u", "p")));
        assert_eq!(space.find("docker.io"), Ok(password("hub", "secret")));
        assert_eq!(space.find("id.example"), Ok(Some(Credentials::Identity("T".into()))));
        assert_eq!(space.find("empty.example"), Ok(None));
        assert!(space.find("bad.example").unwrap_err().contains("base64"));
        assert_eq!(DockerCredentials::new("/nowhere/config.json").find("r.example").unwrap(), None);
    }

    #[test]
    fn helpers_are_asked_first() {
        let space = Space::new(
            r#"{"auths":{"file.example":{"auth":"dTpw"}},"credsStore":"all","credHelpers":{"t.example":"token","b.example":"broken","e.example":"../../bin/sh"}}"#,
        );
        space.helper(
            "all",
            r#"read server || true; [ "$1" = get ] || exit 9
               case $server in
               s.example) echo '{"ServerURL":"s.example","Username":"me","Secret":"word"}';;
               https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"x"}';;
               *) echo credentials not found in native keychain; exit 1;;
               esac"#,
        );
        space.helper("token", r#"echo '{"Username":"<token>","Secret":"T"}'"#);
        space.helper("broken", "echo secret-in-output; exit 3");
        assert_eq!(space.find("s.example"), Ok(password("me", "word")));
        assert_eq!(space.find("docker.io"), Ok(password("hub", "x")));
        assert_eq!(space.find("t.example"), Ok(Some(Credentials::Identity("T".into()))));
        assert_eq!(space.find("file.example"), Ok(password("u", "p")));
        assert_eq!(space.find("other.example"), Ok(None));
        let error = space.find("b.example").unwrap_err();
        assert!(error.contains("docker-credential-broken") && !error.contains("secret-in-output"), "{error}");
        assert!(space.find("e.example").unwrap_err().contains("not the name of a program"));
    }

    #[test]
    fn a_helper_that_hangs_is_ended() {
        let space = Space::new(r#"{"credsStore":"slow"}"#);
        space.helper("slow", "exec sleep 1000");
        let credentials = space.credentials().with_timeout(Duration::from_millis(50));
        assert!(credentials.find("a.example").unwrap_err().to_string().contains("did not answer"));
    }

    #[test]
    fn a_broken_file_is_named_without_its_values() {
        let space = Space::new(r#"{"auths":{"a":{"auth":"c2VjcmV0" "#);
        let error = space.find("a").unwrap_err();
        assert!(error.contains("config.json") && !error.contains("c2Vj"), "{error}");
        assert!(!format!("{:?}", password("u", "secret")).contains("secret"));
    }
}
