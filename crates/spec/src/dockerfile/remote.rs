//! What a source of `ADD` or `COPY` is: a path, an HTTP address or a git repository.

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourcePath {
    /// A path or pattern in the context, a stage or an image.
    Local(String),
    /// A file to fetch.
    Http(String),
    /// A repository to fetch.
    Git(GitSource),
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitSource {
    /// Its address, without fragment.
    pub remote: String,
    /// The branch, tag or commit; the default branch if absent.
    pub reference: Option<String>,
    /// The directory to take; all of it if absent.
    pub subdir: Option<String>,
}

impl SourcePath {
    /// Tells the kinds apart by the text alone. An address of HTTP names a repository if its path ends in
    /// `.git`.
    pub fn classify(text: &str) -> Self {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let http = ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme));
        let git = ["git://", "ssh://"].iter().any(|scheme| address.starts_with(scheme))
            || http && address.split('?').next().is_some_and(|path| path.ends_with(".git"))
            || !http && is_scp_like(address);
        if git {
            let (reference, subdir) = match fragment.map(|fragment| fragment.split_once(':')) {
                Some(Some((reference, subdir))) => (Some(reference), Some(subdir)),
                Some(None) => (fragment, None),
                None => (None, None),
            };
            let text = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(str::to_owned);
            let remote = address.to_owned();
            return Self::Git(GitSource { remote, reference: text(reference), subdir: text(subdir) });
        }
        if http { Self::Http(text.to_owned()) } else { Self::Local(text.to_owned()) }
    }
}

/// `user@host:path`.
fn is_scp_like(address: &str) -> bool {
    let Some((login, path)) = address.split_once(':') else { return false };
    let Some((user, host)) = login.split_once('@') else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !path.is_empty()
        && !user.is_empty()
        && !host.is_empty()
        && user.chars().all(plain)
        && host.chars().all(plain)
}
