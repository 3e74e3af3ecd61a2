//! The requests of the distribution API.

use std::io::Read;
use std::sync::Arc;

use quern_core::Digest;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Method, Response, Uri, header};

use super::auth::{Auth, Scope, percent};
use super::credentials::DockerCredentials;
use super::download::Download;
use super::error::Problem;
use super::http::{Call, Http, Options, Payload, join, location, origin, refusal, small};
use super::{OpenBlob, Registry, RegistryError, Repository};
use crate::blob::{Blob, BlobError};
use crate::document::{Descriptor, Document, media};
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// A client of real registries. Clones share connections, tokens and what is known of registries.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: Http,
    auth: Auth,
}

/// Where Docker's own registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// What a manifest may be.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const CONTENT_DIGEST: &str = "docker-content-digest";

/// Pages of tags, and tags, that are read.
const MAX_PAGES: usize = 100;
const MAX_TAGS: usize = 100_000;

impl Client {
    /// A client with the credentials of a file, or without any.
    pub fn new(options: Options, credentials: Option<DockerCredentials>) -> Self {
        Self(Arc::new(Inner { http: Http::new(options), auth: Auth::new(credentials) }))
    }

    pub(super) fn http(&self) -> &Http {
        &self.0.http
    }

    /// An address below a repository.
    pub(super) fn url(&self, repository: &Repository, rest: &str) -> Result<Uri, Problem> {
        let Repository { registry, name } = repository;
        let scheme = if self.http().is_plain(registry) { "http" } else { "https" };
        let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
        format!("{scheme}://{host}/v2/{name}/{rest}")
            .parse()
            .map_err(|_| Problem::Local(format!("`{registry}/{name}` makes no valid address")))
    }

    /// Makes a request and answers once if the registry wants to know who asks. Elsewhere nothing is told.
    pub(super) fn send(
        &self,
        repository: &Repository,
        scope: &Scope,
        mut call: Call<'_>,
    ) -> Result<Response<Body>, Problem> {
        let Inner { http, auth } = &*self.0;
        let registry = &repository.registry;
        if origin(&call.url) != origin(&self.url(repository, "")?) {
            return http.send(&call);
        }
        call.authorization = auth.cached(registry, scope);
        let response = http.send(&call)?;
        if response.status().as_u16() == 400 && call.method == Method::HEAD {
            // What is wrong stands in the answer to a GET.
            call.method = Method::GET;
            return Err(refusal(http.send(&call)?));
        }
        if response.status().as_u16() != 401 {
            return Ok(response);
        }
        let answer = auth.answer(http, registry, scope, response.headers(), call.authorization.as_deref())?;
        // Read to its end, so that the connection serves again.
        let _ = refusal(response);
        call.authorization = Some(answer);
        let response = http.send(&call)?;
        match response.status().as_u16() {
            401 => Err(auth.refused(registry)),
            _ => Ok(response),
        }
    }

    fn get_manifest(&self, repository: &Repository, name: &str) -> Result<(String, Vec<u8>), Problem> {
        let url = self.url(repository, &format!("manifests/{name}"))?;
        let call = Call::new(Method::GET, url).header(header::ACCEPT, ACCEPT);
        let response = self.send(repository, &Scope::pull(&repository.name), call)?;
        if response.status().as_u16() != 200 {
            return Err(refusal(response));
        }
        let media_type = media_type(&response).unwrap_or_default();
        Ok((media_type, small(response, self.http().options.document)?))
    }

