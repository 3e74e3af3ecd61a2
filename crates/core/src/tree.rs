//! Merkle trees of files. A tree is one directory; its canonical bytes are those of the remote
//! execution API's `Directory` message, so a tree's digest means the same to every server that speaks
//! it (protobuf encoding, entries of each kind sorted by name, default values left out).
//!
//! What counts: names, file bytes, the executable bit, link targets. What does not: owner, times,
//! other mode bits. An empty directory is an entry like any other.

use crate::digest::Digest;
use crate::path::check_name;

/// A reference to content: its digest and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentRef {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Number of bytes.
    pub size: u64,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A regular file.
    File {
        /// Its bytes.
        content: ContentRef,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory: digest and length of its own canonical bytes.
    Dir(ContentRef),
    /// A symbolic link with its target, kept as text and never resolved here.
    Link(String),
}

/// One directory. Invariant: names are valid components, strictly ascending by bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<(String, Entry)>,
}

/// Why bytes or entries do not form a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A name no directory can hold.
    #[error("tree entry `{}` {reason}", name.escape_debug())]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The same name twice, or names out of order in canonical bytes.
    #[error("tree entry `{}` is repeated or out of order", name.escape_debug())]
    Order {
        /// The second of the two names.
        name: String,
    },
    /// Bytes that are not the canonical encoding of a directory.
    #[error("not a directory in canonical form: {0}")]
    Encoding(&'static str),
}

impl Tree {
    /// A tree of these entries in any order.
    ///
    /// # Errors
    /// [`TreeError`] for an invalid or repeated name.
    pub fn new(mut entries: Vec<(String, Entry)>) -> Result<Self, TreeError> {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in &entries {
            check_name(name).map_err(|reason| TreeError::Name { name: name.clone(), reason })?;
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(TreeError::Order { name: pair[1].0.clone() });
        }
        Ok(Self { entries })
    }

    /// The entries, ascending by name.
    pub fn entries(&self) -> &[(String, Entry)] {
        &self.entries
    }

    /// Gives the entries away, ascending by name.
    pub fn into_entries(self) -> Vec<(String, Entry)> {
        self.entries
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|i| &self.entries[i].1)
    }

    /// Sets (`Some`) or removes (`None`) one entry.
    ///
    /// # Errors
    /// [`TreeError::Name`] for a name no directory can hold.
    pub fn set(&mut self, name: &str, entry: Option<Entry>) -> Result<(), TreeError> {
        check_name(name).map_err(|reason| TreeError::Name { name: name.to_owned(), reason })?;
        match (self.entries.binary_search_by(|(n, _)| n.as_str().cmp(name)), entry) {
            (Ok(i), Some(entry)) => self.entries[i].1 = entry,
            (Ok(i), None) => drop(self.entries.remove(i)),
            (Err(i), Some(entry)) => self.entries.insert(i, (name.to_owned(), entry)),
            (Err(_), None) => {}
        }
        Ok(())
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * 112);
        for wanted in [1, 2, 3] {
            for (name, entry) in self.entries.iter().filter(|(_, entry)| field_of(entry) == wanted) {
                encode_node(&mut out, wanted, name, entry);
            }
        }
        out
    }

    /// Digest and length of the canonical bytes.
    pub fn content_ref(&self) -> ContentRef {
        let bytes = self.encode();
        ContentRef { digest: Digest::of(&bytes), size: bytes.len() as u64 }
    }

    /// Reads canonical bytes and accepts nothing else: what it accepts encodes to the same bytes.
    ///
    /// # Errors
    /// [`TreeError`] for anything that [`Tree::encode`] does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let mut reader = Reader { bytes };
        let mut entries: Vec<(String, Entry)> = Vec::with_capacity(bytes.len() / 100);
        let (mut field_before, mut sorted) = (0, true);
        while let Some(field) = reader.field()? {
            let (name, entry) = decode_node(field.0, field.1)?;
            if field.0 < field_before {
                return Err(TreeError::Encoding("kinds of entries out of order"));
            }
            if let Some((last, _)) = entries.last().filter(|(last, _)| *last >= name) {
                if field.0 == field_before {
                    return Err(TreeError::Order { name: last.clone() });
                }
                sorted = false;
            }
            field_before = field.0;
            entries.push((name, entry));
        }
        if sorted { Ok(Self { entries }) } else { Self::new(entries) }
    }
}

const fn field_of(entry: &Entry) -> u8 {
    match entry {
        Entry::File { .. } => 1,
        Entry::Dir(_) => 2,
        Entry::Link(_) => 3,
    }
}

// The three node messages: name = 1, digest = 2 {hash = 1, size_bytes = 2}, is_executable = 4, target = 2.

