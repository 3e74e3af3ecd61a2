//! Files of web servers: what `ADD https://...` fetches, with the same retries, limits and caution as registries.

use std::io::{self, Read};

use ureq::http::{Method, StatusCode, Uri, header};

use super::client::Client;
use super::error::Problem;
use super::http::{Call, refusal};

/// What a server said of a file, to ask later whether it changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub modified: Option<String>,
}

/// A file that is being fetched.
pub struct Fetched {
    /// What the server said of it.
    pub validators: Validators,
    /// The name the server gives it, if it does: the last part of it, never a path.
    pub name: Option<String>,
    /// Its bytes.
    pub body: Box<dyn Read + Send>,
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch {url}: {reason}")]
pub struct FetchError {
    /// Its address, without user and password.
    pub url: String,
    /// In words.
    pub reason: String,
}

impl Client {
    /// Fetches a file; none if it is what `known` says of it. Nobody's credentials are sent.
    ///
    /// # Errors
    /// [`FetchError`], after all attempts.
    pub fn fetch(&self, url: &str, known: &Validators) -> Result<Option<Fetched>, FetchError> {
        let shown = without_login(url);
        let failed = |reason: String| FetchError { url: shown.clone(), reason };
        let address: Uri = url.parse().map_err(|_| failed("this is no valid address".into()))?;
        let mut call = Call::new(Method::GET, address);
        if let Some(etag) = &known.etag {
            call = call.header(header::IF_NONE_MATCH, etag);
        } else if let Some(modified) = &known.modified {
            call = call.header(header::IF_MODIFIED_SINCE, modified);
        }
        let host = call.url.host().unwrap_or("the server").to_owned();
        let words = |problem: Problem| match problem {
            Problem::Status(status, _) => format!("the server answered {status}"),
            other => other.text(&host),
        };
        let response = self.http().send(&call).map_err(|problem| failed(words(problem)))?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(failed(words(refusal(response))));
        }
        let text = |name: header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let validators = Validators { etag: text(header::ETAG), modified: text(header::LAST_MODIFIED) };
        let name = text(header::CONTENT_DISPOSITION).and_then(|value| disposition(&value));
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let body = response.into_body().into_reader();
        let body = Box::new(Whole { body, left: length });
        Ok(Some(Fetched { validators, name, body }))
    }
}

/// Ends with an error if less comes than was announced.
struct Whole<R> {
    body: R,
    left: Option<u64>,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        if let Some(left) = &mut self.left {
            if count == 0 && *left > 0 && !buffer.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended early"));
            }
            *left = left.saturating_sub(count as u64);
        }
        Ok(count)
    }
}

/// The file name of a `Content-Disposition`.
fn disposition(value: &str) -> Option<String> {
    let name = value.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    let name = name.trim_matches('"').rsplit(['/', '\\']).next()?.trim();
    let usable = !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    usable.then(|| name.to_owned())
}

/// An address without what stands before `@` in its host part.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for (value, expected) in [
            ("attachment; filename=\"a.tar\"", Some("a.tar")),
            ("attachment; filename=../../etc/passwd", Some("passwd")),
            ("attachment; filename=..", None),
            ("inline", None),
        ] {
            assert_eq!(disposition(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn logins_are_not_shown() {
        assert_eq!(without_login("https://me:secret@host/a@b"), "https://host/a@b");
        assert_eq!(without_login("http://host/a"), "http://host/a");
    }
}
