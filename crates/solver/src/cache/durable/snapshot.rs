//! Writing a snapshot; `base.rs` has the format. Equal content in equal order gives equal bytes.

use std::io;

use quern_core::Digest;

use crate::cache::numbers::Numbers;
use crate::cache::storage::CacheResult;

use super::base::{HEAD, MAGIC, RESULT, Sizes, VERSION, slot_hash};
use super::log::checksum;
use super::table::Table;

/// The bytes of a snapshot of a table.
pub(super) fn write(table: &Table, generation: u64) -> io::Result<Vec<u8>> {
    let old_numbers = table.numbers();
    let ids: Vec<Digest> = old_numbers.iter().map(|number| table.id(*number).0).collect();
    let links = Links::of(table, &old_numbers);
    let mut results = Results::default();
    for number in &old_numbers {
        results.add(table.results(&table.id(*number))?);
    }
    Ok(assemble(&ids, &links, &results, generation))
}

/// A link by the numbers of the snapshot; links lie in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    operation: u32,
    source: u32,
    input: u32,
    output: i64,
    /// One more than the number of the digest, or 0.
    selector: u32,
    target: u32,
}

struct Links {
    rows: Vec<Row>,
    digests: Vec<Digest>,
}

impl Links {
    fn of(table: &Table, old_numbers: &[u32]) -> Self {
        let mut new_numbers = vec![0; table.end() as usize];
        for (new, old) in (0u32..).zip(old_numbers) {
            new_numbers[*old as usize] = new;
        }
        let (mut rows, mut digests) = (Vec::with_capacity(2 * old_numbers.len()), Numbers::default());
        for (target, old) in (0u32..).zip(old_numbers) {
            let mut incoming = table.incoming(*old);
            incoming.iter_mut().for_each(|(source, _)| *source = new_numbers[*source as usize]);
            incoming.sort_unstable();
            for (source, link) in incoming {
                let operation = digests.add(&link.digest);
                let selector = link.selector.map_or(0, |selector| digests.add(&selector) + 1);
                let (input, output) = (link.input, link.output);
                rows.push(Row { operation, source, input, output, selector, target });
            }
        }
        rows.sort_unstable();
        let digests = (0..digests.end()).map(|number| digests.digest(number)).collect();
        Self { rows, digests }
    }

    /// Where the links to each node start among the second, the numbers of links by target.
    fn by_target(&self, nodes: usize) -> (Vec<u32>, Vec<u32>) {
        let starts = starts(self.rows.iter().map(|row| row.target), nodes);
        let mut next = starts.clone();
        let mut incoming = vec![0; self.rows.len()];
        for (number, row) in (0u32..).zip(&self.rows) {
            let place = &mut next[row.target as usize];
            incoming[*place as usize] = number;
            *place += 1;
        }
        (starts, incoming)
    }

    fn leaving(&self, nodes: usize) -> Vec<u32> {
        let mut leaving = vec![0; nodes];
        self.rows.iter().for_each(|row| leaving[row.source as usize] += 1);
        leaving
    }
}

/// Where the entries of each owner start, and where the last ones end.
fn starts(owners: impl Iterator<Item = u32>, count: usize) -> Vec<u32> {
    let mut starts = vec![0; count + 1];
    owners.for_each(|owner| starts[owner as usize + 1] += 1);
    for owner in 0..count {
        starts[owner + 1] += starts[owner];
    }
    starts
}

#[derive(Default)]
struct Results {
    starts: Vec<u32>,
    heads: Vec<u8>,
    texts: Vec<u8>,
}

impl Results {
    fn add(&mut self, mut results: Vec<CacheResult>) {
        self.starts.push(self.count());
        results.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        for result in results {
            for number in [count(self.texts.len()), count(result.id.len())] {
                self.heads.extend_from_slice(&number.to_le_bytes());
            }
            self.heads.extend_from_slice(&result.created_at.0.to_le_bytes());
            self.texts.extend_from_slice(result.id.as_bytes());
        }
    }

    fn count(&self) -> u32 {
        count(self.heads.len() / RESULT)
    }
}

fn count(things: usize) -> u32 {
    u32::try_from(things).expect("a snapshot holds fewer than 2^32 of anything")
}

fn put(bytes: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

fn assemble(ids: &[Digest], links: &Links, results: &Results, generation: u64) -> Vec<u8> {
    let (node_slots, digest_slots) = (slots(ids), slots(&links.digests));
    let sizes = Sizes {
        nodes: count(ids.len()),
        links: count(links.rows.len()),
        digests: count(links.digests.len()),
        results: results.count(),
        node_slots: count(node_slots.len()),
        digest_slots: count(digest_slots.len()),
        texts: results.texts.len() as u64,
    };
    let mut bytes = vec![0; HEAD];
    bytes.reserve_exact(sizes.whole_length());
    let digests = ids.iter().chain(&links.digests);
    digests.for_each(|digest| bytes.extend_from_slice(digest.as_bytes()));
    put(&mut bytes, &starts(links.rows.iter().map(|row| row.operation), links.digests.len()));
    for row in &links.rows {
        put(&mut bytes, &[row.source, row.target, row.input, row.selector]);
        bytes.extend_from_slice(&row.output.to_le_bytes());
    }
    let (incoming_starts, incoming) = links.by_target(ids.len());
    put(&mut bytes, &incoming_starts);
    put(&mut bytes, &incoming);
    put(&mut bytes, &links.leaving(ids.len()));
    put(&mut bytes, &results.starts);
    put(&mut bytes, &[results.count()]);
    put(&mut bytes, &node_slots);
    put(&mut bytes, &digest_slots);
    let head = head(&sizes, generation, checksum(&bytes[HEAD..]));
    bytes[..HEAD].copy_from_slice(&head);
    bytes.extend_from_slice(&results.heads);
    bytes.extend_from_slice(&results.texts);
    bytes
}

fn head(sizes: &Sizes, generation: u64, tables: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(&MAGIC);
    head.push(VERSION);
    head.extend_from_slice(&generation.to_le_bytes());
    let Sizes { nodes, links, digests, results, node_slots, digest_slots, texts } = *sizes;
    for number in [nodes, links, digests, results, node_slots, digest_slots] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    head.extend_from_slice(&texts.to_le_bytes());
    head.extend_from_slice(&tables.to_le_bytes());
    let sum = checksum(&head);
    head.extend_from_slice(&sum.to_le_bytes());
    head
}

/// A table at most half full: digests are numbered from 1, and each is put into the first free slot
/// from its hash on.
fn slots(digests: &[Digest]) -> Vec<u32> {
    if digests.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![0; (2 * digests.len()).next_power_of_two()];
    let mask = slots.len() - 1;
    for (number, digest) in (1u32..).zip(digests) {
        let mut at = slot_hash(digest) as usize & mask;
        while slots[at] != 0 {
            at = (at + 1) & mask;
        }
        slots[at] = number;
    }
    slots
}
