//! The walk of an export, on an explicit stack.

use std::collections::HashMap;

use quern_core::Digest;

use crate::cache::{CacheManager, CacheRecord, KeyedCache};
use crate::error::CacheError;
use crate::key::{CacheKey, CacheKeyWithSelector, ExportableCacheKey, KeyId};
use crate::op::KeyScope;

use super::backlinks::Backlinks;
use super::{
    CacheExportMode, CacheExportOptions, CacheExportResult, CacheExporterRecord, CacheExporterTarget,
    CacheLink, KeyExporter, Remote,
};

pub(super) type Records = Vec<CacheExporterRecord>;

/// Exports keys in one walk: what several of them share is exported once.
pub(super) fn export(
    keys: &[&ExportableCacheKey],
    target: &mut dyn CacheExporterTarget,
    options: &CacheExportOptions<'_>,
) -> Result<Vec<Records>, CacheError> {
    let mut walk = Walk { target, options, exported: HashMap::new(), backlinks: Backlinks::default() };
    keys.iter().map(|key| walk.run(key)).collect()
}

struct Walk<'a, 'o> {
    target: &'a mut dyn CacheExporterTarget,
    options: &'a CacheExportOptions<'o>,
    /// The records of each key or group; empty while it is being walked, which ends any ring.
    exported: HashMap<usize, Records>,
    backlinks: Backlinks,
}

/// A key whose inputs are being exported, or a group of keys of one result.
struct Frame {
    number: usize,
    what: What,
    mode: CacheExportMode,
    /// What is still to be exported; in a group the number is 0.
    open: std::vec::IntoIter<(u32, CacheKeyWithSelector)>,
    /// Which input, and which part of it, is being exported above this frame.
    pending: (usize, Option<Digest>),
    inputs: Vec<Vec<CacheLink>>,
}

enum What {
    Key { key: CacheKey, record: Option<CacheRecord>, results: Vec<CacheExportResult> },
    Group,
}

impl Frame {
    fn take(&mut self, records: &[CacheExporterRecord]) {
        let (input, selector) = self.pending;
        for source in records {
            let link = CacheLink { source: *source, selector };
            if !self.inputs[input].contains(&link) {
                self.inputs[input].push(link);
            }
        }
    }
}

impl Walk<'_, '_> {
    fn run(&mut self, key: &ExportableCacheKey) -> Result<Records, CacheError> {
        let mut stack = Vec::new();
        let mut done = self.enter(&mut stack, key, self.options.mode)?;
        while let Some(frame) = stack.last_mut() {
            let Some((input, link)) = frame.open.next() else {
                let frame = stack.pop().expect("the loop runs while there is a frame");
                let records = self.leave(frame)?;
                if let Some(above) = stack.last_mut() {
                    above.take(&records);
                }
                done = Some(records);
                continue;
            };
            frame.pending = (input as usize, link.selector());
            let mode = frame.mode;
            if let Some(records) = self.enter(&mut stack, &link.key, mode)?
                && let Some(above) = stack.last_mut()
            {
                above.take(&records);
            }
        }
        Ok(done.unwrap_or_default())
    }

    /// The records of a key if they are known; else a frame that will find them.
    fn enter(
        &mut self,
        stack: &mut Vec<Frame>,
        key: &ExportableCacheKey,
        mode: CacheExportMode,
    ) -> Result<Option<Records>, CacheError> {
        let group = match key.exporter.as_deref() {
            Some(KeyExporter::All(keys)) => Some(keys),
            _ => None,
        };
        let number = group.map_or_else(|| key.key.address(), |keys| keys.as_ptr().addr());
        if let Some(records) = self.exported.get(&number) {
            return Ok(Some(records.clone()));
        }
        self.exported.insert(number, Vec::new());
        let frame = match group {
            Some(keys) => {
                let with = |key: &ExportableCacheKey| (0, CacheKeyWithSelector::new(key.clone(), None));
                let open = keys.iter().map(with).collect::<Vec<_>>().into_iter();
                Frame { number, what: What::Group, mode, open, pending: (0, None), inputs: vec![Vec::new()] }
            }
            None => self.key_frame(number, key, mode)?,
        };
        stack.push(frame);
        Ok(None)
    }

