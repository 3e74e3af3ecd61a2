//! A stored cache as a source of the solver: read-only, fetched when first needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_core::{Digest, DigestWriter};

use crate::cache::key_table::KeyTable;
use crate::cache::memory::folded;
use crate::cache::{
    CacheInfoLink, CacheKeyStorage, CacheManager, CacheRecord, CacheResult, CacheResultStorage, KeyedCache,
    Query, Readiness, Timestamp,
};
use crate::error::CacheError;
use crate::export::{Descriptor, Remote};
use crate::key::{CacheKey, KeyId};
use crate::result::SharedResult;

use super::format::{Annotations, CREATED_AT, Config, DIFF_ID, Manifest};
use super::{CONFIG_TYPE, CacheBlobs, CacheConfigError, time};

/// Makes a result of its transferable form; the bytes of the layers are where the cache is stored.
pub type LayerLoader = Arc<dyn Fn(&Remote) -> Result<SharedResult, CacheError> + Send + Sync>;

/// Reads the cache stored under a name.
///
/// # Errors
/// [`CacheConfigError`] says what is wrong with it.
pub fn import_cache(
    id: &str,
    blobs: &dyn CacheBlobs,
    name: &str,
    loader: LayerLoader,
) -> Result<KeyedCache, CacheConfigError> {
    let manifest = blobs.manifest(name)?.ok_or_else(|| CacheConfigError::NotFound(name.to_owned()))?;
    let manifest: Manifest = parse("manifest", &read_blob(blobs, &manifest.digest)?)?;
    let (config, layers) = manifest.split();
    let malformed = |why: String| CacheConfigError::Malformed { what: "manifest", why };
    let config = config.ok_or_else(|| malformed(format!("it names no `{CONFIG_TYPE}`")))?;
    let config: Config = parse("configuration", &read_blob(blobs, &config.digest)?)?;
    let (keys, results) = Chains { config: &config, blobs: &layers }.read()?;
    let results = ImportedResults { remotes: results, loader };
    Ok(KeyedCache::new(id, Arc::new(keys), Arc::new(results))?.read_only())
}

fn read_blob(blobs: &dyn CacheBlobs, digest: &Digest) -> Result<Vec<u8>, CacheConfigError> {
    let bytes = blobs.read(digest)?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(CacheConfigError::WrongContent(*digest)) }
}

fn parse<'a, T: serde::Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, CacheConfigError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CacheConfigError::Malformed { what, why: error.to_string() })
}

/// A configuration being read.
struct Chains<'a> {
    config: &'a Config,
    blobs: &'a [Descriptor],
}

type Remotes = std::collections::HashMap<Arc<str>, Remote>;

