//! Entries of a layout by tag.

use std::collections::BTreeSet;

use quern_core::step::Platform;

use super::{Layout, LayoutError};
use crate::document::{CONTAINERD_NAME, Descriptor, Index, REF_NAME};
use crate::image::{Image, choose};

/// The tags in an index, each once.
pub(super) fn tags(index: &Index) -> Vec<String> {
    let names: BTreeSet<_> =
        index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME)).collect();
    names.into_iter().cloned().collect()
}

/// Finds, reads and checks one image.
pub(super) fn resolve(layout: &Layout, tag: Option<&str>, platform: &Platform) -> Result<Image, LayoutError> {
    let (image, count) = choose(layout, &tagged(layout, tag)?, platform, &layout.limits)?;
    if tag.is_none() && count > 1 {
        return Err(LayoutError::Ambiguous { path: layout.path.clone(), known: layout.tags() });
    }
    Ok(image)
}

fn tagged(layout: &Layout, tag: Option<&str>) -> Result<Vec<Descriptor>, LayoutError> {
    let entries = layout.index.manifests.iter();
    let Some(tag) = tag else { return Ok(entries.cloned().collect()) };
    let matches: Vec<_> = entries.filter(|entry| has_tag(entry, tag)).cloned().collect();
    if matches.is_empty() {
        let (path, known) = (layout.path.clone(), layout.tags());
        return Err(LayoutError::NoSuchTag { path, tag: tag.to_owned(), known });
    }
    Ok(matches)
}

/// Some tools write the tag alone, others the whole name of the image.
fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    [REF_NAME, CONTAINERD_NAME].iter().filter_map(|key| entry.annotations.get(*key)).any(|name| {
        name == tag || name.strip_suffix(tag).is_some_and(|image| image.ends_with(':') && !tag.contains('/'))
    })
}