fn encode_node(out: &mut Vec<u8>, field: u8, name: &str, entry: &Entry) {
    let mut node = [0u8; 96];
    let payload: &[u8] = match entry {
        Entry::File { content, executable } => {
            let end = encode_content(&mut node, content);
            node[end..end + 2].copy_from_slice(&[4 << 3, 1]);
            &node[..if *executable { end + 2 } else { end }]
        }
        Entry::Dir(content) => {
            let end = encode_content(&mut node, content);
            &node[..end]
        }
        Entry::Link(_) => &[],
    };
    let target = if let Entry::Link(target) = entry { target.as_str() } else { "" };
    let target_len = if target.is_empty() { 0 } else { 1 + varint_len(target.len() as u64) + target.len() };
    let node_len = 1 + varint_len(name.len() as u64) + name.len() + payload.len() + target_len;
    out.push(field << 3 | 2);
    varint(out, node_len as u64);
    text(out, 1, name);
    out.extend_from_slice(payload);
    if !target.is_empty() {
        text(out, 2, target);
    }
}

/// Writes field 2, the digest message, to the start of `node` and returns its length.
fn encode_content(node: &mut [u8; 96], content: &ContentRef) -> usize {
    let mut size = Vec::with_capacity(11);
    if content.size > 0 {
        size.push(2 << 3);
        varint(&mut size, content.size);
    }
    let len = 66 + size.len();
    node[..4].copy_from_slice(&[2 << 3 | 2, u8::try_from(len).expect("at most 77"), 1 << 3 | 2, 64]);
    content.digest.write_hex(&mut node[4..68]);
    node[68..68 + size.len()].copy_from_slice(&size);
    2 + len
}

fn decode_node(field: u8, bytes: &[u8]) -> Result<(String, Entry), TreeError> {
    let mut reader = Reader { bytes };
    let name = reader.text(1)?;
    check_name(&name).map_err(|reason| TreeError::Name { name: name.clone(), reason })?;
    let entry = match field {
        1 => {
            let content = decode_content(reader.expect(2)?)?;
            let executable = !reader.bytes.is_empty();
            if executable && reader.bytes != [4 << 3, 1] {
                return Err(TreeError::Encoding("a file node has an unknown field"));
            }
            reader.bytes = &[];
            Entry::File { content, executable }
        }
        2 => Entry::Dir(decode_content(reader.expect(2)?)?),
        3 if reader.bytes.is_empty() => Entry::Link(String::new()),
        3 => Entry::Link(reader.text(2)?),
        _ => return Err(TreeError::Encoding("an unknown field")),
    };
    if reader.bytes.is_empty() {
        Ok((name, entry))
    } else {
        Err(TreeError::Encoding("a node has an unknown field"))
    }
}

fn decode_content(bytes: &[u8]) -> Result<ContentRef, TreeError> {
    let mut reader = Reader { bytes };
    let hex = reader.expect(1)?;
    let digest = std::str::from_utf8(hex)
        .ok()
        .and_then(|hex| Digest::from_hex(hex).ok())
        .ok_or(TreeError::Encoding("a digest is not 64 hexadecimal characters"))?;
    let size = if reader.bytes.is_empty() {
        0
    } else {
        let size = if reader.byte()? == 2 << 3 { reader.varint()? } else { 0 };
        if size == 0 || !reader.bytes.is_empty() {
            return Err(TreeError::Encoding("a digest has an unknown field"));
        }
        size
    };
    Ok(ContentRef { digest, size })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn text(out: &mut Vec<u8>, field: u8, value: &str) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next length-delimited field, none at the end.
    fn field(&mut self) -> Result<Option<(u8, &'a [u8])>, TreeError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.byte()?;
        if key & 7 != 2 || key >> 3 == 0 || key >> 3 > 3 {
            return Err(TreeError::Encoding("an unknown field"));
        }
        let len = self.varint()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= self.bytes.len());
        let (value, rest) = self.bytes.split_at(len.ok_or(TreeError::Encoding("cut short"))?);
        self.bytes = rest;
        Ok(Some((key >> 3, value)))
    }

    fn expect(&mut self, number: u8) -> Result<&'a [u8], TreeError> {
        match self.field()? {
            Some((field, value)) if field == number => Ok(value),
            _ => Err(TreeError::Encoding("a field is missing")),
        }
    }

    fn text(&mut self, number: u8) -> Result<String, TreeError> {
        let bytes = self.expect(number)?;
        if bytes.is_empty() {
            return Err(TreeError::Encoding("an empty text is written out"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TreeError::Encoding("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn byte(&mut self) -> Result<u8, TreeError> {
        let (first, rest) = self.bytes.split_first().ok_or(TreeError::Encoding("cut short"))?;
        self.bytes = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, TreeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 || shift > 0 && byte == 0 {
                return Err(TreeError::Encoding("a number is too long"));
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(TreeError::Encoding("a number is too long"))
    }
}
