//! A blob on its way here. A connection that breaks off or stalls is taken up again where it was.

use std::io::{self, Read};

use ureq::http::{Method, header};

use super::auth::Scope;
use super::client::Client;
use super::error::Problem;
use super::http::{Call, problem, refusal};
use super::{RegistryError, Repository};
use crate::blob::BlobError;
use crate::document::Descriptor;

/// The bytes as they come, not compared with the digest.
pub(super) struct Download {
    client: Client,
    repository: Repository,
    descriptor: Descriptor,
    body: Option<Box<dyn Read + Send>>,
    at: u64,
    /// Failures since [`ADVANCE`] bytes arrived in one piece, and where the last one was.
    failures: u32,
    failed_at: u64,
}

/// Bytes after which a connection counts as good.
const ADVANCE: u64 = 1 << 20;

impl Download {
    pub fn start(
        client: Client,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Self, RegistryError> {
        let mut download = Self {
            client,
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            body: None,
            at: 0,
            failures: 0,
            failed_at: 0,
        };
        download.connect().map_err(|problem| download.error(problem))?;
        Ok(download)
    }

    /// Asks for the bytes from where it is.
    fn connect(&mut self) -> Result<(), Problem> {
        let url = self.client.url(&self.repository, &format!("blobs/{}", self.descriptor.digest))?;
        let mut call = Call::new(Method::GET, url);
        if self.at > 0 {
            call = call.header(header::RANGE, format!("bytes={}-", self.at));
        }
        let response = self.client.send(&self.repository, &Scope::pull(&self.repository.name), call)?;
        let header = |name: header::HeaderName| response.headers().get(name)?.to_str().ok();
        let (expected, digest) = (self.descriptor.size, self.descriptor.digest);
        let skip = match response.status().as_u16() {
            200 => {
                let length = header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
                if let Some(length) = length.filter(|length| *length != expected) {
                    return Err(BlobError::Size { digest, expected, longer: length > expected }.into());
                }
                self.at
            }
            206 if header(header::CONTENT_RANGE)
                .is_some_and(|range| range.starts_with(&format!("bytes {}-", self.at))) =>
            {
                0
            }
            206 => return Err(Problem::Broken("it sends another part than was asked for".to_owned())),
            _ => return Err(refusal(response)),
        };
        let mut body: Box<dyn Read + Send> = Box::new(response.into_body().into_reader());
        // The server sends the whole blob again.
        if io::copy(&mut (&mut body).take(skip), &mut io::sink()).map_err(|error| problem(error.into()))?
            < skip
        {
            return Err(Problem::Unreachable("the connection broke off".to_owned()));
        }
        self.body = Some(body);
        Ok(())
    }

    /// Takes the download up again after a failure, or gives up.
    fn again(&mut self, mut problem: Problem) -> io::Result<()> {
        self.body = None;
        loop {
            if self.at >= self.failed_at.saturating_add(ADVANCE) {
                self.failures = 0;
            }
            self.failed_at = self.at;
            self.failures += 1;
            if self.failures >= self.client.http().options.attempts || !problem.is_temporary() {
                return Err(self.error(problem).into_io());
            }
            self.client.http().wait(self.failures, None);
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(next) => problem = next,
            }
        }
    }

    fn error(&self, problem: Problem) -> RegistryError {
        RegistryError::new(&self.repository, format!("reading blob {}", self.descriptor.digest), problem)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(body) = &mut self.body else { return Ok(0) };
            let failure = match body.read(buffer) {
                Ok(0) if self.at < self.descriptor.size && !buffer.is_empty() => {
                    Problem::Unreachable("the connection broke off".to_owned())
                }
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) => problem(error.into()),
            };
            self.again(failure)?;
        }
    }
}
