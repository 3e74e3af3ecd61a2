//! Collecting chains, and writing them.

use std::collections::{BTreeMap, BTreeSet};

use quern_core::{Digest, DigestWriter};

use crate::digest_map::DigestMap;
use crate::error::CacheError;
use crate::export::{CacheExportResult, CacheExporterRecord, CacheExporterTarget, CacheLink, Descriptor};

use super::format::{
    Annotations, CREATED_AT, Config, DIFF_ID, Layer, Record, RecordInput, RecordLayer, json, oci_type,
};
use super::{rings, time};

/// A target of exports that can be written as a cache configuration. Several exports may go into one.
#[derive(Default)]
pub struct CacheChains {
    items: Vec<Item>,
    /// Which item took over another.
    taken_over: Vec<u32>,
    roots: DigestMap<Digest, u32>,
    /// Items reached by an input of an operation.
    reached: DigestMap<Step, Vec<u32>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Step {
    source: u32,
    input: u32,
    digest: Digest,
    selector: Option<Digest>,
}

/// A way by which an input is known: an item, and the part of it.
type Link = (u32, Option<Digest>);

#[derive(Default)]
struct Item {
    digest: Option<Digest>,
    inputs: Vec<BTreeSet<Link>>,
    /// The newest.
    result: Option<CacheExportResult>,
}

impl CacheChains {
    /// Nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many different keys there are.
    pub fn len(&self) -> usize {
        (0u32..).zip(&self.taken_over).filter(|(number, by)| number == *by).count()
    }

    /// True if nothing was exported.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn find(&self, mut item: u32) -> u32 {
        while self.taken_over[item as usize] != item {
            item = self.taken_over[item as usize];
        }
        item
    }

    fn new_item(&mut self, digest: Digest, inputs: usize) -> u32 {
        let number = u32::try_from(self.items.len()).expect("an export holds fewer than 2^32 keys");
        self.items.push(Item { digest: Some(digest), inputs: vec![BTreeSet::new(); inputs], result: None });
        self.taken_over.push(number);
        number
    }

    /// The items that every input leads to.
    fn matches(&self, digest: Digest, inputs: &[Vec<CacheLink>]) -> BTreeSet<u32> {
        let mut common: Option<BTreeSet<u32>> = None;
        for (input, links) in (0u32..).zip(inputs) {
            let step = |link: &CacheLink| Step {
                source: self.find(link.source.0),
                input,
                digest,
                selector: link.selector,
            };
            let found = links.iter().filter_map(|link| self.reached.get(&step(link))).flatten();
            let found: BTreeSet<u32> = found.map(|item| self.find(*item)).collect();
            common = Some(match common {
                None => found,
                Some(common) => common.intersection(&found).copied().collect(),
            });
        }
        let same = |item: &u32| self.items[*item as usize].inputs.len() == inputs.len();
        common.unwrap_or_default().into_iter().filter(same).collect()
    }

    /// One item takes over another that turned out to be the same.
    fn take_over(&mut self, into: u32, from: u32) {
        let Item { inputs, result, .. } = std::mem::take(&mut self.items[from as usize]);
        self.taken_over[from as usize] = into;
        let item = &mut self.items[into as usize];
        for (mine, other) in item.inputs.iter_mut().zip(inputs) {
            mine.extend(other);
        }
        item.offer(result);
        // Whatever followed from the one follows from the other now.
        let moved: Vec<(Step, Vec<u32>)> = self.reached.extract_if(|step, _| step.source == from).collect();
        for (step, items) in moved {
            self.reached.entry(Step { source: into, ..step }).or_default().extend(items);
        }
    }

