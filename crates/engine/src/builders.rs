//! The shipped builders, carried inside the program, so that the program alone suffices.
//!
//! A builder is a folder below `builders/` of the repository: `build.sh`, which makes `/pfs/out` of `/pfs/source`; `run.sh`, which it leaves
//! there to be run for each datum; a `Dockerfile` for an image that has both; and `builder.toml`, which says
//! what the engine must know. How to write another one stands in `builders/README.md`.

use std::sync::OnceLock;

use quern_core::Digest;
use quern_core::canon::{Canon, Visitor};
use serde::Deserialize;

/// A builder for one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builder {
    /// What `transform.build.language` calls it.
    pub language: String,
    /// Its version; a person's word, the digest decides.
    pub version: String,
    /// Identity of name, version and every file; enters the key of a build.
    pub digest: Digest,
    /// The files shown at `/app` when it runs on an image that has none: name and text.
    pub files: &'static [(&'static str, &'static str)],
    /// Globs of what a running pipeline sees of `/pfs/source`, as long as the builder's own `run.sh` runs it.
    pub runtime: Vec<String>,
    /// Programs that the image must have.
    pub requires: Vec<String>,
}

/// What the binary carries of one builder.
struct Shipped {
    manifest: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const SHIPPED: &[Shipped] = &[
    Shipped {
        manifest: include_str!("../../../builders/go/builder.toml"),
        files: &[
            ("build.sh", include_str!("../../../builders/go/build.sh")),
            ("run.sh", include_str!("../../../builders/go/run.sh")),
        ],
    },
    Shipped {
        manifest: include_str!("../../../builders/python/builder.toml"),
        files: &[
            ("build.sh", include_str!("../../../builders/python/build.sh")),
            ("normalise.py", include_str!("../../../builders/python/normalise.py")),
            ("run.sh", include_str!("../../../builders/python/run.sh")),
        ],
    },
];

/// `builder.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    version: String,
    runtime: Vec<String>,
    requires: Vec<String>,
}

/// The shipped builder of a language, if there is one.
pub fn shipped(language: &str) -> Option<&'static Builder> {
    all().iter().find(|builder| builder.language == language)
}

/// The languages that have a shipped builder, in alphabetical order.
pub fn languages() -> Vec<&'static str> {
    all().iter().map(|builder| builder.language.as_str()).collect()
}

fn all() -> &'static [Builder] {
    static ALL: OnceLock<Vec<Builder>> = OnceLock::new();
    ALL.get_or_init(|| SHIPPED.iter().map(Shipped::read).collect())
}

impl Shipped {
    fn read(&self) -> Builder {
        let manifest: Manifest = toml::from_str(self.manifest).expect("a test reads every shipped manifest");
        Builder {
            digest: self.digest(),
            language: manifest.name,
            version: manifest.version,
            files: self.files,
            runtime: manifest.runtime,
            requires: manifest.requires,
        }
    }
}

impl Canon for Shipped {
    const DOMAIN: &'static str = "quern.builder.v1";

    fn walk(&self, visitor: &mut dyn Visitor) {
        visitor.text("builder.toml", self.manifest);
        visitor.enter("files");
        for (name, text) in self.files {
            visitor.text(name, text);
        }
        visitor.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_builder_is_complete() {
        assert_eq!(languages(), ["go", "python"]);
        for language in languages() {
            let builder = shipped(language).unwrap();
            let names: Vec<_> = builder.files.iter().map(|(name, _)| *name).collect();
            assert!(
                names.contains(&"build.sh") && names.contains(&"run.sh") && names.is_sorted(),
                "{names:?}"
            );
            assert!(builder.files.iter().all(|(_, text)| text.ends_with('\n')));
        }
        assert_ne!(shipped("go").unwrap().digest, shipped("python").unwrap().digest);
        assert_eq!(shipped("cobol"), None);
    }
}
