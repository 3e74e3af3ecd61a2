//! One exchange with a server: where it may go, how long it may take, when it is tried again.
//!
//! Redirects are followed here and not by the HTTP crate, because a credential must not leave the host it was meant for,
//! and a connection must not become less secure on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Method, Response, Uri, header};
use ureq::tls::{ClientCert, RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use super::certificates::{Certificates, pem_certificates};
use super::error::{Problem, WANTS_HTTPS};

/// How to talk to registries.
#[derive(Clone)]
pub struct Options {
    /// Registries, as `host` or `host:port`, that are spoken to in plain http. Those on the loopback interface are, unless there
    /// are certificates for them.
    pub insecure: BTreeSet<String>,
    /// Certificates, as PEM text, of the authorities to trust instead of the system's. What is no certificate is passed over.
    pub authorities: Option<Vec<u8>>,
    /// Folders with a folder `host` or `host:port` of certificates for some registries, as `/etc/docker/certs.d` is one. For each
    /// registry the first that has one counts.
    pub certificates: Vec<PathBuf>,
    /// Whether proxies are used that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name; never for the loopback interface.
    pub proxies: bool,
    /// How often one request is made before it counts as failed; a download counts anew once bytes have arrived.
    pub attempts: u32,
    /// Shortest pause before the second attempt. It doubles with each further one, and a random part is added.
    pub pause: Duration,
    /// Longest pause, also if the server asks for a longer one.
    pub longest_pause: Duration,
    /// How long nothing may arrive or be taken.
    pub idle: Duration,
    /// Bytes from which a blob is uploaded in pieces of this size, so that a broken upload can go on.
    pub chunk: u64,
    /// Bytes of an index or a manifest.
    pub document: u64,
    /// What waits; replaced in tests.
    pub sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            insecure: BTreeSet::new(),
            authorities: None,
            certificates: Vec::new(),
            proxies: true,
            attempts: 5,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            chunk: 64 << 20,
            document: 4 << 20,
            sleep: Arc::new(std::thread::sleep),
        }
    }
}

/// A request. It may be made several times.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: Uri,
    pub headers: Vec<(header::HeaderName, String)>,
    pub authorization: Option<String>,
    pub body: Option<Payload<'a>>,
    /// Whether it may be made only once, because it changes something at the server.
    once: bool,
}

/// What a request sends: how many bytes, and a reader of them from the start.
pub(super) struct Payload<'a> {
    pub length: u64,
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, url: Uri) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, body: None, once: false }
    }

    pub fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    pub fn body(mut self, body: Payload<'a>) -> Self {
        self.body = Some(body);
        self
    }
}

/// Makes requests.
pub(super) struct Http {
    pub options: Options,
    /// For hosts beyond this machine.
    outward: Agent,
    /// For the loopback interface.
    inward: Agent,
    /// For hosts with certificates of their own; none for others.
    own: Mutex<BTreeMap<String, Option<Agent>>>,
}

const MAX_REDIRECTS: usize = 5;

impl Http {
    pub fn new(options: Options) -> Self {
        let roots = roots(options.authorities.as_deref());
        let outward = agent(&options, roots.clone(), None, proxy(&options));
        let inward = agent(&options, roots, None, None);
        Self { options, outward, inward, own: Mutex::default() }
    }

    /// Whether a host, with its port if it has one, is spoken to in plain http.
    pub fn is_plain(&self, host: &str) -> bool {
        let has_certificates = || self.options.certificates.iter().any(|folder| folder.join(host).is_dir());
        self.options.insecure.contains(host) || (is_loopback(host) && !has_certificates())
    }

    /// What speaks to a host.
    fn agent(&self, url: &Uri) -> Result<Agent, Problem> {
        let host = url.authority().map_or("", |authority| authority.as_str());
        let inward = is_loopback(host);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if !own.contains_key(host) {
            let found = Certificates::of(host, &self.options.certificates)?;
            let proxy = if inward { None } else { proxy(&self.options) };
            let made = found.map(|found| agent(&self.options, found.roots, found.client, proxy));
            own.insert(host.to_owned(), made);
        }
        let usual = || if inward { self.inward.clone() } else { self.outward.clone() };
        Ok(own[host].clone().unwrap_or_else(usual))
    }

