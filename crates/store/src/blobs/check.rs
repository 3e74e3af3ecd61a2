//! Comparing every blob with its digest.

use std::fs::File;
use std::io;
use std::path::Path;

use quern_core::Digest;
use quern_core::port::{Blobs as _, PortError};
use rusqlite::params;

use super::pack::Slot;
use super::{DiskBlobs, index, loose};

/// So many rows of the index are read at once.
const PAGE: i64 = 10_000;

impl DiskBlobs {
    /// What is wrong with the index file, in SQLite's words.
    pub(crate) fn check_index(&self) -> Vec<String> {
        self.index.check()
    }

    /// Reads every public blob; tells its digest, length and whether its bytes are its own.
    pub(crate) fn check_all(&self, tell: &mut dyn FnMut(&Digest, u64, bool)) -> Result<(), PortError> {
        let mut after = Vec::new();
        loop {
            let page = self.rows_after(&after)?;
            let Some((last, _)) = page.last() else { break };
            after = last.as_bytes().to_vec();
            for (digest, slot) in page {
                let bytes = self.read_slot(&digest, &slot)?;
                let good = bytes.is_some_and(|bytes| Digest::of(&bytes) == digest);
                // A blob that was moved meanwhile is not damaged.
                let good = good || self.index()?.find(&digest)?.slot != Some(slot);
                tell(&digest, slot.length.into(), good);
            }
        }
        let failed = |error| PortError::io(format!("checking {}", self.layout.blobs().display()), error);
        for (digest, path) in loose::list(&self.layout).map_err(failed)? {
            match File::open(&path).and_then(|mut file| loose::digest_of(&mut file)) {
                Ok(content) => tell(&digest, content.size, content.digest == digest),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Drops blobs found damaged, so that they are missing and can be put again.
    pub(crate) fn drop_damaged(
        &self,
        damaged: &[Digest],
        trash: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<(), PortError> {
        self.known().clear();
        self.index()?.write(|transaction| {
            index::turn(transaction).map_err(|error| self.index.failed(&error))?;
            for digest in damaged {
                // Nobody puts it again while this transaction lasts, but somebody may have before.
                if !matches!(self.get(digest), Err(PortError::Damaged(_))) {
                    continue;
                }
                transaction
                    .execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_bytes()])
                    .map_err(|error| self.index.failed(&error))?;
                let path = loose::path(&self.layout, digest);
                trash(&path).map_err(|error| PortError::io(format!("removing {}", path.display()), error))?;
            }
            Ok(())
        })?;
        self.known().clear();
        Ok(())
    }

    fn rows_after(&self, after: &[u8]) -> Result<Vec<(Digest, Slot)>, PortError> {
        const SQL: &str =
            "SELECT digest, pack, offset, length FROM blobs WHERE digest > ?1 ORDER BY digest LIMIT ?2";
        self.index()?.read(|connection| {
            let mut statement = connection.prepare_cached(SQL)?;
            let rows = statement.query_map(params![after, PAGE], |row| {
                let slot = Slot { pack: row.get(1)?, offset: row.get(2)?, length: row.get(3)? };
                Ok((Digest::from_bytes(row.get(0)?), slot))
            })?;
            rows.collect()
        })
    }
}
