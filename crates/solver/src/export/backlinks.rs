//! Exporting what a storage knows beyond the keys of one build: every chain that leads to a node.

use std::collections::BTreeMap;

use quern_core::Digest;

use crate::cache::{CacheInfoLink, CacheKeyStorage};
use crate::digest_map::DigestMap;
use crate::error::CacheError;
use crate::key::KeyId;

use super::walk::Records;
use super::{CacheExporterTarget, CacheLink};

/// The records of nodes exported so far, by storage; empty while a node is being walked, which
/// ends any ring.
#[derive(Default)]
pub(super) struct Backlinks {
    nodes: DigestMap<(u32, KeyId), Records>,
}

/// A node whose sources are being exported.
struct Frame {
    id: KeyId,
    open: std::vec::IntoIter<(KeyId, CacheInfoLink)>,
    is_root: bool,
    /// By operation, for each input the ways by which it is known.
    chains: BTreeMap<Digest, Vec<Vec<CacheLink>>>,
}

impl Frame {
    fn of(keys: &dyn CacheKeyStorage, id: KeyId) -> Result<Self, CacheError> {
        let mut sources = Vec::new();
        keys.walk_backlinks(&id, &mut |source, link| sources.push((source, link)))?;
        Ok(Self { id, is_root: sources.is_empty(), open: sources.into_iter(), chains: BTreeMap::new() })
    }

    fn take(&mut self, link: &CacheInfoLink, records: &Records) {
        if records.is_empty() {
            return;
        }
        let inputs = self.chains.entry(link.digest).or_default();
        let input = link.input as usize;
        if inputs.len() <= input {
            inputs.resize(input + 1, Vec::new());
        }
        let links = records.iter().map(|source| CacheLink { source: *source, selector: link.selector });
        inputs[input].extend(links);
    }

    fn add(self, target: &mut dyn CacheExporterTarget) -> Result<Records, CacheError> {
        let mut records = Vec::new();
        if self.is_root && !self.id.is_local() {
            records.extend(target.add(self.id.0, &[], &[])?);
        }
        for (digest, inputs) in self.chains {
            if inputs.iter().all(|input| !input.is_empty()) {
                records.extend(target.add(digest, &inputs, &[])?);
            }
        }
        Ok(records)
    }
}

impl Backlinks {
    /// Exports everything that leads to a node, and the node.
    pub(super) fn export(
        &mut self,
        target: &mut dyn CacheExporterTarget,
        storage: usize,
        keys: &dyn CacheKeyStorage,
        id: KeyId,
    ) -> Result<(), CacheError> {
        let storage = u32::try_from(storage).expect("few storages");
        if self.nodes.contains_key(&(storage, id)) {
            return Ok(());
        }
        self.nodes.insert((storage, id), Vec::new());
        let mut stack = vec![Frame::of(keys, id)?];
        while let Some(frame) = stack.last_mut() {
            match frame.open.as_slice().first().copied() {
                None => {
                    let frame = stack.pop().expect("the loop runs while there is a frame");
                    let id = frame.id;
                    let records = frame.add(target)?;
                    self.nodes.insert((storage, id), records);
                }
                Some((source, link)) => match self.nodes.get(&(storage, source)) {
                    Some(records) => {
                        frame.take(&link, records);
                        frame.open.next();
                    }
                    None => {
                        self.nodes.insert((storage, source), Vec::new());
                        stack.push(Frame::of(keys, source)?);
                    }
                },
            }
        }
        Ok(())
    }
}
