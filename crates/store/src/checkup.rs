//! Looking for damage, and mending what can be mended.

use std::io;

use quern_core::Digest;
use quern_core::port::PortError;

use crate::prune::Amount;
use crate::store::Store;

/// What a check-up found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckUp {
    /// The blobs looked at.
    pub blobs: Amount,
    /// Those whose bytes are not theirs. After mending they are gone, so that they can be made again.
    pub damaged: Vec<Digest>,
    /// What is wrong with the databases, in SQLite's words; empty if nothing is.
    pub databases: Vec<String>,
    /// Whether a damaged index was thrown away; it has been made anew from the packs.
    pub index_renewed: bool,
}

impl Store {
    /// Reads everything and compares it with its digest. With `mend`, damaged blobs and a damaged index are moved to
    /// the trash; a damaged metadata database can only be reported.
    ///
    /// A damaged index is seen only if this is the first use of the blobs by this process.
    ///
    /// # Errors
    /// If something cannot be read at all. An index in use by other processes cannot be renewed.
    pub fn check_up(&self, mend: bool) -> Result<CheckUp, PortError> {
        let mut found = CheckUp { databases: self.meta().check()?, ..CheckUp::default() };
        let index = self.blobs().check_index();
        if !index.is_empty() {
            found.databases.extend(index);
            if !mend {
                return Ok(found);
            }
            self.throw_index_away()?;
            found.index_renewed = true;
        }
        self.blobs().check_all(&mut |digest, bytes, good| {
            found.blobs.count += 1;
            found.blobs.bytes += bytes;
            if !good {
                found.damaged.push(*digest);
            }
        })?;
        if mend {
            self.blobs().drop_damaged(&found.damaged, &|path| self.trash(path))?;
        }
        Ok(found)
    }

    fn throw_index_away(&self) -> Result<(), PortError> {
        let index = self.layout().index_db();
        let failed = |error: io::Error| PortError::io(format!("renewing {}", index.display()), error);
        let others = self.lease().others().map_err(failed)?;
        if !others.is_empty() {
            let message = format!(
                "{} is damaged; end the {} other processes that use this state folder, then try again",
                index.display(),
                others.len()
            );
            return Err(PortError::Other(message));
        }
        for suffix in ["", "-wal", "-shm"] {
            let mut path = index.clone().into_os_string();
            path.push(suffix);
            self.trash(path.as_ref()).map_err(failed)?;
        }
        Ok(())
    }
}
