//! Names of repos and branches, and references to commits; parsed once, at the edge.

use std::fmt;
use std::str::FromStr;

use quern_core::Id;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not the name or reference it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A name with other characters than `a-z A-Z 0-9 _ -`, or none.
    #[error("`{}` is not a name of a {what}; use letters, digits, `_` and `-`", text.escape_debug())]
    Characters {
        /// What it should name.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A branch named like a commit.
    #[error("branch name `{0}` looks like a commit id; choose another one")]
    LooksLikeId(String),
    /// A reference without a branch or commit.
    #[error("`{}` is not a reference; write `repo@branch` or `repo@commit`, with `:path` for a file", .0.escape_debug())]
    Reference(String),
    /// An ancestry such as `^x`.
    #[error("`{}` ends in an ancestry that cannot be read; write `^`, `^3`, `~2` or `.1`", .0.escape_debug())]
    Ancestry(String),
}

fn check_characters(what: &'static str, text: &str) -> Result<(), NameError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.is_empty() || !text.chars().all(fits) {
        let text = text.chars().take(100).collect();
        return Err(NameError::Characters { what, text });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// [`NameError`] for a text that is no such name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                ($check)(&text)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Name of a repo.
    RepoName,
    |text: &str| check_characters("repo", text)
);
name!(
    /// Name of a branch; never the text of an id.
    BranchName,
    |text: &str| {
        check_characters("branch", text)?;
        if text.parse::<Id>().is_ok() { Err(NameError::LooksLikeId(text.to_owned())) } else { Ok(()) }
    }
);

/// A branch of a repo; `repo@branch` in text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchRef {
    /// The repo.
    pub repo: RepoName,
    /// The branch.
    pub branch: BranchName,
}

impl BranchRef {
    /// Checks both names.
    ///
    /// # Errors
    /// [`NameError`] for the first that is not one.
    pub fn new(repo: &str, branch: &str) -> Result<Self, NameError> {
        Ok(Self { repo: RepoName::new(repo)?, branch: BranchName::new(branch)? })
    }
}

impl fmt::Display for BranchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.branch)
    }
}

impl FromStr for BranchRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (repo, branch) = text.split_once('@').ok_or_else(|| NameError::Reference(text.to_owned()))?;
        Self::new(repo, branch)
    }
}

impl Serialize for BranchRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BranchRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A branch's head or a commit by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The head of the branch.
    Branch(BranchName),
    /// This commit.
    Commit(Id),
}

/// How to get from a commit to the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ancestry {
    /// It is meant itself.
    #[default]
    Itself,
    /// So many parents back: `^`, `^^`, `^2`, `~2`.
    Back(u64),
    /// Counted from its oldest ancestor, which is 1: `.1`.
    FromFirst(u64),
}

/// A reference to a commit, and perhaps to something in it: `repo@X`, `repo@X^2:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// The repo.
    pub repo: RepoName,
    /// Where to begin.
    pub at: At,
    /// Where to go from there.
    pub ancestry: Ancestry,
    /// What follows the colon, as typed: a path or a pattern.
    pub path: Option<String>,
}

impl Ref {
    /// The head of a branch.
    pub fn head(branch: &BranchRef) -> Self {
        let at = At::Branch(branch.branch.clone());
        Self { repo: branch.repo.clone(), at, ancestry: Ancestry::Itself, path: None }
    }

    /// A commit by its id.
    pub const fn commit(repo: RepoName, id: Id) -> Self {
        Self { repo, at: At::Commit(id), ancestry: Ancestry::Itself, path: None }
    }

    /// The branch, if the reference is plainly to a branch's head.
    pub fn branch(&self) -> Option<BranchRef> {
        match (&self.at, self.ancestry) {
            (At::Branch(branch), Ancestry::Itself) => {
                Some(BranchRef { repo: self.repo.clone(), branch: branch.clone() })
            }
            _ => None,
        }
    }
}

impl FromStr for Ref {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (place, path) = match text.split_once(':') {
            Some((place, path)) => (place, Some(path.to_owned())),
            None => (text, None),
        };
        let (repo, rest) = place.split_once('@').ok_or_else(|| NameError::Reference(text.to_owned()))?;
        let (name, ancestry) = rest.split_at(rest.find(['^', '~', '.']).unwrap_or(rest.len()));
        let at = match name.parse::<Id>() {
            Ok(id) => At::Commit(id),
            Err(_) => At::Branch(BranchName::new(name)?),
        };
        let ancestry = parse_ancestry(ancestry).ok_or_else(|| NameError::Ancestry(place.to_owned()))?;
        Ok(Self { repo: RepoName::new(repo)?, at, ancestry, path })
    }
}

/// `.n` alone, or any sequence of `^`, `^n` and `~n`, whose numbers add up.
fn parse_ancestry(text: &str) -> Option<Ancestry> {
    if let Some(number) = text.strip_prefix('.') {
        return digits(number).filter(|n| *n > 0).map(Ancestry::FromFirst);
    }
    let mut back = 0u64;
    let mut rest = text;
    while let Some(after) = rest.strip_prefix(['^', '~']) {
        let end = after.find(['^', '~']).unwrap_or(after.len());
        let number = &after[..end];
        back = back.checked_add(if number.is_empty() { 1 } else { digits(number)? })?;
        rest = &after[end..];
    }
    match (rest.is_empty(), back) {
        (false, _) => None,
        (true, 0) => Some(Ancestry::Itself),
        (true, _) => Some(Ancestry::Back(back)),
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.repo)?;
        match &self.at {
            At::Branch(branch) => write!(f, "{branch}")?,
            At::Commit(id) => write!(f, "{id}")?,
        }
        match self.ancestry {
            Ancestry::Itself => {}
            Ancestry::Back(n) => write!(f, "^{n}")?,
            Ancestry::FromFirst(n) => write!(f, ".{n}")?,
        }
        self.path.as_ref().map_or(Ok(()), |path| write!(f, ":{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "A-1_b", "0", "-"] {
            assert!(RepoName::new(good).is_ok() && BranchName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a/b", "ü", "a b", "a@b"] {
            assert!(RepoName::new(bad).is_err() && BranchName::new(bad).is_err(), "{bad}");
        }
        let id = "0123456789abcdef".repeat(2);
        assert_eq!(BranchName::new(&id), Err(NameError::LooksLikeId(id.clone())));
        assert!(RepoName::new(&id).is_ok());
    }

    #[test]
    fn references() {
        let check = |text: &str, expected: Option<(Ancestry, Option<&str>)>| {
            let found = text.parse::<Ref>().ok();
            let found = found.as_ref().map(|r| (r.ancestry, r.path.as_deref()));
            assert_eq!(found, expected, "{text}");
        };
        check("r@b", Some((Ancestry::Itself, None)));
        check("r@b:", Some((Ancestry::Itself, Some(""))));
        check("r@b^:/x:y^", Some((Ancestry::Back(1), Some("/x:y^"))));
        check("r@b^^", Some((Ancestry::Back(2), None)));
        check("r@b^3", Some((Ancestry::Back(3), None)));
        check("r@b~2^", Some((Ancestry::Back(3), None)));
        check("r@b^0", Some((Ancestry::Itself, None)));
        check("r@b.1", Some((Ancestry::FromFirst(1), None)));
        check(&format!("r@{}~2", "a".repeat(32)), Some((Ancestry::Back(2), None)));
        for bad in ["r", "@b", "r@", "r@b^x", "r@b.", "r@b.0", "r@b.1^", "r@b^+1", "r/x@b", "r@b c"] {
            check(bad, None);
        }
    }
}
