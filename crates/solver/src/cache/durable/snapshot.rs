//! Writing a snapshot; `base.rs` has the format. Equal content gives equal bytes.

use std::collections::BTreeMap;
use std::io;

use quern_core::Digest;

use crate::digest_map::DigestMap;
use crate::key::KeyId;

use super::base::{HEAD, LINK, MAGIC, Sizes, VERSION, link_hash, node_hash};
use super::log::checksum;
use super::table::Table;

/// The bytes of a snapshot of a table.
pub(super) fn write(table: &Table, generation: u64) -> io::Result<Vec<u8>> {
    let ids = table.ids();
    let mut parts = Parts::default();
    parts.numbers.extend((0u32..).zip(&ids).map(|(number, id)| (*id, number)));
    parts.leaving = vec![0; ids.len()];
    for id in &ids {
        parts.add_node(table, id)?;
    }
    parts.incoming.push(parts.link_count());
    parts.result_starts.push(parts.result_count());
    Ok(parts.assemble(&ids, generation))
}

#[derive(Default)]
struct Parts {
    numbers: DigestMap<KeyId, u32>,
    digests: Vec<u8>,
    digest_numbers: BTreeMap<Digest, u32>,
    links: Vec<u8>,
    link_hashes: Vec<u64>,
    incoming: Vec<u32>,
    leaving: Vec<u32>,
    results: Vec<u8>,
    result_starts: Vec<u32>,
    texts: Vec<u8>,
}

fn count(bytes: &[u8], of: usize) -> u32 {
    u32::try_from(bytes.len() / of).expect("a snapshot holds fewer than 2^32 of anything")
}

impl Parts {
    fn link_count(&self) -> u32 {
        count(&self.links, LINK)
    }

    fn result_count(&self) -> u32 {
        count(&self.results, super::base::RESULT)
    }

    fn add_node(&mut self, table: &Table, id: &KeyId) -> io::Result<()> {
        self.incoming.push(self.link_count());
        self.result_starts.push(self.result_count());
        let target = self.numbers[id];
        let mut sources = table.sources(id);
        sources.sort_unstable();
        for (source, link) in sources {
            let from = self.numbers[&source];
            self.leaving[from as usize] += 1;
            let digest = self.digest(link.digest);
            let selector = link.selector.map_or(0, |selector| self.digest(selector) + 1);
            for number in [from, target, digest, selector, link.input, 0] {
                self.links.extend_from_slice(&number.to_le_bytes());
            }
            self.links.extend_from_slice(&link.output.to_le_bytes());
            self.link_hashes.push(link_hash(&source, &link));
        }
        let mut results = table.results(id)?;
        results.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        for result in results {
            for number in [count(&self.texts, 1), count(result.id.as_bytes(), 1)] {
                self.results.extend_from_slice(&number.to_le_bytes());
            }
            self.results.extend_from_slice(&result.created_at.0.to_le_bytes());
            self.texts.extend_from_slice(result.id.as_bytes());
        }
        Ok(())
    }

    fn digest(&mut self, digest: Digest) -> u32 {
        let next = count(&self.digests, 32);
        *self.digest_numbers.entry(digest).or_insert_with(|| {
            self.digests.extend_from_slice(digest.as_bytes());
            next
        })
    }

    fn assemble(self, ids: &[KeyId], generation: u64) -> Vec<u8> {
        let node_slots = slots(ids.len());
        let link_slots = slots(self.link_hashes.len());
        let sizes = Sizes {
            nodes: u32::try_from(ids.len()).expect("numbered above"),
            links: self.link_count(),
            digests: count(&self.digests, 32),
            results: self.result_count(),
            node_slots: u32::try_from(node_slots).expect("at most four times the nodes"),
            link_slots: u32::try_from(link_slots).expect("at most four times the links"),
            texts: self.texts.len() as u64,
        };
        let mut tables: Vec<u8> = ids.iter().flat_map(|id| *id.0.as_bytes()).collect();
        tables.extend_from_slice(&self.digests);
        tables.extend_from_slice(&self.links);
        for numbers in [&self.incoming, &self.leaving, &self.result_starts] {
            tables.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        }
        for (_, number) in filled(ids.iter().map(node_hash), node_slots) {
            tables.extend_from_slice(&number.to_le_bytes());
        }
        for (hash, number) in filled(self.link_hashes.iter().copied(), link_slots) {
            tables.extend_from_slice(&hash.to_le_bytes()[4..]);
            tables.extend_from_slice(&number.to_le_bytes());
        }
        let mut bytes = head(&sizes, generation, checksum(&tables));
        bytes.extend_from_slice(&tables);
        bytes.extend_from_slice(&self.results);
        bytes.extend_from_slice(&self.texts);
        bytes
    }
}

fn head(sizes: &Sizes, generation: u64, tables: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(&MAGIC);
    head.push(VERSION);
    head.extend_from_slice(&generation.to_le_bytes());
    let Sizes { nodes, links, digests, results, node_slots, link_slots, texts } = *sizes;
    for number in [nodes, links, digests, results, node_slots, link_slots] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    head.extend_from_slice(&texts.to_le_bytes());
    head.extend_from_slice(&tables.to_le_bytes());
    let sum = checksum(&head);
    head.extend_from_slice(&sum.to_le_bytes());
    head
}

/// A table at most half full.
fn slots(entries: usize) -> usize {
    if entries == 0 { 0 } else { (2 * entries).next_power_of_two() }
}

/// Numbers entries from 1 and puts each into the first free slot from its hash on.
fn filled(hashes: impl Iterator<Item = u64>, slots: usize) -> Vec<(u64, u32)> {
    let mut table = vec![(0, 0u32); slots];
    for (number, hash) in (1u32..).zip(hashes) {
        let mut at = (hash & 0xffff_ffff) as usize & (slots - 1);
        while table[at].1 != 0 {
            at = (at + 1) & (slots - 1);
        }
        table[at] = (hash, number);
    }
    table
}