    /// The configuration, and the layers it speaks of.
    pub fn marshal(&self) -> (Vec<u8>, Vec<Descriptor>) {
        let live: Vec<u32> =
            (0u32..).zip(&self.taken_over).filter(|(n, by)| n == *by).map(|(n, _)| n).collect();
        let (order, inputs) = self.without_rings(&live);
        let names = self.names(&order, &inputs);
        let mut sorted: Vec<u32> = order.into_iter().filter(|item| names.contains_key(item)).collect();
        sorted.sort_by_key(|item| (self.items[*item as usize].digest, inputs[item].len(), names[item]));
        let numbers: BTreeMap<u32, usize> = sorted.iter().enumerate().map(|(n, item)| (*item, n)).collect();
        let mut layers = Layers::default();
        let tops: BTreeMap<u32, usize> = sorted
            .iter()
            .filter_map(|item| {
                Some((*item, layers.add(&self.items[*item as usize].result.as_ref()?.remote.descriptors)?))
            })
            .collect();
        let (layer_list, places, descriptors) = layers.sorted();
        let record = |item: &u32| {
            let result = self.items[*item as usize].result.as_ref();
            let top = tops.get(item).zip(result).map(|(top, result)| RecordLayer {
                layer: places[*top],
                created_at: time::write(result.created_at),
            });
            let input = |links: &BTreeSet<Link>| {
                let mut links: Vec<RecordInput> = links
                    .iter()
                    .filter_map(|(source, selector)| {
                        let selector = selector.map(|s| s.to_string()).unwrap_or_default();
                        Some(RecordInput { selector, link: *numbers.get(source)? })
                    })
                    .collect();
                links.sort_by(|a, b| (a.link, &a.selector).cmp(&(b.link, &b.selector)));
                links
            };
            Record {
                digest: self.items[*item as usize]
                    .digest
                    .expect("an item that was not taken over has a digest"),
                layers: top.into_iter().collect(),
                chains: Vec::new(),
                inputs: inputs[item].iter().map(input).collect(),
            }
        };
        let config = Config { layers: layer_list, records: sorted.iter().map(record).collect() };
        (json(&config), descriptors)
    }

    /// The items, sources before what follows from them, and their inputs without the links that
    /// close a ring. Inside a ring only those links stay that lead away from where the ring can be
    /// entered; what cannot be reached at all is left out.
    fn without_rings(&self, live: &[u32]) -> (Vec<u32>, BTreeMap<u32, Vec<BTreeSet<Link>>>) {
        let found = |(source, selector): &Link| (self.find(*source), *selector);
        let inputs_of = |item: &u32| {
            let inputs = self.items[*item as usize].inputs.iter();
            inputs.map(|links| links.iter().map(found).collect::<BTreeSet<Link>>()).collect::<Vec<_>>()
        };
        let mut inputs: BTreeMap<u32, Vec<BTreeSet<Link>>> =
            live.iter().map(|i| (*i, inputs_of(i))).collect();
        let rings = rings::components(live, |item| {
            inputs[&item].iter().flatten().map(|(source, _)| *source).collect::<Vec<_>>()
        });
        let levels = rings::levels(live, |item| {
            inputs[&item].iter().map(|links| links.iter().map(|(source, _)| *source).collect()).collect()
        });
        for (item, inputs) in &mut inputs {
            for links in inputs {
                links.retain(|(source, _)| {
                    rings[source] != rings[item]
                        || levels.get(source).zip(levels.get(item)).is_some_and(|(s, i)| s < i)
                });
            }
        }
        let mut order: Vec<u32> = levels.keys().copied().collect();
        order.sort_by_key(|item| (rings[item], levels[item]));
        inputs.retain(|item, _| levels.contains_key(item));
        (order, inputs)
    }

    /// A digest for each item that tells it from all others whatever the order of exports; none
    /// for items that have lost all ways by which some input was known.
    fn names(&self, order: &[u32], inputs: &BTreeMap<u32, Vec<BTreeSet<Link>>>) -> BTreeMap<u32, Digest> {
        let mut names: BTreeMap<u32, Digest> = BTreeMap::new();
        for item in order {
            let mut hash = DigestWriter::new();
            hash.update(self.items[*item as usize].digest.expect("not taken over").as_bytes());
            let mut whole = true;
            for links in &inputs[item] {
                let known =
                    links.iter().filter_map(|(source, selector)| Some((*names.get(source)?, *selector)));
                let known: BTreeSet<(Digest, Option<Digest>)> = known.collect();
                whole &= !known.is_empty();
                hash.update(&(known.len() as u64).to_le_bytes());
                for (name, selector) in known {
                    hash.update(name.as_bytes());
                    hash.update(&[u8::from(selector.is_some())]);
                    hash.update(selector.as_ref().map_or(&[], |s| s.as_bytes().as_slice()));
                }
            }
            if whole {
                names.insert(*item, hash.finish());
            }
        }
        names
    }
}