impl Chains<'_> {
    fn read(&self) -> Result<(ImportedKeys, Remotes), CacheConfigError> {
        let order = self.in_order()?;
        let mut ids: Vec<Option<KeyId>> = vec![None; self.config.records.len()];
        let mut table = KeyTable::default();
        let mut remotes = Remotes::new();
        for number in order {
            let record = &self.config.records[number];
            let mut first = Vec::with_capacity(record.inputs.len());
            for (input, alternatives) in (0u32..).zip(&record.inputs) {
                let known =
                    alternatives.first().and_then(|link| Some((ids[link.link]?, selector(&link.selector)?)));
                first.extend(known.map(|(id, selector)| (input, id, selector)));
            }
            if first.len() < record.inputs.len() {
                continue;
            }
            let root = KeyId(record.digest);
            let id = if record.inputs.is_empty() {
                root
            } else {
                KeyId::minted(&root, first.len(), first.into_iter())
            };
            ids[number] = Some(id);
            for (input, link) in
                (0u32..).zip(&record.inputs).flat_map(|(i, all)| all.iter().map(move |l| (i, l)))
            {
                if let (Some(source), Some(selector)) = (ids[link.link], selector(&link.selector)) {
                    table.add_link(
                        &source,
                        &CacheInfoLink { input, output: 0, digest: record.digest, selector },
                        &id,
                    );
                }
            }
            for (remote, created_at) in self.results(number)? {
                let name = id_of(&remote);
                table.add_result(&id, CacheResult { id: Arc::clone(&name), created_at });
                remotes.insert(name, remote);
            }
        }
        Ok((ImportedKeys(Mutex::new(table)), remotes))
    }

    /// The records, those of inputs first.
    fn in_order(&self) -> Result<Vec<usize>, CacheConfigError> {
        let records = &self.config.records;
        let mut done = vec![false; records.len()];
        let mut open = vec![false; records.len()];
        let mut order = Vec::with_capacity(records.len());
        for start in 0..records.len() {
            let mut stack =
                if done[start] { Vec::new() } else { vec![(start, self.links(start)?.into_iter())] };
            open[start] = !done[start];
            while let Some((number, links)) = stack.last_mut() {
                let number = *number;
                match links.next() {
                    Some(next) if open[next] => {
                        let from = stack.iter().position(|(n, _)| *n == next).unwrap_or(0);
                        let chain = stack[from..].iter().map(|(n, _)| *n).collect();
                        return Err(CacheConfigError::Loop { what: "records", chain });
                    }
                    Some(next) if !done[next] => {
                        open[next] = true;
                        stack.push((next, self.links(next)?.into_iter()));
                    }
                    Some(_) => {}
                    None => {
                        (open[number], done[number]) = (false, true);
                        order.push(number);
                        stack.pop();
                    }
                }
            }
        }
        Ok(order)
    }

    fn links(&self, record: usize) -> Result<Vec<usize>, CacheConfigError> {
        let mut links = Vec::new();
        for (input, alternatives) in self.config.records[record].inputs.iter().enumerate() {
            for link in alternatives {
                if link.link >= self.config.records.len() {
                    return Err(CacheConfigError::UnknownRecord { record, input, link: link.link });
                }
                links.push(link.link);
            }
        }
        Ok(links)
    }

    /// The results of a record; one whose blob is not listed does not count.
    fn results(&self, record: usize) -> Result<Vec<(Remote, Timestamp)>, CacheConfigError> {
        let Config { records, .. } = self.config;
        let mut results = Vec::new();
        for layer in &records[record].layers {
            let stack = self.stack(record, layer.layer)?;
            results.extend(self.remote(&stack).map(|remote| (remote, moment(&layer.created_at))));
        }
        for chain in &records[record].chains {
            let stack: Result<Vec<usize>, _> =
                chain.layers.iter().map(|layer| self.layer("record", record, *layer)).collect();
            results.extend(self.remote(&stack?).map(|remote| (remote, moment(&chain.created_at))));
        }
        Ok(results)
    }

    fn layer(&self, whose: &'static str, number: usize, layer: i64) -> Result<usize, CacheConfigError> {
        let known = usize::try_from(layer).ok().filter(|n| *n < self.config.layers.len());
        known.ok_or(CacheConfigError::UnknownLayer { whose, number, layer })
    }

    /// A layer and those below it, the lowest first.
    fn stack(&self, record: usize, layer: i64) -> Result<Vec<usize>, CacheConfigError> {
        let mut stack = vec![self.layer("record", record, layer)?];
        loop {
            let top = stack[stack.len() - 1];
            let parent = self.config.layers[top].parent;
            if parent == -1 {
                stack.reverse();
                return Ok(stack);
            }
            let parent = self.layer("layer", top, parent)?;
            if stack.len() > self.config.layers.len() || stack.contains(&parent) {
                return Err(CacheConfigError::Loop { what: "layers", chain: stack });
            }
            stack.push(parent);
        }
    }

    fn remote(&self, stack: &[usize]) -> Option<Remote> {
        let descriptor = |number: &usize| {
            let layer = &self.config.layers[*number];
            let mut descriptor = self.blobs.iter().find(|d| d.digest == layer.blob)?.clone();
            let Annotations { media_type, diff_id, size, created_at } =
                layer.annotations.clone().unwrap_or_default();
            if !media_type.is_empty() {
                descriptor.media_type = media_type;
            }
            if let Some(size) = u64::try_from(size).ok().filter(|size| *size > 0) {
                descriptor.size = size;
            }
            for (name, value) in [(DIFF_ID, diff_id), (CREATED_AT, created_at)] {
                if !value.is_empty() {
                    descriptor.annotations.insert(name.to_owned(), value);
                }
            }
            Some(descriptor)
        };
        let descriptors: Option<Vec<Descriptor>> = stack.iter().map(descriptor).collect();
        Some(Remote { descriptors: descriptors? }).filter(|remote| !remote.descriptors.is_empty())
    }
}

/// The time of a result; one that cannot be read counts as oldest.
fn moment(text: &str) -> Timestamp {
    time::read(text).unwrap_or_default()
}

/// A selector as a digest; none if it is the name of something else.
fn selector(text: &str) -> Option<Option<Digest>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

fn id_of(remote: &Remote) -> Arc<str> {
    let mut hash = DigestWriter::new();
    remote.descriptors.iter().for_each(|d| hash.update(d.digest.as_bytes()));
    format!("remote-{}", hash.finish().hex()).into()
}

/// The keys of an imported cache. Links name operation and output in one digest, so questions are
/// folded before they are looked up.
struct ImportedKeys(Mutex<KeyTable>);

