//! Rules of the front end as filters of the store.

use std::path::Path;

use quern_spec::dockerfile::DockerIgnore;
use quern_store::files::{PathFilter, Verdict};

/// The rules of a `.dockerignore`, or the patterns of `--exclude`.
pub struct Ignore<'r>(pub &'r DockerIgnore);

impl PathFilter for Ignore<'_> {
    fn verdict(&self, path: &Path, _: bool) -> Verdict {
        let mut dir = self.0.root();
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            if dir.takes_all() {
                return Verdict::Keep;
            }
            let visit = dir.visit(&name.to_string_lossy());
            match (visit.below, names.peek()) {
                (Some(below), Some(_)) => dir = below,
                (Some(_), None) if visit.ignored => return Verdict::DropUnlessKept,
                (_, None) if !visit.ignored => return Verdict::Keep,
                (None, _) => return Verdict::Drop,
                (Some(_), None) => return Verdict::Keep,
            }
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_the_walk_asks_for_them() {
        let rules = DockerIgnore::of_patterns(&["*.o", "out", "!out/keep", "doc/**"]).unwrap();
        let check = |path: &str, expected: Verdict| {
            assert_eq!(Ignore(&rules).verdict(Path::new(path), false), expected, "{path}");
        };
        check("main.c", Verdict::Keep);
        check("main.o", Verdict::Drop);
        check("src/main.o", Verdict::Keep);
        check("out", Verdict::DropUnlessKept);
        check("out/keep", Verdict::Keep);
        check("out/other", Verdict::Drop);
    }
}
