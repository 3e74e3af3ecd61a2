//! Finding everything alive.

use std::collections::HashSet;

use quern_core::port::{Blobs, PortError};
use quern_core::{Digest, Entry, Tree};

use super::{Root, Roots};

/// What roots lead to.
pub(super) struct Marked {
    pub(super) live: HashSet<Digest>,
    /// Trees and blobs that are not there, or are damaged as far as they were read.
    pub(super) missing: Vec<Digest>,
}

/// Walks every tree once. A tree that cannot be read is reported, and what it would lead to is not alive by it.
pub(super) fn mark(blobs: &dyn Blobs, roots: &Roots<'_>) -> Result<Marked, PortError> {
    let mut live = HashSet::new();
    // A tree may be a blob too, for instance as the content of a file: both sets are needed.
    let mut trees = HashSet::new();
    let mut open = Vec::new();
    roots(&mut |root| match root {
        Root::Blob(digest) => drop(live.insert(digest)),
        Root::Tree(digest) => open.push(digest),
        Root::Layer(_) => {}
    })?;
    let mut missing = Vec::new();
    while let Some(digest) = open.pop() {
        if !trees.insert(digest) {
            continue;
        }
        let bytes = match blobs.get(&digest) {
            Ok(bytes) => bytes,
            Err(PortError::Missing(_) | PortError::Damaged(_)) => {
                missing.push(digest);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Ok(tree) = Tree::decode(&bytes) else {
            missing.push(digest);
            continue;
        };
        for (_, entry) in tree.entries() {
            match entry {
                Entry::File { content, .. } => drop(live.insert(content.digest)),
                Entry::Dir(content) => open.push(content.digest),
                Entry::Link(_) => {}
            }
        }
    }
    live.extend(trees);
    Ok(Marked { live, missing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quern_core::port::PortError;
    use quern_testkit::MemBlobs;

    fn tree(blobs: &MemBlobs, entries: Vec<(&str, Entry)>) -> quern_core::ContentRef {
        let entries = entries.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect();
        blobs.put(&Tree::new(entries).unwrap().encode()).unwrap()
    }

    #[test]
    fn trees_lead_to_what_they_hold() {
        let blobs = MemBlobs::default();
        let file = blobs.put(b"file").unwrap();
        let other = blobs.put(b"other").unwrap();
        let lost = Digest::of(b"lost");
        let inner = tree(&blobs, vec![("f", Entry::File { content: file, executable: false })]);
        let link = ("l", Entry::Link("f".into()));
        let outer = tree(&blobs, vec![("d", Entry::Dir(inner)), ("e", Entry::Dir(inner)), link]);
        // A file whose bytes are those of a directory.
        let listing = tree(&blobs, vec![("x", Entry::File { content: outer, executable: true })]);
        let check = |roots: &[Root], expected: &[Digest], missing: &[Digest]| {
            let visit = |f: &mut dyn FnMut(Root)| {
                roots.iter().for_each(|root| f(*root));
                Ok::<(), PortError>(())
            };
            let marked = mark(&blobs, &visit).unwrap();
            assert_eq!(marked.live, expected.iter().copied().collect());
            assert_eq!(marked.missing, missing);
        };
        let (outer, inner, file, listing) = (outer.digest, inner.digest, file.digest, listing.digest);
        check(&[], &[], &[]);
        check(&[Root::Blob(outer), Root::Blob(other.digest)], &[outer, other.digest], &[]);
        check(&[Root::Tree(outer)], &[outer, inner, file], &[]);
        check(&[Root::Tree(listing)], &[listing, outer], &[]);
        check(&[Root::Tree(listing), Root::Tree(outer)], &[listing, outer, inner, file], &[]);
        check(&[Root::Tree(lost), Root::Tree(inner)], &[lost, inner, file], &[lost]);
        check(&[Root::Tree(file)], &[file], &[file]);
    }
}
