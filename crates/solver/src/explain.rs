//! Why a vertex had to run.

use std::fmt;

use crate::cache::{CacheInfoLink, CacheManager, KeyedCache};
use crate::error::{CacheError, VertexLabel};
use crate::key::{CacheKeyWithSelector, KeyId};

/// The reason of a cache miss, found by comparing with the nearest neighbour the cache knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// The vertex says that caches must be ignored.
    Ignored,
    /// No cache has seen this operation, nor another one on the same inputs.
    NoRecord,
    /// The inputs are known together, but by another operation.
    OperationChanged,
    /// The operation is known, but not on these inputs.
    InputsChanged(Vec<InputChange>),
    /// Every input is known in its place, but never all of them together.
    NewCombination,
    /// It was done before, but the result is gone from the cache.
    Evicted,
    /// It was done before, but no cache could deliver the result.
    SourceFailed {
        /// How many records were tried.
        tried: usize,
    },
}

/// How an input differs from what the cache knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputChange {
    /// Which input.
    pub input: usize,
    /// The vertex it comes from.
    pub vertex: VertexLabel,
    /// What about it differs.
    pub what: Difference,
}

/// What about an input differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// What it was made from; its content was not asked for.
    Definition,
    /// Only the part of it that is used.
    Selector,
    /// What it contains.
    Content,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored => f.write_str("the cache is ignored"),
            Self::NoRecord => f.write_str("never run before"),
            Self::OperationChanged => f.write_str("the operation changed"),
            Self::NewCombination => f.write_str("these inputs were never used together"),
            Self::Evicted => f.write_str("the result is gone from the cache"),
            Self::SourceFailed { tried } => write!(f, "none of {tried} cached results could be loaded"),
            Self::InputsChanged(changes) => {
                for (i, change) in changes.iter().enumerate() {
                    let InputChange { input, vertex, what } = change;
                    let what = match what {
                        Difference::Definition => "was made otherwise",
                        Difference::Selector => "is used in another part",
                        Difference::Content => "has other content",
                    };
                    write!(f, "{}input {input} ({vertex}) {what}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// What the solver knows of an input of an edge that nothing was found for.
pub(crate) struct InputFacts {
    pub(crate) vertex: VertexLabel,
    /// Names of the input lead somewhere.
    pub(crate) matched: bool,
    /// Its content was compared.
    pub(crate) compared: bool,
}

/// Explains a miss of an operation: `link` is its link from input 0, whose input and selector
/// are replaced for the others; `names` are the names of the inputs, sorted by input.
pub(crate) fn explain(
    cache: &dyn CacheManager,
    link: CacheInfoLink,
    names: &[(u32, CacheKeyWithSelector)],
    inputs: Vec<InputFacts>,
) -> Result<MissReason, CacheError> {
    if inputs.is_empty() {
        return Ok(MissReason::NoRecord);
    }
    if inputs.iter().all(|input| input.matched) {
        return Ok(MissReason::NewCombination);
    }
    let stores = cache.stores();
    let nothing_matched = !inputs.iter().any(|input| input.matched);
    if nothing_matched && !any(&stores, |store| store.keys().knows_operation(&link.digest))? {
        let neighbour = any(&stores, |store| has_neighbour(store, &link, names))?;
        return Ok(if neighbour { MissReason::OperationChanged } else { MissReason::NoRecord });
    }
    let mut changes = Vec::new();
    for (input, facts) in inputs.into_iter().enumerate().filter(|(_, facts)| !facts.matched) {
        let of_input = |(i, _): &&(u32, CacheKeyWithSelector)| *i as usize == input;
        let names: Vec<_> = names.iter().filter(of_input).collect();
        let what = if facts.compared {
            Difference::Content
        } else if any(&stores, |store| other_selector(store, &link, &names))? {
            Difference::Selector
        } else {
            Difference::Definition
        };
        changes.push(InputChange { input, vertex: facts.vertex, what });
    }
    Ok(MissReason::InputsChanged(changes))
}

fn any(
    stores: &[KeyedCache],
    mut holds: impl FnMut(&KeyedCache) -> Result<bool, CacheError>,
) -> Result<bool, CacheError> {
    for store in stores {
        if holds(store)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if some other operation was done on exactly these inputs.
fn has_neighbour(
    store: &KeyedCache,
    link: &CacheInfoLink,
    names: &[(u32, CacheKeyWithSelector)],
) -> Result<bool, CacheError> {
    let mut common: Option<Vec<KeyId>> = None;
    for alternatives in names.chunk_by(|a, b| a.0 == b.0) {
        let mut reached = Vec::new();
        for (input, name) in alternatives {
            store.keys().walk_leaving(&name.key.key.id(), &mut |other, target| {
                let same_place = other.input == *input && other.output == link.output;
                if same_place && other.selector == name.selector() {
                    reached.push(target);
                }
            })?;
        }
        match &mut common {
            None => common = Some(reached),
            Some(common) => common.retain(|id| reached.contains(id)),
        }
    }
    Ok(common.is_some_and(|common| !common.is_empty()))
}

/// True if the input is known to the operation by another selector.
fn other_selector(
    store: &KeyedCache,
    link: &CacheInfoLink,
    names: &[&(u32, CacheKeyWithSelector)],
) -> Result<bool, CacheError> {
    let mut found = false;
    for (input, name) in names {
        store.keys().walk_leaving(&name.key.key.id(), &mut |other, _| {
            let same_place = CacheInfoLink { selector: other.selector, input: *input, ..*link } == other;
            found |= same_place && other.selector != name.selector();
        })?;
    }
    Ok(found)
}