impl ImportedKeys {
    fn table(&self) -> MutexGuard<'_, KeyTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheKeyStorage for ImportedKeys {
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError> {
        Ok(self.table().contains(id))
    }

    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.table().ids();
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError> {
        let results = self.table().results(id).to_vec();
        results.into_iter().for_each(visit);
        Ok(())
    }

    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        let table = self.table();
        table.results(id).iter().find(|r| &*r.id == result).cloned().ok_or(CacheError::NotFound)
    }

    /// What was imported stays as it is.
    fn add_result(&self, _: &KeyId, _: CacheResult) -> Result<(), CacheError> {
        Ok(())
    }

    fn release(&self, _: &str) -> Result<(), CacheError> {
        Ok(())
    }

    fn add_link(&self, _: &KeyId, _: &CacheInfoLink, _: &KeyId) -> Result<(), CacheError> {
        Ok(())
    }

    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.table().holders(result);
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError> {
        let targets: Vec<KeyId> = self.table().targets_of(id, &folded(link)).collect();
        targets.into_iter().for_each(visit);
        Ok(())
    }

    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        Ok(self.table().targets_of(id, &folded(link)).any(|known| known == *target))
    }

    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError> {
        let sources: Vec<_> = self.table().sources(id).collect();
        sources.into_iter().for_each(|(source, link)| visit(source, link));
        Ok(())
    }

    fn walk_leaving(&self, _: &KeyId, _: &mut dyn FnMut(CacheInfoLink, KeyId)) -> Result<(), CacheError> {
        Ok(())
    }

    fn knows_operation(&self, _: &Digest) -> Result<bool, CacheError> {
        Ok(false)
    }
}

struct ImportedResults {
    remotes: Remotes,
    loader: LayerLoader,
}

impl CacheResultStorage for ImportedResults {
    fn save(&self, _: &SharedResult, _: Timestamp) -> Result<CacheResult, CacheError> {
        Err(CacheError::ReadOnly("imported".to_owned()))
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        (self.loader)(self.remotes.get(&result.id).ok_or(CacheError::NotFound)?)
    }

    fn load_remotes(&self, result: &CacheResult) -> Vec<Remote> {
        self.remotes.get(&result.id).cloned().into_iter().collect()
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        Ok(self.remotes.contains_key(result))
    }

    fn may_lose(&self) -> bool {
        false
    }
}

/// A cache that is imported when the solver first asks for it, on a thread of its own. Until then
/// it knows nothing; if the import fails it stays so, and [`failure`](ImportedCache::failure) says
/// why. A step that finds what it needs elsewhere does not wait.
pub struct ImportedCache {
    id: String,
    state: Arc<Mutex<Import>>,
}

type Fetch = Box<dyn FnOnce() -> Result<KeyedCache, CacheConfigError> + Send>;

enum Import {
    Waiting(Fetch),
    Running(Vec<Box<dyn FnOnce() + Send>>),
    /// Never given back: a reader may hold on to it for as long as the cache lives.
    Done(Arc<KeyedCache>),
    Failed(CacheConfigError),
}

impl ImportedCache {
    /// A cache that `fetch` will bring, for instance by [`import_cache`].
    pub fn new(
        id: impl Into<String>,
        fetch: impl FnOnce() -> Result<KeyedCache, CacheConfigError> + Send + 'static,
    ) -> Self {
        Self { id: id.into(), state: Arc::new(Mutex::new(Import::Waiting(Box::new(fetch)))) }
    }

    /// Why the import failed, if it did.
    pub fn failure(&self) -> Option<CacheConfigError> {
        match &*lock(&self.state) {
            Import::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    fn cache(&self) -> Option<Arc<KeyedCache>> {
        match &*lock(&self.state) {
            Import::Done(cache) => Some(Arc::clone(cache)),
            _ => None,
        }
    }
}

fn lock(state: &Mutex<Import>) -> MutexGuard<'_, Import> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CacheManager for ImportedCache {
    fn id(&self) -> &str {
        &self.id
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        self.cache().map_or(Ok(()), |cache| cache.query(query, found))
    }

    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        self.cache().map_or(Ok(Vec::new()), |cache| cache.records(key))
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        self.cache().map_or(Err(CacheError::NotFound), |cache| cache.load(record))
    }

    fn save(&self, _: &CacheKey, _: &SharedResult, _: Timestamp) -> Result<CacheRecord, CacheError> {
        Err(CacheError::ReadOnly(self.id.clone()))
    }

    fn stores(&self) -> Vec<KeyedCache> {
        self.cache().map(|cache| (*cache).clone()).into_iter().collect()
    }

    fn readiness(&self) -> Readiness {
        match &*lock(&self.state) {
            Import::Waiting(_) | Import::Running(_) => Readiness::Pending,
            Import::Done(_) | Import::Failed(_) => Readiness::Ready,
        }
    }

    fn prepare(&self, wake: Box<dyn FnOnce() + Send>) {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, Import::Running(Vec::new())) {
            Import::Running(mut waiting) => {
                waiting.push(wake);
                *state = Import::Running(waiting);
            }
            Import::Waiting(fetch) => {
                *state = Import::Running(vec![wake]);
                drop(state);
                let shared = Arc::clone(&self.state);
                std::thread::spawn(move || {
                    let outcome = match fetch() {
                        Ok(cache) => Import::Done(Arc::new(cache)),
                        Err(error) => Import::Failed(error),
                    };
                    let before = std::mem::replace(&mut *lock(&shared), outcome);
                    if let Import::Running(waiting) = before {
                        waiting.into_iter().for_each(|wake| wake());
                    }
                });
            }
            done => {
                *state = done;
                drop(state);
                wake();
            }
        }
    }
}
