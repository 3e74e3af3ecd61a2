//! Answers to what a registry asks for: a user and a password, or a token from the service that it names.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Uri, header};

use super::challenge::{Challenge, challenges};
use super::credentials::{Credentials, DockerCredentials};
use super::error::Problem;
use super::http::{Call, Http, Payload, join, refusal, small};

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// The repository.
    pub name: String,
    /// Whether it writes there.
    pub push: bool,
    /// Another repository that it reads from.
    pub from: Option<String>,
}

impl Scope {
    pub fn pull(name: &str) -> Self {
        Self { name: name.to_owned(), push: false, from: None }
    }

    pub fn push(name: &str) -> Self {
        Self { name: name.to_owned(), push: true, from: None }
    }

    /// As token services want it.
    fn texts(&self) -> Vec<String> {
        let own = if self.push { "pull,push" } else { "pull" };
        let from = self.from.iter().map(|from| format!("repository:{from}:pull"));
        std::iter::once(format!("repository:{}:{own}", self.name)).chain(from).collect()
    }
}

/// Credentials and tokens of all registries; kept while the process lives, never on disk.
pub(super) struct Auth {
    credentials: Option<DockerCredentials>,
    known: Mutex<Known>,
    /// Held while a token is fetched, so that many threads do not all fetch one.
    fetching: Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// Headers for registries that want user and password at every request.
    basic: HashMap<String, String>,
    /// By registry and scope.
    tokens: HashMap<(String, String), Token>,
}

struct Token {
    header: String,
    until: Instant,
}

/// An answer of a token service.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Longest answer of a token service, and longest token.
const ANSWER_LIMIT: u64 = 1 << 20;
const TOKEN_LIMIT: usize = 64 << 10;

impl Auth {
    pub fn new(credentials: Option<DockerCredentials>) -> Self {
        Self { credentials, known: Mutex::default(), fetching: Mutex::default() }
    }

    /// The header that worked before, for this or a wider scope.
    pub fn cached(&self, registry: &str, scope: &Scope) -> Option<String> {
        let known = self.known();
        if let Some(basic) = known.basic.get(registry) {
            return Some(basic.clone());
        }
        let wider = Scope { push: true, ..scope.clone() };
        [scope, &wider].into_iter().find_map(|scope| {
            let token = known.tokens.get(&(registry.to_owned(), scope.texts().join(" ")))?;
            (Instant::now() < token.until).then(|| token.header.clone())
        })
    }

    /// The header that answers a refusal. `used` is the one that was refused.
    pub fn answer(
        &self,
        http: &Http,
        registry: &str,
        scope: &Scope,
        headers: &HeaderMap,
        used: Option<&str>,
    ) -> Result<String, Problem> {
        let _one_at_a_time = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let meanwhile = self.cached(registry, scope).filter(|header| Some(header.as_str()) != used);
        if let Some(header) = meanwhile {
            return Ok(header);
        }
        let asked: Vec<Challenge> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let credentials = self.credentials(registry)?;
        let by = |scheme: &str| asked.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(challenge) = by("bearer") {
            let header = match credentials {
                Some(Credentials::Bearer(token)) => bearer(&token)?,
                credentials => {
                    let token = fetch(http, registry, scope, challenge, credentials.as_ref())?;
                    let header = token.header.clone();
                    let key = (registry.to_owned(), scope.texts().join(" "));
                    self.known().tokens.insert(key, token);
                    header
                }
            };
            return Ok(header);
        }
        if by("basic").is_none() {
            return Err(Problem::Broken("it asks for a login in no known way".to_owned()));
        }
        match credentials {
            Some(Credentials::Password { user, password }) => {
                let header = basic(&user, &password);
                self.known().basic.insert(registry.to_owned(), header.clone());
                Ok(header)
            }
            _ => Err(Problem::LoginNeeded),
        }
    }

    /// What a second refusal means.
    pub fn refused(&self, registry: &str) -> Problem {
        self.known().basic.remove(registry);
        match self.credentials(registry) {
            Ok(None) => Problem::LoginNeeded,
            Ok(Some(_)) => Problem::LoginRefused,
            Err(problem) => problem,
        }
    }