    fn key_frame(
        &self,
        number: usize,
        key: &ExportableCacheKey,
        mut mode: CacheExportMode,
    ) -> Result<Frame, CacheError> {
        let record = match key.exporter.as_deref() {
            Some(KeyExporter::One(record)) => Some(record.clone()),
            _ => None,
        };
        let key = key.key.clone();
        let results = self.results(&key, record.as_ref(), mode)?;
        if !results.is_empty() && mode == CacheExportMode::Min {
            mode = CacheExportMode::RemoteOnly;
        }
        let open: Vec<_> = key.names().iter().chain(key.learned()).cloned().collect();
        let inputs = vec![Vec::new(); key.inputs()];
        let what = What::Key { key, record, results };
        Ok(Frame { number, what, mode, open: open.into_iter(), pending: (0, None), inputs })
    }

    /// The transferable result of a key, if it has one that this mode includes.
    fn results(
        &self,
        key: &CacheKey,
        record: Option<&CacheRecord>,
        mode: CacheExportMode,
    ) -> Result<Vec<CacheExportResult>, CacheError> {
        let Some(origin) = key.origin() else { return Ok(Vec::new()) };
        let wanted = (key.inputs() > 0 || self.options.roots) && origin.export != Some(false);
        if !wanted {
            return Ok(Vec::new());
        }
        let mut candidates: Vec<CacheRecord> = record.cloned().into_iter().collect();
        if candidates.is_empty() {
            candidates = origin.cache.records(key)?;
            candidates.sort_by(CacheRecord::preference);
        }
        for record in candidates {
            if let Some(remote) = self.remote(&origin.cache.stores(), &record, mode)? {
                let vertex = Some((origin.vertex, key.output()));
                return Ok(vec![CacheExportResult { created_at: record.created_at, remote, vertex }]);
            }
        }
        Ok(Vec::new())
    }

    fn remote(
        &self,
        stores: &[KeyedCache],
        record: &CacheRecord,
        mode: CacheExportMode,
    ) -> Result<Option<Remote>, CacheError> {
        for store in stores {
            let Ok(cached) = store.keys().load(&record.key.id(), &record.id) else { continue };
            if let Some(ready) = store.results().load_remotes(&cached).into_iter().next() {
                return Ok(Some(ready));
            }
            let Some(convert) = self.options.convert.filter(|_| mode != CacheExportMode::RemoteOnly) else {
                continue;
            };
            match store.results().load(&cached) {
                Ok(result) => return Ok(convert(&result)?.into_iter().next()),
                Err(CacheError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Hands a key to the target once its inputs are there.
    fn leave(&mut self, frame: Frame) -> Result<Records, CacheError> {
        let Frame { number, what, inputs, .. } = frame;
        let records = match what {
            What::Group => inputs.into_iter().flatten().map(|link| link.source).collect(),
            What::Key { key, record, results } => self.add(&key, record.as_ref(), &inputs, &results)?,
        };
        self.exported.insert(number, records.clone());
        Ok(records)
    }

    fn add(
        &mut self,
        key: &CacheKey,
        record: Option<&CacheRecord>,
        inputs: &[Vec<CacheLink>],
        results: &[CacheExportResult],
    ) -> Result<Records, CacheError> {
        let stores = key.cache().map(|cache| cache.stores()).unwrap_or_default();
        if !self.options.ignore_backlinks {
            for (number, store) in stores.iter().enumerate() {
                let id = store.resolve(key)?;
                if store.keys().exists(&id)? {
                    self.backlinks.export(self.target, number, store.keys(), id)?;
                }
            }
        }
        let mut records = Vec::new();
        let digest = if key.inputs() == 0 {
            key.id()
        } else {
            KeyId::root(&key.digest(), key.output(), KeyScope::Shared)
        };
        if !digest.is_local() && inputs.iter().all(|input| !input.is_empty()) {
            records.extend(self.target.add(digest.0, inputs, results)?);
        }
        if let (Some(record), true) = (record, key.inputs() == 0) {
            for id in roots_of_result(&stores, record, key.id())? {
                records.extend(self.target.add(id.0, &[], results)?);
            }
        }
        Ok(records)
    }
}

/// Other keys without inputs that have the same result: the other cache maps of a root.
fn roots_of_result(
    stores: &[KeyedCache],
    record: &CacheRecord,
    but: KeyId,
) -> Result<Vec<KeyId>, CacheError> {
    let mut roots = Vec::new();
    for store in stores {
        let mut ids = Vec::new();
        store.keys().walk_ids_by_result(&record.id, &mut |id| ids.push(id))?;
        for id in ids {
            let mut linked = false;
            store.keys().walk_backlinks(&id, &mut |_, _| linked = true)?;
            if !linked && id != but && !id.is_local() && !roots.contains(&id) {
                roots.push(id);
            }
        }
    }
    Ok(roots)
}
