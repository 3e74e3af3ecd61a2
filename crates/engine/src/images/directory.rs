//! The identity of an unpacked root file system.
//!
//! Reading every byte would cost seconds for each command, so the identity is that of what a directory listing tells:
//! the path, and for everything below it path, kind, mode, owner, size and time of change. Whoever changes a file and
//! sets its time back to the nanosecond deceives it; `oci:` images cannot be deceived.
//! Other file systems mounted inside are not entered, and the times of directories do not count.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quern_core::Digest;
use quern_core::canon::{DigestVisitor, Visitor};
use quern_core::port::PortError;

/// The identity of what is at `path` now.
pub(super) fn identity(path: &Path) -> Result<Digest, PortError> {
    let failed = |error| match io::Error::kind(&error) {
        io::ErrorKind::NotFound => PortError::Other(format!(
            "image `dir:{}` does not exist: there is no such directory",
            path.display()
        )),
        _ => PortError::io(format!("reading image `dir:{}`", path.display()), error),
    };
    let root = fs::metadata(path).map_err(failed)?;
    if !root.is_dir() {
        return Err(PortError::Other(format!("image `dir:{}` is not a directory", path.display())));
    }
    let mut listing = Listing { device: root.dev(), visitor: DigestVisitor::new("quern.image.dir.v1") };
    listing.visitor.bytes("path", path.as_os_str().as_bytes());
    listing.directory(path, &root).map_err(failed)?;
    Ok(listing.visitor.finish())
}

struct Listing {
    device: u64,
    visitor: DigestVisitor,
}

impl Listing {
    fn directory(&mut self, path: &Path, meta: &fs::Metadata) -> io::Result<()> {
        self.owner_and_mode(meta);
        if meta.dev() != self.device {
            return Ok(());
        }
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let meta = entry.metadata()?;
            self.visitor.enter("entry");
            self.visitor.bytes("name", entry.file_name().as_bytes());
            if meta.is_dir() {
                self.directory(&entry.path(), &meta)?;
            } else {
                self.file(&entry.path(), &meta)?;
            }
            self.visitor.leave();
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, meta: &fs::Metadata) -> io::Result<()> {
        self.owner_and_mode(meta);
        self.visitor.number("size", meta.size());
        self.visitor.number("seconds", meta.mtime().cast_unsigned());
        self.visitor.number("nanoseconds", meta.mtime_nsec().cast_unsigned());
        if meta.is_symlink() {
            self.visitor.bytes("target", fs::read_link(path)?.as_os_str().as_bytes());
        }
        Ok(())
    }

    fn owner_and_mode(&mut self, meta: &fs::Metadata) {
        self.visitor.number("mode", u64::from(meta.mode()));
        self.visitor.number("owner", u64::from(meta.uid()) << 32 | u64::from(meta.gid()));
    }
}
