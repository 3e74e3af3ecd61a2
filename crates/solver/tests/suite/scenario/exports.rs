//! Exports into a target that remembers what it was given.

use std::collections::{BTreeMap, BTreeSet};

use quern_core::Digest;
use quern_solver::{
    CacheError, CacheExportMode, CacheExportOptions, CacheExportResult, CacheExporterRecord,
    CacheExporterTarget, CacheLink, Descriptor, ExportableCacheKey, Remote, SharedResult,
};

use super::model::{ExpectAdd, Export};
use super::ops::Made;

struct Added {
    digest: Digest,
    inputs: usize,
    results: usize,
}

#[derive(Default)]
pub struct Recorder {
    adds: Vec<Added>,
}

impl CacheExporterTarget for Recorder {
    fn add(
        &mut self,
        digest: Digest,
        inputs: &[Vec<CacheLink>],
        results: &[CacheExportResult],
    ) -> Result<Option<CacheExporterRecord>, CacheError> {
        for link in inputs.iter().flatten() {
            assert!((link.source.0 as usize) < self.adds.len(), "a link names a record of this target");
        }
        self.adds.push(Added { digest, inputs: inputs.len(), results: results.len() });
        Ok(Some(CacheExporterRecord(u32::try_from(self.adds.len() - 1).unwrap())))
    }
}

fn remote_of(result: &SharedResult) -> Result<Vec<Remote>, CacheError> {
    let text = super::ops::text(&result.get::<Made>().unwrap().value);
    let descriptor = Descriptor {
        media_type: "application/octet-stream".into(),
        digest: Digest::of(text.as_bytes()),
        size: text.len() as u64,
        annotations: BTreeMap::new(),
    };
    Ok(vec![Remote { descriptors: vec![descriptor] }])
}

/// `seed:<text>@<output>` and `content:<text>@-1` as digests.
fn symbolic(text: &str) -> Digest {
    let (name, output) = text.rsplit_once('@').unwrap();
    let digest = match name.strip_prefix("content:") {
        Some(content) => Digest::of(content.as_bytes()),
        None => Digest::of(name.as_bytes()),
    };
    Digest::of(format!("{digest}@{output}").as_bytes())
}

pub fn check(key: &ExportableCacheKey, target: &mut Recorder, export: &Export) -> Result<(), String> {
    let mode = match export.mode.as_str() {
        "min" => CacheExportMode::Min,
        "max" => CacheExportMode::Max,
        "remote-only" => CacheExportMode::RemoteOnly,
        other => return Err(format!("unknown mode {other}")),
    };
    let options = CacheExportOptions { mode, convert: Some(&remote_of), ..CacheExportOptions::default() };
    key.export_to(target, &options).map_err(|e| e.to_string())?;
    let expect = &export.expect;
    let unique: BTreeSet<Digest> = target.adds.iter().map(|add| add.digest).collect();
    if expect.unique.is_some_and(|n| n != unique.len()) {
        return Err(format!("{} different digests, expected {:?}", unique.len(), expect.unique));
    }
    if let Some(records) = &expect.records {
        let mut got: BTreeMap<(Digest, usize), bool> = BTreeMap::new();
        for add in &target.adds {
            *got.entry((add.digest, add.inputs)).or_default() |= add.results > 0;
        }
        let wanted: BTreeMap<(Digest, usize), bool> =
            records.iter().map(|r| ((symbolic(&r.digest), r.inputs), r.result)).collect();
        if got != wanted {
            return Err(difference(&got, &wanted, records));
        }
    }
    let adds: Vec<ExpectAdd> =
        target.adds.iter().map(|add| ExpectAdd { inputs: add.inputs, results: add.results }).collect();
    if expect.adds.as_ref().is_some_and(|wanted| *wanted != adds) {
        return Err(format!("adds are {adds:?}, expected {:?}", expect.adds));
    }
    for (at, wanted) in &expect.adds_at {
        if adds.get(at.parse::<usize>().unwrap()) != Some(wanted) {
            return Err(format!("add {at} of {adds:?} is not {wanted:?}"));
        }
    }
    Ok(())
}

type Folded = BTreeMap<(Digest, usize), bool>;

fn difference(got: &Folded, wanted: &Folded, records: &[super::model::ExpectRecord]) -> String {
    let name = |digest: &Digest| {
        let record = records.iter().find(|r| symbolic(&r.digest) == *digest);
        record.map_or_else(|| digest.short(), |r| r.digest.clone())
    };
    let mut text = String::from("records differ:");
    for ((digest, inputs), result) in got.iter().filter(|(key, value)| wanted.get(key) != Some(value)) {
        text += &format!(" +{}/{inputs}/{result}", name(digest));
    }
    for ((digest, inputs), result) in wanted.iter().filter(|(key, value)| got.get(key) != Some(value)) {
        text += &format!(" -{}/{inputs}/{result}", name(digest));
    }
    text
}