impl Item {
    fn offer(&mut self, result: Option<CacheExportResult>) {
        if let Some(result) = result
            && self.result.as_ref().is_none_or(|mine| mine.created_at < result.created_at)
        {
            self.result = Some(result);
        }
    }
}

impl CacheExporterTarget for CacheChains {
    fn add(
        &mut self,
        digest: Digest,
        inputs: &[Vec<CacheLink>],
        results: &[CacheExportResult],
    ) -> Result<Option<CacheExporterRecord>, CacheError> {
        let item = if inputs.is_empty() {
            match self.roots.get(&digest) {
                Some(item) => *item,
                None => {
                    let item = self.new_item(digest, 0);
                    self.roots.insert(digest, item);
                    item
                }
            }
        } else {
            let mut matches = self.matches(digest, inputs).into_iter();
            let item = matches.next().unwrap_or_else(|| self.new_item(digest, inputs.len()));
            matches.for_each(|other| self.take_over(item, other));
            item
        };
        for (input, links) in (0u32..).zip(inputs) {
            for link in links {
                let source = self.find(link.source.0);
                if source != item
                    && self.items[item as usize].inputs[input as usize].insert((source, link.selector))
                {
                    let step = Step { source, input, digest, selector: link.selector };
                    self.reached.entry(step).or_default().push(item);
                }
            }
        }
        results.iter().for_each(|result| self.items[item as usize].offer(Some(result.clone())));
        Ok(Some(CacheExporterRecord(item)))
    }
}

/// Layers, each with the one below it.
#[derive(Default)]
struct Layers {
    numbers: BTreeMap<(Option<usize>, Digest), usize>,
    all: Vec<(Option<usize>, Descriptor)>,
}

impl Layers {
    /// Adds a stack of layers; returns the number of the topmost.
    fn add(&mut self, descriptors: &[Descriptor]) -> Option<usize> {
        let mut below = None;
        for descriptor in descriptors {
            let next = self.all.len();
            let number = *self.numbers.entry((below, descriptor.digest)).or_insert(next);
            if number == next {
                self.all.push((below, descriptor.clone()));
            }
            below = Some(number);
        }
        below
    }

    /// Sorted by blob, then by what is below; where each came to stand; and the different blobs.
    fn sorted(self) -> (Vec<Layer>, Vec<i64>, Vec<Descriptor>) {
        // What is below compared by blobs, not by numbers, which depend on the order of exports.
        let path = |mut at: usize| {
            let mut path = vec![self.all[at].1.digest];
            while let Some(below) = self.all[at].0 {
                path.push(self.all[below].1.digest);
                at = below;
            }
            path
        };
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_cached_key(|n| path(*n));
        let mut places = vec![0i64; order.len()];
        for (place, number) in (0i64..).zip(&order) {
            places[*number] = place;
        }
        let layer = |number: &usize| {
            let (below, descriptor) = &self.all[*number];
            let annotation = |name: &str| descriptor.annotations.get(name).cloned().unwrap_or_default();
            let annotations = Annotations {
                media_type: oci_type(&descriptor.media_type).to_owned(),
                diff_id: annotation(DIFF_ID),
                size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
                created_at: annotation(CREATED_AT),
            };
            Layer {
                blob: descriptor.digest,
                parent: below.map_or(-1, |below| places[below]),
                annotations: Some(annotations),
            }
        };
        let layers = order.iter().map(layer).collect();
        let mut blobs: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for (_, descriptor) in &self.all {
            let media_type = oci_type(&descriptor.media_type).to_owned();
            blobs.entry(descriptor.digest).or_insert_with(|| Descriptor { media_type, ..descriptor.clone() });
        }
        (layers, places, blobs.into_values().collect())
    }
}
