//! Writing a snapshot; `base.rs` has the format. Equal content in equal order gives equal bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use quern_core::Digest;

use crate::cache::key_table::LinkNumbers;
use crate::cache::storage::CacheResult;
use crate::digest_map::DigestMap;
use crate::few::Few;

use super::base::{HEAD, MAGIC, RESULT, Sizes, VERSION, slot_hash};
use super::log::{Checksum, checksum};
use super::table::Table;

/// Writes a snapshot of a table into an empty file.
pub(super) fn write(file: &File, table: &Table, generation: u64) -> io::Result<()> {
    let old_numbers = table.numbers();
    let ids = old_numbers.iter().map(|number| table.id(*number).0);
    let mut out = Tables { file, at: HEAD as u64, buffer: Vec::new(), sum: Checksum::default() };
    // Each thing is made when its turn comes: a whole table is in memory besides.
    let Links { rows, ports, digests } = links_of(table, &old_numbers);
    let digests = digests.iter().map(|number| table.digest(*number));
    let (nodes, links) = (count(ids.len()), count(rows.len()));
    put_links(&mut out, ids.clone(), digests.clone(), (&rows, &ports))?;
    drop(rows);
    let mut results = Results::default();
    results.starts.reserve_exact(old_numbers.len());
    results.heads.reserve(RESULT * old_numbers.len());
    for number in &old_numbers {
        results.add(&table.results_at(*number)?);
    }
    out.put_numbers(&results.starts)?;
    out.put_numbers(&[results.count()])?;
    let sizes = Sizes {
        nodes,
        links,
        digests: count(digests.len()),
        results: results.count(),
        node_slots: put_slots(&mut out, ids)?,
        digest_slots: put_slots(&mut out, digests)?,
        texts: results.texts.len() as u64,
    };
    let (end, sum) = out.finish()?;
    file.write_all_at(&results.heads, end)?;
    file.write_all_at(&results.texts, end + results.heads.len() as u64)?;
    file.write_all_at(&head(&sizes, generation, sum), 0)
}

/// The tables on their way into the file.
struct Tables<'a> {
    file: &'a File,
    at: u64,
    buffer: Vec<u8>,
    sum: Checksum,
}

/// So many bytes are written at once.
const PIECE: usize = 1 << 18;

impl Tables<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE { self.write() } else { Ok(()) }
    }

    fn put_numbers(&mut self, numbers: &[u32]) -> io::Result<()> {
        numbers.iter().try_for_each(|number| self.put(&number.to_le_bytes()))
    }

    /// Writes what is gathered in whole blocks of the checksum.
    fn write(&mut self) -> io::Result<()> {
        let whole = self.buffer.len() - self.sum.take(&self.buffer).len();
        self.file.write_all_at(&self.buffer[..whole], self.at)?;
        self.at += whole as u64;
        self.buffer.drain(..whole);
        Ok(())
    }

    /// Where the tables end, and their checksum.
    fn finish(mut self) -> io::Result<(u64, u64)> {
        self.write()?;
        self.file.write_all_at(&self.buffer, self.at)?;
        Ok((self.at + self.buffer.len() as u64, self.sum.finish(&self.buffer)))
    }
}

/// A link by the numbers of the snapshot; links lie in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    operation: u32,
    source: u32,
    /// The place of its [`Port`] among all.
    port: u32,
    target: u32,
}

/// Which input and output of an operation links are for; most links share a few.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Port {
    input: u32,
    output: i64,
    /// One more than the number of the digest, or 0.
    selector: u32,
}

/// All links in order, their ports, and the digests they need by their numbers in the table.
struct Links {
    rows: Vec<Row>,
    ports: Vec<Port>,
    digests: Vec<u32>,
}

/// Digests in the order in which links come to need them, by their numbers in the table.
struct Digests {
    old: Vec<u32>,
    /// One more than the new number, by the old one.
    new: Vec<u32>,
}

impl Digests {
    fn of(table: &Table) -> Self {
        Self { old: Vec::new(), new: vec![0; table.digest_end() as usize] }
    }

    /// The new number of a digest.
    fn add(&mut self, old: u32) -> u32 {
        let new = &mut self.new[old as usize];
        if *new == 0 {
            self.old.push(old);
            *new = count(self.old.len());
        }
        *new - 1
    }
}

