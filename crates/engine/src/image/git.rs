//! Commits of git repositories, fetched with the machine's `git`.

use std::fs;
use std::path::{Component, Path};
use std::process::{Command, Stdio};

use quern_spec::dockerfile::GitSource;

/// Why a commit could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no `git`.
    #[error("`git` cannot be started ({0}); install it")]
    Missing(std::io::Error),
    /// It refused.
    #[error("git {action} {remote}: {words}")]
    Failed {
        /// What it was told to do.
        action: &'static str,
        /// The repository, without a password.
        remote: String,
        /// Its words.
        words: String,
    },
    /// The remote has no such branch, tag or commit.
    #[error("{remote} has no branch or tag `{reference}`")]
    Unknown {
        /// The repository, without a password.
        remote: String,
        /// What was asked for.
        reference: String,
    },
    /// The directory is not in the commit.
    #[error("{remote} has no directory `{subdir}`")]
    Subdir {
        /// The repository, without a password.
        remote: String,
        /// What was asked for.
        subdir: String,
    },
    /// A file could not be moved.
    #[error("keeping the files of a commit: {0}")]
    Io(#[from] std::io::Error),
}

/// The commit that a source means now: the whole digest is itself, a name is asked for.
///
/// # Errors
/// [`GitError`].
pub fn resolve(source: &GitSource) -> Result<String, GitError> {
    let wanted = source.reference.as_deref().unwrap_or("HEAD");
    if is_commit(wanted) {
        return Ok(wanted.to_owned());
    }
    let listed = run(
        source,
        "ls-remote",
        None,
        &["ls-remote", "--", &source.remote, wanted, &format!("{wanted}^{{}}")],
    )?;
    let names = [
        format!("refs/tags/{wanted}^{{}}"),
        format!("refs/heads/{wanted}"),
        format!("refs/tags/{wanted}"),
        format!("{wanted}^{{}}"),
        wanted.to_owned(),
    ];
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let found = names.iter().find_map(|name| lines.iter().find(|(_, known)| known == name));
    found
        .map(|(commit, _)| (*commit).to_owned())
        .ok_or_else(|| GitError::Unknown { remote: shown(&source.remote), reference: wanted.to_owned() })
}

/// Puts the files of a commit, with its submodules, into an empty directory; `scratch` is another one on the same file system.
///
/// # Errors
/// [`GitError`].
pub fn check_out(
    source: &GitSource,
    commit: &str,
    keep_git_dir: bool,
    scratch: &Path,
    dir: &Path,
) -> Result<(), GitError> {
    let tree = scratch.join("tree");
    fs::create_dir_all(&tree)?;
    let git = |action, args: &[&str]| run(source, action, Some(&tree), args);
    git("init", &["init", "--quiet"])?;
    git("remote", &["remote", "add", "origin", "--", &source.remote])?;
    let depth = git("fetch", &["fetch", "--quiet", "--depth=1", "origin", commit]);
    if depth.is_err() {
        // Servers may refuse to give a commit that no name points to.
        git("fetch", &["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])?;
    }
    git("checkout", &["checkout", "--quiet", "--detach", commit])?;
    if tree.join(".gitmodules").exists() {
        git("submodule", &["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
    }
    if !keep_git_dir {
        fs::remove_dir_all(tree.join(".git"))?;
    }
    let from = match source.subdir.as_deref().map(|subdir| subdir.trim_matches('/')).filter(|s| !s.is_empty())
    {
        None => tree.clone(),
        Some(subdir) => {
            let plain = Path::new(subdir).components().all(|part| matches!(part, Component::Normal(_)));
            let from = tree.join(subdir);
            let inside = from.canonicalize().is_ok_and(|real| {
                real.is_dir() && tree.canonicalize().is_ok_and(|tree| real.starts_with(tree))
            });
            if !plain || !inside {
                return Err(GitError::Subdir { remote: shown(&source.remote), subdir: subdir.to_owned() });
            }
            from
        }
    };
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::rename(entry.path(), dir.join(entry.file_name()))?;
    }
    Ok(fs::remove_dir_all(tree)?)
}

fn run(
    source: &GitSource,
    action: &'static str,
    dir: Option<&Path>,
    args: &[&str],
) -> Result<String, GitError> {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "advice.detachedHead=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "protocol.ext.allow=never",
        ])
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_LFS_SKIP_SMUDGE", "1")
        .stdin(Stdio::null());
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command.output().map_err(GitError::Missing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: String = words.trim().chars().take(500).collect();
    Err(GitError::Failed {
        action,
        remote: shown(&source.remote),
        words: words.replace(&source.remote, &shown(&source.remote)),
    })
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'))
}

/// A remote without user and password.
pub fn shown(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return remote.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}