    /// Makes a request until it succeeds, fails for good or has been tried often enough. Any status that is not
    /// temporary is a success here.
    pub fn send(&self, call: &Call<'_>) -> Result<Response<Body>, Problem> {
        let mut attempt = 1;
        loop {
            let (problem, after) = match self.once(call) {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let problem = if status == 429 {
                        Problem::Throttled
                    } else {
                        Problem::Status(status, String::new())
                    };
                    if !problem.is_temporary() {
                        return Ok(response);
                    }
                    let after = retry_after(&response);
                    (refusal(response), after)
                }
                Err(problem) => (problem, None),
            };
            if call.once || attempt >= self.options.attempts || !problem.is_temporary() {
                return Err(problem);
            }
            self.wait(attempt, after);
            attempt += 1;
        }
    }

    /// Waits before another attempt: longer each time, or as long as the server says.
    pub fn wait(&self, attempt: u32, after: Option<Duration>) {
        let Options { pause, longest_pause, .. } = self.options;
        let usual = pause.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let share = (RandomState::new().hash_one(attempt) % 1000) as u32;
        let random = usual.saturating_mul(share) / 1000;
        (self.options.sleep)(after.unwrap_or(usual.saturating_add(random)).min(longest_pause));
    }

    /// One attempt, over all redirects.
    fn once(&self, call: &Call<'_>) -> Result<Response<Body>, Problem> {
        let mut url = call.url.clone();
        let mut authorization = call.authorization.as_deref();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(call, &url, authorization)?;
            if response.status().as_u16() == 401 && origin(&url) != origin(&call.url) {
                // What it asks for must not be answered with what is meant for another host.
                return Err(Problem::Redirect(format!("{} asks for a login", origin(&url))));
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            if !matches!(call.method, Method::GET | Method::HEAD) {
                return Err(Problem::Redirect(format!("a {} is sent elsewhere", call.method)));
            }
            let target = location(&response, &url)?;
            if target.scheme_str() != Some("https") && url.scheme_str() == Some("https") {
                return Err(Problem::Redirect(format!("from https to {}", origin(&target))));
            }
            if origin(&target) != origin(&url) {
                authorization = None;
            }
            url = target;
        }
        Err(Problem::Redirect(format!("more than {MAX_REDIRECTS} of them")))
    }

    fn exchange(
        &self,
        call: &Call<'_>,
        url: &Uri,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Problem> {
        let mut request = ureq::http::Request::builder().method(call.method.clone()).uri(url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let agent = self.agent(url)?;
        let broken = |error: ureq::http::Error| Problem::Broken(error.to_string());
        let Some(payload) = &call.body else {
            return agent.run(request.body(SendBody::none()).map_err(broken)?).map_err(problem);
        };
        let opened = (payload.open)().map_err(|error| Problem::Local(error.to_string()))?;
        let mut reader = Payloaded { source: opened, left: payload.length, failed: None };
        let body = SendBody::from_reader(&mut reader);
        let request = request.header(header::CONTENT_LENGTH, payload.length).body(body).map_err(broken)?;
        let result = agent.run(request);
        // A source that fails is no failure of the connection, and trying again would not help.
        match (reader.failed, result) {
            (Some(reason), _) => Err(Problem::Local(reason)),
            (None, result) => result.map_err(problem),
        }
    }
}

fn proxy(options: &Options) -> Option<ureq::Proxy> {
    if options.proxies { ureq::Proxy::try_from_env() } else { None }
}

fn agent(
    options: &Options,
    roots: RootCerts,
    client: Option<ClientCert>,
    proxy: Option<ureq::Proxy>,
) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .client_cert(client)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    ureq::config::Config::builder()
        .user_agent(concat!("quern/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .tls_config(tls)
        .timeout_connect(Some(options.idle))
        .timeout_resolve(Some(options.idle))
        .timeout_per_read(Some(options.idle))
        .timeout_per_write(Some(options.idle))
        .max_idle_connections(16)
        .max_idle_connections_per_host(8)
        .build()
        .new_agent()
}

fn roots(authorities: Option<&[u8]>) -> RootCerts {
    let Some(pem) = authorities else { return RootCerts::PlatformVerifier };
    RootCerts::Specific(Arc::new(pem_certificates(pem).collect()))
}

/// Passes on what a source gives, not more than announced, and remembers why it failed.
struct Payloaded<'a> {
    source: Box<dyn Read + 'a>,
    left: u64,
    failed: Option<String>,
}

impl Read for Payloaded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let result = match self.source.read(&mut buffer[..most]) {
            Ok(0) if most > 0 => Err(io::Error::other("the content is shorter than announced")),
            other => other,
        };
        match &result {
            Ok(count) => self.left -= *count as u64,
            Err(error) => self.failed = Some(error.to_string()),
        }
        result
    }
}

