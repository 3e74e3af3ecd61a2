//! Random histories of one branch against a model: a list of maps from paths to contents.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, prop_assert_eq, prop_oneof, proptest};
use proptest::{collection, sample};
use quern_catalog::{FileError, Literal, PutMode, PutOptions, TreesError, Written};

use crate::shop::{Shop, path, prefix};

type Files = BTreeMap<String, String>;

#[derive(Debug, Clone)]
enum Act {
    Put(PutMode, Vec<(&'static str, &'static str)>),
    Delete(&'static str),
    DeleteAll(&'static str),
    Copy(&'static str, &'static str),
    Start,
    Finish,
}

fn acts() -> impl Strategy<Value = Act> {
    // `/a` and `/a/b` are sometimes a file and sometimes a directory.
    let place = || sample::select(vec!["/a", "/a/b", "/a/b/c", "/a.b", "/d", "/d/e", "/f"]);
    let mode = sample::select(vec![PutMode::Append, PutMode::Overwrite, PutMode::Replace]);
    let sources = collection::vec((place(), sample::select(vec!["", "x", "yy"])), 1..4);
    prop_oneof![
        6 => (mode, sources).prop_map(|(mode, sources)| Act::Put(mode, sources)),
        1 => place().prop_map(Act::Delete),
        1 => place().prop_map(Act::DeleteAll),
        2 => (place(), place()).prop_map(|(from, to)| Act::Copy(from, to)),
        1 => Just(Act::Start),
        1 => Just(Act::Finish),
    ]
}

/// What is at or below a path.
fn below<'f>(files: &'f Files, place: &'f str) -> impl Iterator<Item = (&'f String, &'f String)> {
    files.iter().filter(move |(p, _)| *p == place || p.starts_with(&format!("{place}/")))
}

/// A file is where a directory should be, or the reverse.
fn clashes(files: &Files, place: &str) -> bool {
    let above = |p: &str| place.starts_with(&format!("{p}/"));
    files.keys().any(|p| above(p) || p.starts_with(&format!("{place}/")))
}

/// The model of putting files; none if it is refused.
fn put(files: &Files, mode: PutMode, sources: &[(String, String)]) -> Option<Files> {
    let mut files = files.clone();
    for (place, content) in sources {
        if mode == PutMode::Replace {
            let gone: Vec<String> = below(&files, place).map(|(p, _)| p.clone()).collect();
            gone.iter().for_each(|p| drop(files.remove(p)));
        }
        if clashes(&files, place) {
            return None;
        }
        let file = files.entry(place.clone()).or_default();
        if mode != PutMode::Append {
            file.clear();
        }
        file.push_str(content);
    }
    Some(files)
}

/// The branch with its model.
struct Pair {
    shop: Shop,
    /// One for each commit.
    model: Vec<Files>,
    open: bool,
}

impl Pair {
    fn files(&self) -> Files {
        self.model.last().cloned().unwrap_or_default()
    }

    fn becomes(&mut self, files: Files) {
        match self.model.last_mut() {
            Some(head) if self.open => *head = files,
            _ => self.model.push(files),
        }
    }

    /// Compares what the catalog did with what the model says.
    fn check(&mut self, done: Result<Written, FileError>, expected: Option<Files>) {
        match (done, expected) {
            (Ok(_), Some(files)) => self.becomes(files),
            (Err(FileError::Trees(TreesError::Kind { .. })), None) => {}
            (done, expected) => panic!("{done:?} but {expected:?}"),
        }
    }

    fn act(&mut self, act: &Act) {
        let before = self.files();
        let branch = self.shop.branch("r@b");
        match act {
            Act::Put(mode, sources) => {
                let done =
                    self.shop.try_put("r@b", sources, &PutOptions { mode: *mode, ..PutOptions::default() });
                let sources: Vec<_> =
                    sources.iter().map(|(p, c)| ((*p).to_owned(), (*c).to_owned())).collect();
                self.check(done, put(&before, *mode, &sources));
            }
            Act::Delete(place) => self
                .delete(&Literal::new(&path(place)), |p| p == *place || p.starts_with(&format!("{place}/"))),
            Act::DeleteAll(start) => self.delete(&prefix(start), |p| p.starts_with(start)),
            Act::Copy(from, to) => {
                let at = self.shop.at("r@b");
                let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
                let done = self.shop.catalog().copy((&at, &path(from)), (&at, &path(to)), &options);
                // Directories are left out of the model, so only copies of files are followed.
                let Some(content) = before.get(*from).cloned() else { return self.follow(done.is_ok()) };
                self.check(done, put(&before, PutMode::Overwrite, &[((*to).to_owned(), content)]));
            }
            Act::Start => {
                if self.shop.catalog().write(|c| c.start_commit(&branch, "")).is_ok() {
                    assert!(!self.open);
                    self.model.push(before);
                    self.open = true;
                }
            }
            Act::Finish if self.open => {
                let head = self.shop.catalog().read(|v| v.head(&branch)).unwrap().unwrap();
                self.shop.catalog().write(|c| c.finish(head.id, None)).unwrap();
                self.open = false;
            }
            Act::Finish => {}
        }
    }

    fn delete(&mut self, pattern: &dyn quern_catalog::PathPattern, gone: impl Fn(&str) -> bool) {
        if self.model.is_empty() {
            return;
        }
        let mut files = self.files();
        files.retain(|p, _| !gone(p));
        match self.shop.catalog().delete_files(&self.shop.at("r@b"), pattern, "").unwrap() {
            Written::Commit(_) => self.becomes(files),
            Written::Unchanged(_) => assert_eq!(files, self.files()),
        }
    }

    /// Takes over what the catalog has.
    fn follow(&mut self, changed: bool) {
        if changed {
            let lines = self.shop.show("r@b").into_iter().filter(|line| !line.ends_with('/'));
            let files =
                lines.map(|line| line.split_once('=').map(|(p, c)| (p.to_owned(), c.to_owned())).unwrap());
            let files = files.collect();
            self.becomes(files);
        }
    }
}

proptest! {
    #[test]
    fn every_version_is_what_the_history_says(history in collection::vec(acts(), 1..12)) {
        let mut pair = Pair { shop: Shop::with_repo("r"), model: Vec::new(), open: false };
        for act in &history {
            pair.act(act);
            // Directories that were emptied stay; a file cannot take their place, which the model does not know.
            let empty = pair.model.last().is_some()
                && pair.shop.show("r@b").iter().any(|line| line.ends_with('/'));
            if empty {
                break;
            }
        }
        for (back, files) in pair.model.iter().rev().enumerate() {
            let commit = pair.shop.catalog().readable(&pair.shop.at(&format!("r@b~{back}"))).unwrap();
            let mut lines = pair.shop.show_tree(&commit.tree);
            lines.retain(|line| !line.ends_with('/'));
            lines.sort();
            let mut expected: Vec<String> = files.iter().map(|(p, c)| format!("{p}={c}")).collect();
            expected.sort();
            prop_assert_eq!(lines, expected);
            prop_assert_eq!(commit.size, files.values().map(|c| c.len() as u64).sum::<u64>());
        }
    }
}
