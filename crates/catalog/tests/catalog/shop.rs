//! A catalog on fakes, and short words for what tests do with it.
use quern_catalog::{BranchRef, Catalog, Commit, FileError, PathPattern, PutOptions, Ref, RepoName, Written};
use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, TreePath};
use quern_testkit::{ManualClock, MemBlobs, MemMeta, SequentialIds};

/// The fakes.
pub struct Shop {
    pub blobs: MemBlobs,
    pub meta: MemMeta,
    pub clock: ManualClock,
    pub ids: SequentialIds,
}

pub fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

/// Chooses every path that starts with this text.
pub fn prefix(text: &str) -> impl PathPattern + '_ {
    struct Prefix<'a>(&'a str);
    impl PathPattern for Prefix<'_> {
        fn matches(&self, path: &str) -> bool {
            !path.is_empty() && path.starts_with(self.0)
        }
        fn may_descend(&self, _: &str) -> bool {
            true
        }
        fn literal(&self) -> Option<&str> {
            None
        }
    }
    Prefix(text)
}

/// Chooses every path of this depth: 1 is `/*`, 2 is `/*/*`.
pub struct Depth(pub usize);

impl PathPattern for Depth {
    fn matches(&self, path: &str) -> bool {
        path.matches('/').count() == self.0
    }
    fn may_descend(&self, dir: &str) -> bool {
        dir.matches('/').count() < self.0
    }
    fn literal(&self) -> Option<&str> {
        None
    }
}

impl Shop {
    pub fn new() -> Self {
        Self {
            blobs: MemBlobs::default(),
            meta: MemMeta::default(),
            clock: ManualClock::default(),
            ids: SequentialIds::default(),
        }
    }

    pub fn with_repo(name: &str) -> Self {
        let shop = Self::new();
        shop.repo(name);
        shop
    }

    pub fn repo(&self, name: &str) {
        self.catalog().write(|c| c.create_repo(&RepoName::new(name).unwrap(), "")).unwrap();
    }

    pub fn catalog(&self) -> Catalog<'_> {
        Catalog::new(&self.blobs, &self.meta, &self.clock, &self.ids)
    }

    pub fn at(&self, text: &str) -> Ref {
        text.parse().unwrap()
    }

    pub fn branch(&self, text: &str) -> BranchRef {
        text.parse().unwrap()
    }

    pub fn file(&self, content: &str) -> Entry {
        Entry::File { content: self.blobs.put(content.as_bytes()).unwrap(), executable: false }
    }

    pub fn tree(&self, files: &[(&str, &str)]) -> ContentRef {
        let entries: Vec<_> = files.iter().map(|(p, content)| (path(p), self.file(content))).collect();
        quern_catalog::tree::place_many(&self.blobs, &entries).unwrap()
    }

    pub fn put(&self, target: &str, files: &[(&str, &str)]) -> Commit {
        self.try_put(target, files, &PutOptions::default()).unwrap().commit().clone()
    }

    pub fn try_put(
        &self,
        target: &str,
        files: &[(&str, &str)],
        options: &PutOptions,
    ) -> Result<Written, FileError> {
        let sources: Vec<_> = files.iter().map(|(p, content)| (path(p), self.file(content))).collect();
        self.catalog().put(&self.at(target), &sources, options)
    }

    /// Every file of a commit as `path=content`, links as `path>target`, empty directories as `path/`.
    pub fn show(&self, commit: &str) -> Vec<String> {
        let commit = self.catalog().readable(&self.at(commit)).unwrap();
        self.show_tree(&commit.tree)
    }

    pub fn show_tree(&self, tree: &ContentRef) -> Vec<String> {
        let mut lines = Vec::new();
        quern_catalog::tree::walk(&self.blobs, tree, &mut |path, entry| {
            match entry {
                Entry::File { content, executable } => {
                    let text = String::from_utf8(self.blobs.get(&content.digest).unwrap()).unwrap();
                    lines.push(format!("{path}{}={text}", if *executable { "*" } else { "" }));
                }
                Entry::Link(target) => lines.push(format!("{path}>{target}")),
                Entry::Dir(dir) if dir.size == 0 => lines.push(format!("{path}/")),
                Entry::Dir(_) => {}
            }
            Ok::<_, quern_catalog::TreesError>(quern_catalog::tree::Descend::Into)
        })
        .unwrap();
        lines
    }
}
