//! A file of a web server, for `ADD`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use quern_core::Digest;
use quern_core::port::{self, Layers as _, PortError};
use quern_oci::registry::Validators;
use quern_solver::{Blocking, CacheMap, MapStep, Op, OpContext, OpError, SharedResult};

use super::{Defined, Tools, digest_of};
use crate::image::provenance::Materials;
use crate::images::records::{self, WebRecord};
use crate::snapshot::Snapshot;

/// A file system with one file, fetched. With a checksum the server is asked only if the file is in no cache; else it is asked
/// each time whether the file changed.
pub struct HttpOp {
    tools: Arc<Tools>,
    materials: Arc<Materials>,
    url: String,
    checksum: Option<Digest>,
    /// What is there now, found out once in a build.
    now: OnceLock<Result<WebRecord, OpError>>,
}

impl HttpOp {
    /// The file at an address; its checksum is `sha256:...`.
    pub fn new(tools: &Arc<Tools>, materials: &Arc<Materials>, url: &str, checksum: Option<&str>) -> Self {
        let checksum = checksum.and_then(|text| text.parse().ok());
        let (tools, materials) = (Arc::clone(tools), Arc::clone(materials));
        Self { tools, materials, url: url.to_owned(), checksum, now: OnceLock::new() }
    }

    /// The name of the file: the last part of the address.
    pub fn file_name(&self) -> String {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once("://").map_or(path, |(_, rest)| rest);
        let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
        if matches!(name, "" | "." | "..") { "download".to_owned() } else { name.to_owned() }
    }

    /// What the address stands for now; its bytes are in the store then.
    fn look(&self) -> Result<&WebRecord, OpError> {
        self.now.get_or_init(|| self.fetch().map_err(OpError::failed)).as_ref().map_err(Clone::clone)
    }

    fn fetch(&self) -> Result<WebRecord, Box<dyn std::error::Error + Send + Sync>> {
        let Tools { meta, blobs, web, .. } = &*self.tools;
        let known = port::read(&**meta, |r| records::web(r, &self.url))?;
        let known = match known {
            Some(known) if blobs.contains(&known.digest)? => Some(known),
            _ => None,
        };
        let validators = known
            .as_ref()
            .map(|known| Validators { etag: known.etag.clone(), modified: known.modified.clone() });
        let fetched = web.fetch(&self.url, &validators.unwrap_or_default())?;
        let record = match (fetched, known) {
            (None, Some(known)) => known,
            (None, None) => return Err("the server says that nothing changed, but nothing was known".into()),
            (Some(mut fetched), _) => {
                let content = blobs.put_stream(&mut fetched.body)?;
                let Validators { etag, modified } = fetched.validators;
                let record = WebRecord { digest: content.digest, etag, modified };
                blobs.sync()?;
                port::write(&**meta, |w| records::put_web(w, &self.url, &record))?;
                record
            }
        };
        match self.checksum {
            Some(expected) if expected != record.digest => {
                let found = record.digest;
                Err(format!("{} has the checksum {found}, not {expected}", self.url).into())
            }
            _ => Ok(record),
        }
    }
}

impl Defined for HttpOp {
    fn definition(&self) -> Digest {
        digest_of("quern.http.definition.v1", |v| {
            v.text("url", &self.url);
            if let Some(checksum) = &self.checksum {
                v.digest("checksum", checksum);
            }
        })
    }
}

impl Op for HttpOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        let (content, modified) = match self.checksum {
            Some(checksum) => (checksum, None),
            None => {
                let now = self.look()?;
                (now.digest, now.modified.clone())
            }
        };
        self.materials.file(&self.url, &content);
        Ok(MapStep::Last(CacheMap::new(digest_of("quern.http.v1", |v| {
            v.text("name", &self.file_name());
            v.digest("content", &content);
            // The time is the file's own in the image.
            v.text("modified", modified.as_deref().unwrap_or_default());
        }))))
    }

    fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let record = self.look()?;
        let draft = self.tools.layers.begin().map_err(OpError::failed)?;
        let written = (|| -> io::Result<()> {
            let mut file = File::create(draft.dir.join(self.file_name()))?;
            let mut bytes = self.tools.blobs.open(&record.digest).map_err(io::Error::other)?;
            io::copy(&mut bytes, &mut file)?;
            file.flush()?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            // A checksum says all there is to say of such a file, so its time must not differ.
            let time = record.modified.as_deref().filter(|_| self.checksum.is_none()).and_then(seconds);
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(time.unwrap_or(0)))
        })();
        if let Err(error) = written {
            self.tools.layers.discard(draft);
            return Err(OpError::failed(PortError::io(format!("keeping {}", self.url), error)));
        }
        let layer = self.tools.layers.commit(draft).map_err(OpError::failed)?;
        Ok(vec![SharedResult::new(Snapshot::new(vec![layer]))])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Always
    }
}

/// The time of a `Last-Modified`, in seconds since 1970.
fn seconds(text: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    u64::try_from(time.timestamp().as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_web() {
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(seconds("yesterday"), None);
    }
}