    fn try_resolve(&self, repository: &Repository, reference: &Reference) -> Result<Descriptor, Problem> {
        let digest = reference.digest().map(ToString::to_string);
        let name = digest.as_deref().or(reference.tag()).unwrap_or("latest");
        let url = self.url(repository, &format!("manifests/{name}"))?;
        let call = Call::new(Method::HEAD, url).header(header::ACCEPT, ACCEPT);
        let response = self.send(repository, &Scope::pull(&repository.name), call)?;
        let found = match response.status().as_u16() {
            200 => described(&response),
            // Some servers have no HEAD here.
            405 => None,
            _ => return Err(refusal(response)),
        };
        let found = if let Some(found) = found {
            found
        } else {
            let (media_type, bytes) = self.get_manifest(repository, name)?;
            Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64)
        };
        if !media::is_index(&found.media_type) && !media::is_manifest(&found.media_type) {
            return Err(Problem::Broken(format!(
                "`{}` is no type of an image",
                found.media_type.escape_debug()
            )));
        }
        match reference.digest() {
            Some(expected) if *expected != found.digest => {
                let (expected, found) = (*expected, found.digest);
                Err(BlobError::Digest { what: "the manifest", expected, found }.into())
            }
            _ => Ok(found),
        }
    }

    fn try_manifest(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, Problem> {
        let limit = self.http().options.document;
        if descriptor.size > limit {
            return Err(BlobError::TooLarge { what: "a manifest", limit }.into());
        }
        let (_, bytes) = self.get_manifest(repository, &descriptor.digest.to_string())?;
        let (expected, found) = (descriptor.digest, Digest::of(&bytes));
        if bytes.len() as u64 != descriptor.size {
            let longer = bytes.len() as u64 > descriptor.size;
            return Err(BlobError::Size { digest: expected, expected: descriptor.size, longer }.into());
        }
        if found != expected {
            return Err(BlobError::Digest { what: "the manifest", expected, found }.into());
        }
        Ok(bytes)
    }

    fn exists(&self, repository: &Repository, rest: &str) -> Result<bool, Problem> {
        let call = Call::new(Method::HEAD, self.url(repository, rest)?).header(header::ACCEPT, ACCEPT);
        let response = self.send(repository, &Scope::pull(&repository.name), call)?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(refusal(response)),
        }
    }

    fn try_mount(&self, repository: &Repository, digest: &Digest, from: &str) -> Result<bool, Problem> {
        let query = format!("blobs/uploads/?mount={}&from={}", percent(&digest.to_string()), percent(from));
        let scope = Scope { from: Some(from.to_owned()), ..Scope::push(&repository.name) };
        let open = || Ok(Box::new(std::io::empty()) as Box<dyn Read>);
        let body = Payload { length: 0, open: &open };
        let call = Call::new(Method::POST, self.url(repository, &query)?).body(body);
        let base = call.url.clone();
        let response = self.send(repository, &scope, call)?;
        match response.status().as_u16() {
            201 => Ok(true),
            202 => {
                // An upload was begun instead, and is ended; that it is not ended is no loss.
                if let Ok(url) = location(&response, &base) {
                    let _ = self.send(repository, &scope, Call::new(Method::DELETE, url));
                }
                Ok(false)
            }
            // Not allowed to read there, or no such operation: it is sent then.
            400 | 401 | 403 | 404 | 405 => Ok(false),
            _ => Err(refusal(response)),
        }
    }

    fn try_put(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        document: &Document,
    ) -> Result<(), Problem> {
        let Document { descriptor, bytes } = document;
        let digest = descriptor.digest.to_string();
        let url = self.url(repository, &format!("manifests/{}", tag.unwrap_or(&digest)))?;
        let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read>);
        let body = Payload { length: bytes.len() as u64, open: &open };
        let call = Call::new(Method::PUT, url);
        let call = call.header(header::CONTENT_TYPE, &descriptor.media_type).body(body);
        let response = self.send(repository, &Scope::push(&repository.name), call)?;
        match response.status().as_u16() {
            200..=202 => same_digest(&response, &descriptor.digest),
            _ => Err(refusal(response)),
        }
    }

    fn try_tags(&self, repository: &Repository) -> Result<Vec<String>, Problem> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut url = self.url(repository, "tags/list?n=1000")?;
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let call = Call::new(Method::GET, url.clone());
            let response = self.send(repository, &Scope::pull(&repository.name), call)?;
            if response.status().as_u16() != 200 {
                return Err(refusal(response));
            }
            let next = next_page(&response, &url)?;
            let page: Page = serde_json::from_slice(&small(response, self.http().options.document)?)
                .map_err(|_| Problem::Broken("a list of tags is not valid".to_owned()))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if tags.len() < MAX_TAGS => url = next,
                _ => return Ok(tags),
            }
        }
        Err(Problem::Broken("a list of tags without an end".to_owned()))
    }
}