    fn credentials(&self, registry: &str) -> Result<Option<Credentials>, Problem> {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        credentials.find(registry).map_err(|error| Problem::Local(error.to_string()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets a token from the service that a challenge names.
fn fetch(
    http: &Http,
    registry: &str,
    scope: &Scope,
    challenge: &Challenge,
    credentials: Option<&Credentials>,
) -> Result<Token, Problem> {
    let realm = challenge.parameters.get("realm").map_or("", String::as_str);
    let realm = realm_of(http, registry, realm)?;
    let mut query = Vec::new();
    if let Some(service) = challenge.parameters.get("service") {
        query.push(("service", service.clone()));
    }
    let response = match credentials {
        Some(Credentials::Identity(token)) => {
            query.extend([
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", "quern".to_owned()),
                ("scope", scope.texts().join(" ")),
                ("refresh_token", token.clone()),
            ]);
            let form = encoded(&query).into_bytes();
            let open = || Ok(Box::new(Cursor::new(form.clone())) as Box<dyn std::io::Read>);
            let body = Payload { length: form.len() as u64, open: &open };
            let form_type = "application/x-www-form-urlencoded";
            http.send(&Call::new(Method::POST, realm).header(header::CONTENT_TYPE, form_type).body(body))?
        }
        credentials => {
            query.extend(scope.texts().into_iter().map(|text| ("scope", text)));
            if let Some(Credentials::Password { user, .. }) = credentials {
                query.push(("account", user.clone()));
            }
            let separator = if realm.query().is_some() { '&' } else { '?' };
            let url: Uri = format!("{realm}{separator}{}", encoded(&query))
                .parse()
                .map_err(|_| Problem::Broken("it names no valid token service".to_owned()))?;
            let mut call = Call::new(Method::GET, url);
            if let Some(Credentials::Password { user, password }) = credentials {
                call.authorization = Some(basic(user, password));
            }
            http.send(&call)?
        }
    };
    match response.status().as_u16() {
        200 => token(&small(response, ANSWER_LIMIT)?),
        400 | 401 | 403 if credentials.is_some() => Err(Problem::LoginRefused),
        401 | 403 => Err(Problem::LoginNeeded),
        _ => Err(refusal(response)),
    }
}

/// The address of a token service. It gets the password, so it must be as secure as the registry.
fn realm_of(http: &Http, registry: &str, realm: &str) -> Result<Uri, Problem> {
    let base = Uri::from_static("https://none.invalid/");
    let uri = (realm.contains("://"))
        .then(|| join(&base, realm))
        .flatten()
        .ok_or_else(|| Problem::Broken("it names no valid token service".to_owned()))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme_str() != Some("https") && !(http.is_plain(registry) && http.is_plain(authority)) {
        return Err(Problem::Redirect(format!("the token service {authority} does not speak https")));
    }
    Ok(uri)
}

fn token(answer: &[u8]) -> Result<Token, Problem> {
    let answer: TokenAnswer = serde_json::from_slice(answer)
        .map_err(|_| Problem::Broken("the token service gave no JSON".to_owned()))?;
    let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
    // Without a time, the specification says a minute. A fifth is left for clocks and slow requests.
    let seconds = answer.expires_in.unwrap_or(60.0).clamp(0.0, 86_400.0) * 0.8;
    Ok(Token { header: bearer(&text)?, until: Instant::now() + Duration::from_secs_f64(seconds) })
}

fn bearer(token: &str) -> Result<String, Problem> {
    if token.is_empty() || token.len() > TOKEN_LIMIT || !token.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(Problem::Broken("the token service gave no valid token".to_owned()));
    }
    Ok(format!("Bearer {token}"))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// As a query or a form.
fn encoded(pairs: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&percent(value));
    }
    text
}

/// Every byte but letters, digits and `-._~` as `%XX`.
pub(super) fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::http::Options;
    use super::*;

    #[test]
    fn tokens_that_are_no_header_are_refused() {
        for answer in [
            "{}",
            "[]",
            r#"{"token":"a\r\nX-Evil: 1"}"#,
            &format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_LIMIT + 1)),
            r#"{"token":"é"}"#,
        ] {
            assert!(token(answer.as_bytes()).is_err(), "{}", &answer[..answer.len().min(50)]);
        }
        let good = token(br#"{"access_token":"abc","expires_in":1e99}"#).unwrap();
        assert_eq!(good.header, "Bearer abc");
    }

    #[test]
    fn a_token_service_is_as_secure_as_the_registry() {
        let insecure = ["plain.example".to_owned()].into();
        let http = Http::new(Options { insecure, ..Options::default() });
        let check = |registry: &str, realm: &str, good: bool| {
            assert_eq!(realm_of(&http, registry, realm).is_ok(), good, "{registry} {realm}");
        };
        check("r.example", "https://auth.example/token", true);
        check("r.example", "http://auth.example/token", false);
        check("r.example", "http://127.0.0.1/token", false);
        check("plain.example", "http://127.0.0.1:99/token", true);
        check("plain.example", "http://auth.example/token", false);
        check("r.example", "/token", false);
        check("r.example", "", false);
        check("r.example", "https://user:password@auth.example/", false);
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            encoded(&[("a", "b c".into()), ("scope", "r:x/y:pull,push".into())]),
            "a=b%20c&scope=r%3Ax%2Fy%3Apull%2Cpush"
        );
    }
}