/// What a failure of the HTTP crate means.
pub(super) fn problem(error: ureq::Error) -> Problem {
    match error {
        ureq::Error::Timeout(_) => Problem::Stalled,
        ureq::Error::Io(error) if is_tls(&error) => Problem::Tls(error.to_string()),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Problem::Stalled,
        ureq::Error::Io(error) => Problem::Unreachable(error.to_string()),
        ureq::Error::HostNotFound => Problem::Unreachable("no such host".to_owned()),
        ureq::Error::ConnectionFailed => Problem::Unreachable("no connection".to_owned()),
        ureq::Error::Tls(reason) => Problem::Tls(reason.to_owned()),
        ureq::Error::Rustls(error) => Problem::Tls(error.to_string()),
        other => Problem::Broken(other.to_string()),
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// Reads a small answer; more than `limit` bytes are an error.
pub(super) fn small(response: Response<Body>, limit: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut reader = response.into_body().into_reader().take(limit + 1);
    reader.read_to_end(&mut bytes).map_err(|error| problem(error.into()))?;
    if bytes.len() as u64 > limit {
        return Err(Problem::Broken(format!("it is larger than the limit of {limit} bytes")));
    }
    Ok(bytes)
}

/// A status that is no success, with the words of the registry.
pub(super) fn refusal(response: Response<Body>) -> Problem {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Words>,
    }
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Words {
        code: String,
        message: String,
    }
    let status = response.status().as_u16();
    let answer = small(response, 64 << 10).unwrap_or_default();
    let text = std::str::from_utf8(&answer).unwrap_or_default().trim();
    if status == 400 && text.ends_with(&format!("{WANTS_HTTPS}.")) {
        return Problem::Status(status, text.chars().take(300).collect());
    }
    let answer = serde_json::from_slice::<Answer>(&answer).ok();
    let words = answer.map(|answer| answer.errors.into_iter().next().unwrap_or_default());
    let words = words.map(|words| if words.message.is_empty() { words.code } else { words.message });
    let words: String = words.unwrap_or_default().chars().take(300).filter(|c| !c.is_control()).collect();
    match status {
        403 => Problem::Denied(words),
        404 => Problem::NotFound,
        429 => Problem::Throttled,
        status => Problem::Status(status, words),
    }
}

/// Seconds or a date, as the server wants it.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(date.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

/// Where an answer points, as a whole address.
pub(super) fn location(response: &Response<Body>, base: &Uri) -> Result<Uri, Problem> {
    let value = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Problem::Broken("it has no valid `Location`".to_owned()))?;
    join(base, value).ok_or_else(|| Problem::Broken("its `Location` is not valid".to_owned()))
}

/// An address that may be relative to another one. Only http and https.
pub(super) fn join(base: &Uri, text: &str) -> Option<Uri> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else if let Some(rest) = text.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str()?)
    } else if text.starts_with('/') {
        format!("{}{text}", origin(base))
    } else {
        let path = base.path();
        format!("{}{}/{text}", origin(base), &path[..path.rfind('/')?])
    };
    let uri: Uri = whole.split('#').next()?.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (known && bare).then_some(uri)
}

/// Scheme, host and port.
pub(super) fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    format!("{scheme}://{}:{port}", uri.host().unwrap_or_default().to_ascii_lowercase())
}

/// Whether a host, with or without a port, is this machine by its name alone.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/?x=1".parse().unwrap();
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(join(&base, text).map(|uri| uri.to_string()).as_deref(), expected, "{text}");
        };
        check("/v2/b?c=d", Some("https://r.example:5000/v2/b?c=d"));
        check("uuid", Some("https://r.example:5000/v2/a/blobs/uploads/uuid"));
        check("//cdn.example/x", Some("https://cdn.example/x"));
        check("http://other/x#part", Some("http://other/x"));
        check("ftp://other/x", None);
        check("file:///etc/passwd", None);
        check("https://user:pass@other/", None);
        check("https://", None);
        check("a b", None);
        assert_ne!(origin(&base), origin(&"https://r.example/".parse().unwrap()));
        assert_eq!(origin(&"https://R.example/".parse().unwrap()), "https://r.example:443");
    }

    #[test]
    fn this_machine_by_name() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
            "r.localhost:1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "127.0.0.1.example:80", "10.0.0.1", "[fe80::1]:80", "", "0.0.0.0"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