fn links_of(table: &Table, old_numbers: &[u32]) -> Links {
    let mut new_numbers = vec![0; table.end() as usize];
    for (new, old) in (0u32..).zip(old_numbers) {
        new_numbers[*old as usize] = new;
    }
    let (mut rows, mut digests) = (Vec::with_capacity(table.link_count()), Digests::of(table));
    let (mut ports, mut incoming) = (DigestMap::default(), Vec::new());
    for (target, old) in (0u32..).zip(old_numbers) {
        incoming.clear();
        table.incoming(*old, &mut incoming);
        incoming.iter_mut().for_each(|link| link.source = new_numbers[link.source as usize]);
        // Digests get their numbers in an order that follows from the content alone.
        let name =
            |link: &LinkNumbers| (table.digest(link.operation), link.selector.map(|s| table.digest(s)));
        incoming.sort_unstable_by(|a, b| {
            let place = |link: &LinkNumbers| (link.source, link.input, link.output);
            place(a).cmp(&place(b)).then_with(|| name(a).cmp(&name(b)))
        });
        for link in &incoming {
            let operation = digests.add(link.operation);
            let selector = link.selector.map_or(0, |selector| digests.add(selector) + 1);
            let next = count(ports.len());
            let port = Port { input: link.input, output: link.output, selector };
            let port = *ports.entry(port).or_insert(next);
            rows.push(Row { operation, source: link.source, port, target });
        }
    }
    let ports = in_order(ports, &mut rows);
    rows.sort_unstable();
    Links { rows, ports, digests: digests.old }
}

/// Numbers ports by their order, so that links of one operation and source follow it.
fn in_order(ports: DigestMap<Port, u32>, rows: &mut [Row]) -> Vec<Port> {
    let mut ports: Vec<(Port, u32)> = ports.into_iter().collect();
    ports.sort_unstable();
    let mut places = vec![0; ports.len()];
    for (place, (_, port)) in (0u32..).zip(&ports) {
        places[*port as usize] = place;
    }
    rows.iter_mut().for_each(|row| row.port = places[row.port as usize]);
    ports.into_iter().map(|(port, _)| port).collect()
}

/// The numbers of links by target, where the links to each node start in `starts`.
fn by_target(rows: &[Row], starts: &[u32]) -> Vec<u32> {
    let mut next = starts.to_vec();
    let mut incoming = vec![0; rows.len()];
    for (number, row) in (0u32..).zip(rows) {
        let place = &mut next[row.target as usize];
        incoming[*place as usize] = number;
        *place += 1;
    }
    incoming
}

/// How many links leave each node.
fn leaving(rows: &[Row], nodes: usize) -> Vec<u32> {
    let mut leaving = vec![0; nodes];
    rows.iter().for_each(|row| leaving[row.source as usize] += 1);
    leaving
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
    fn add(&mut self, results: &[CacheResult]) {
        self.starts.push(self.count());
        let mut results: Few<&CacheResult> = results.iter().collect();
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

/// Puts everything up to the results: digests and links.
fn put_links(
    out: &mut Tables<'_>,
    ids: impl ExactSizeIterator<Item = Digest>,
    digests: impl ExactSizeIterator<Item = Digest>,
    (rows, ports): (&[Row], &[Port]),
) -> io::Result<()> {
    let (nodes, operations) = (ids.len(), digests.len());
    for digest in ids.chain(digests) {
        out.put(digest.as_bytes())?;
    }
    out.put_numbers(&starts(rows.iter().map(|row| row.operation), operations))?;
    for row in rows {
        let Port { input, output, selector } = ports[row.port as usize];
        out.put_numbers(&[row.source, row.target, input, selector])?;
        out.put(&output.to_le_bytes())?;
    }
    let starts = starts(rows.iter().map(|row| row.target), nodes);
    out.put_numbers(&starts)?;
    out.put_numbers(&by_target(rows, &starts))?;
    out.put_numbers(&leaving(rows, nodes))
}

/// Puts the slots of some digests, and returns how many slots these are.
fn put_slots(out: &mut Tables<'_>, digests: impl ExactSizeIterator<Item = Digest>) -> io::Result<u32> {
    let slots = slots(digests);
    out.put_numbers(&slots)?;
    Ok(count(slots.len()))
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
fn slots(digests: impl ExactSizeIterator<Item = Digest>) -> Vec<u32> {
    if digests.len() == 0 {
        return Vec::new();
    }
    let mut slots = vec![0; (2 * digests.len()).next_power_of_two()];
    let mask = slots.len() - 1;
    for (number, digest) in (1u32..).zip(digests) {
        let mut at = slot_hash(&digest) as usize & mask;
        while slots[at] != 0 {
            at = (at + 1) & mask;
        }
        slots[at] = number;
    }
    slots
}
