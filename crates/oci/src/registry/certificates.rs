//! Certificates for single registries, as Docker keeps them: a folder `HOST[:PORT]` with authorities (`*.crt`) and what proves who
//! one is (`NAME.cert` with `NAME.key`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, parse_pem};

use super::error::Problem;

/// What is used for one registry.
pub(super) struct Certificates {
    /// Whom to trust; the system's authorities if none are there.
    pub roots: RootCerts,
    /// Who one is.
    pub client: Option<ClientCert>,
}

impl Certificates {
    /// Those of a host, with its port if it has one, from the first folder that has any for it.
    ///
    /// # Errors
    /// [`Problem::Local`] names the file that is wrong.
    pub fn of(host: &str, folders: &[PathBuf]) -> Result<Option<Self>, Problem> {
        let found = folders.iter().map(|folder| folder.join(host)).find(|folder| folder.is_dir());
        found.map(|folder| Self::read(&folder)).transpose()
    }

    fn read(folder: &Path) -> Result<Self, Problem> {
        let unreadable = |path: &Path, error: io::Error| wrong(path, &format!("cannot be read: {error}"));
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<PathBuf> =
            entries.map_err(|error| unreadable(folder, error))?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        let (mut authorities, mut client) = (Vec::new(), None);
        for path in &paths {
            let text = || fs::read(path).map_err(|error| unreadable(path, error));
            match path.extension().and_then(|end| end.to_str()) {
                Some("crt") => authorities.extend(certificates(path, &text()?)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let secret = fs::read(&key).map_err(|error| unreadable(&key, error))?;
                    let secret = PrivateKey::from_pem(&secret)
                        .map_err(|_| wrong(&key, "holds no private key in PEM form"))?;
                    client = Some(ClientCert::new_with_certs(&certificates(path, &text()?)?, secret));
                }
                _ => {}
            }
        }
        let roots = match authorities.as_slice() {
            [] => RootCerts::PlatformVerifier,
            authorities => RootCerts::new_with_certs(authorities),
        };
        Ok(Self { roots, client })
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<Certificate<'static>>, Problem> {
    let found: Vec<_> = pem_certificates(text).collect();
    if found.is_empty() { Err(wrong(path, "holds no certificate in PEM form")) } else { Ok(found) }
}

/// The certificates of a text in PEM form; what is none is passed over.
pub(super) fn pem_certificates(text: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

fn wrong(path: &Path, problem: &str) -> Problem {
    Problem::Local(format!("`{}` {problem}", path.display()))
}
