//! A blob on its way to a registry: in one request, or in pieces that can be taken up again.

use std::cell::RefCell;
use std::io::{self, Read};

use ureq::Body;
use ureq::http::{Method, Response, Uri, header};

use super::auth::{Scope, percent};
use super::client::{Client, same_digest};
use super::error::Problem;
use super::http::{Call, Payload, location, refusal};
use super::{OpenBlob, Repository};
use crate::document::Descriptor;

const BYTES: &str = "application/octet-stream";

impl Client {
    /// Sends a blob, from the start if an upload cannot be taken up again.
    pub(super) fn try_upload(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
    ) -> Result<(), Problem> {
        let upload = Upload {
            client: self,
            repository,
            descriptor,
            scope: Scope::push(&repository.name),
            content: Content { open, state: RefCell::new(None) },
        };
        let mut attempt = 1;
        loop {
            match upload.session() {
                Err(problem) if problem.is_temporary() && attempt < self.http().options.attempts => {
                    self.http().wait(attempt, None);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

struct Upload<'a, 'o> {
    client: &'a Client,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    scope: Scope,
    content: Content<'o>,
}

impl Upload<'_, '_> {
    /// One upload from its beginning to its end.
    fn session(&self) -> Result<(), Problem> {
        let url = self.client.url(self.repository, "blobs/uploads/")?;
        let response = self.send(Call::new(Method::POST, url.clone()).body(nothing()))?;
        let mut url = accepted(response, &url, &[202])?;
        let (size, chunk) = (self.descriptor.size, self.client.http().options.chunk);
        if size <= chunk {
            return self.complete(&url, 0);
        }
        let (mut at, mut failures) = (0, 0);
        while at < size {
            match self.piece(&url, at, size.min(at.saturating_add(chunk))) {
                Ok(next) => {
                    at = size.min(at + chunk);
                    url = next;
                    failures = 0;
                }
                Err(problem) => {
                    failures += 1;
                    let again = problem.is_temporary() || matches!(problem, Problem::Status(416, _));
                    if !again || failures >= self.client.http().options.attempts {
                        return Err(problem);
                    }
                    self.client.http().wait(failures, None);
                    (url, at) = self.state(&url)?;
                }
            }
        }
        self.complete(&url, size)
    }

    /// Sends the bytes from `start` to `end`. Gives the place to go on.
    fn piece(&self, url: &Uri, start: u64, end: u64) -> Result<Uri, Problem> {
        let open = || self.content.from(start);
        let body = Payload { length: end - start, open: &open };
        let call = Call::new(Method::PATCH, url.clone())
            .header(header::CONTENT_TYPE, BYTES)
            .header(header::CONTENT_RANGE, format!("{start}-{}", end - 1))
            .body(body)
            .once();
        accepted(self.send(call)?, url, &[202])
    }

    /// Where an upload is, after a failure: the place to go on and the bytes that arrived.
    fn state(&self, url: &Uri) -> Result<(Uri, u64), Problem> {
        let response = self.send(Call::new(Method::GET, url.clone()))?;
        if response.status().as_u16() != 204 {
            // It is gone; a new one is begun.
            return Err(Problem::Unreachable("the upload was lost".to_owned()));
        }
        let range = response.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let last = range.and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok());
        // `0-0` is said of nothing and of one byte; then nothing is assumed, and the registry corrects with 416.
        let arrived = last.map_or(0, |last| if last == 0 { 0 } else { last.saturating_add(1) });
        if arrived > self.descriptor.size {
            return Err(Problem::Broken("more has arrived than was sent".to_owned()));
        }
        let next = if response.headers().contains_key(header::LOCATION) {
            location(&response, url)?
        } else {
            url.clone()
        };
        Ok((next, arrived))
    }

    /// Sends the bytes from `start` on and ends the upload.
    fn complete(&self, url: &Uri, start: u64) -> Result<(), Problem> {
        let separator = if url.query().is_some() { '&' } else { '?' };
        let digest = percent(&self.descriptor.digest.to_string());
        let target = format!("{url}{separator}digest={digest}")
            .parse()
            .map_err(|_| Problem::Broken("its `Location` is not valid".to_owned()))?;
        let open = || self.content.from(start);
        let body = Payload { length: self.descriptor.size - start, open: &open };
        let call = Call::new(Method::PUT, target).header(header::CONTENT_TYPE, BYTES).body(body).once();
        let response = self.send(call)?;
        match response.status().as_u16() {
            200 | 201 | 204 => same_digest(&response, &self.descriptor.digest),
            // The upload is gone: begin a new one.
            404 => Err(Problem::Unreachable("the upload was lost".to_owned())),
            _ => Err(refusal(response)),
        }
    }

    fn send(&self, call: Call<'_>) -> Result<Response<Body>, Problem> {
        self.client.send(self.repository, &self.scope, call)
    }
}

/// The place that an answer names, if its status is one of these.
fn accepted(response: Response<Body>, base: &Uri, statuses: &[u16]) -> Result<Uri, Problem> {
    if !statuses.contains(&response.status().as_u16()) {
        return Err(refusal(response));
    }
    location(&response, base)
}

fn nothing() -> Payload<'static> {
    Payload { length: 0, open: &|| Ok(Box::new(io::empty())) }
}

/// The bytes of a blob from any place on. One reader is kept, so pieces in order are read once.
struct Content<'a> {
    open: OpenBlob<'a>,
    state: RefCell<Option<At<'a>>>,
}

struct At<'a> {
    position: u64,
    reader: Box<dyn Read + 'a>,
}

impl Content<'_> {
    fn from(&self, start: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut state = self.state.borrow_mut();
        if state.as_ref().is_none_or(|at| at.position > start) {
            *state = Some(At { position: 0, reader: (self.open)()? });
        }
        let at = state.as_mut().expect("it was set");
        let skip = start - at.position;
        if io::copy(&mut (&mut at.reader).take(skip), &mut io::sink())? < skip {
            return Err(io::Error::other("the content is shorter than announced"));
        }
        at.position = start;
        drop(state);
        Ok(Box::new(Onward(self)))
    }
}

struct Onward<'a, 'b>(&'b Content<'a>);

impl Read for Onward<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state.borrow_mut();
        let at = state.as_mut().expect("opened before it is read");
        let count = at.reader.read(buffer)?;
        at.position += count as u64;
        Ok(count)
    }
}