impl Registry for Client {
    fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let repository = Repository::of(reference);
        let name = reference.digest().map(ToString::to_string);
        let name = name.as_deref().or(reference.tag()).unwrap_or_default();
        self.try_resolve(&repository, reference)
            .map_err(|problem| RegistryError::new(&repository, format!("looking for `{name}`"), problem))
    }

    fn manifest(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.try_manifest(repository, descriptor).map_err(|problem| {
            RegistryError::new(repository, format!("reading manifest {}", descriptor.digest), problem)
        })
    }

    fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Box<dyn Read + Send>, RegistryError> {
        let download = Download::start(self.clone(), repository, descriptor)?;
        Ok(Box::new(Blob::new(Box::new(download), descriptor)))
    }

    fn has_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        self.exists(repository, &format!("manifests/{digest}"))
            .map_err(|problem| RegistryError::new(repository, format!("looking for {digest}"), problem))
    }

    fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        self.exists(repository, &format!("blobs/{digest}"))
            .map_err(|problem| RegistryError::new(repository, format!("looking for blob {digest}"), problem))
    }

    fn mount(&self, repository: &Repository, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        self.try_mount(repository, digest, from).map_err(|problem| {
            RegistryError::new(repository, format!("taking blob {digest} over from {from}"), problem)
        })
    }

    fn upload(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
    ) -> Result<(), RegistryError> {
        self.try_upload(repository, descriptor, open).map_err(|problem| {
            RegistryError::new(repository, format!("sending blob {}", descriptor.digest), problem)
        })
    }

    fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        document: &Document,
    ) -> Result<(), RegistryError> {
        self.try_put(repository, tag, document).map_err(|problem| {
            let what =
                tag.map_or_else(|| document.descriptor.digest.to_string(), |tag| format!("as `{tag}`"));
            RegistryError::new(repository, format!("sending the manifest {what}"), problem)
        })
    }

    fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        self.try_tags(repository)
            .map_err(|problem| RegistryError::new(repository, "listing the tags", problem))
    }
}

/// What the headers say of a manifest; none if they do not say everything.
fn described(response: &Response<Body>) -> Option<Descriptor> {
    let text = |name: &str| response.headers().get(name)?.to_str().ok();
    let digest = text(CONTENT_DIGEST)?.parse().ok()?;
    let size = text("content-length")?.parse().ok().filter(|size| *size > 0)?;
    Some(Descriptor::new(&media_type(response)?, digest, size))
}

fn media_type(response: &Response<Body>) -> Option<String> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim().to_owned())
}

/// What a registry says it has stored must be what was sent.
pub(super) fn same_digest(response: &Response<Body>, expected: &Digest) -> Result<(), Problem> {
    let told = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
    match told {
        Some(told) if told != expected.to_string() => {
            Err(Problem::Broken(format!("it stored `{}` instead of {expected}", told.escape_debug())))
        }
        _ => Ok(()),
    }
}

/// The next page of a list, by the `Link` header. It must be on the same server.
fn next_page(response: &Response<Body>, base: &Uri) -> Result<Option<Uri>, Problem> {
    let links = response.headers().get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|value| value.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.replace(['"', ' '], "").contains("rel=next").then_some(target)
    });
    let Some(next) = next else { return Ok(None) };
    match join(base, next) {
        Some(uri) if origin(&uri) == origin(base) => Ok(Some(uri)),
        _ => Err(Problem::Redirect("the next page is on another server".to_owned())),
    }
}
