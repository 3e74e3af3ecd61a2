//! A user's name for an image: `[registry/]repository[:tag][@digest]`, by the rules of the distribution project that
//! `docker pull` follows.

use std::fmt;
use std::str::FromStr;

use quern_core::Digest;

/// A complete name: what the user left out has been filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an image reference: {reason}", text.escape_debug())]
pub struct InvalidReference {
    /// The offending text, at most 300 characters of it.
    pub text: String,
    /// What is wrong and how it should be.
    pub reason: &'static str,
}

/// The registry of names without one.
pub const DEFAULT_REGISTRY: &str = "docker.io";

impl Reference {
    /// Host and port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry, such as `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: the one given, or `latest` if there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same name for exactly these bytes.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same name, but whatever its tag points to; none if it has no tag.
    pub fn without_digest(&self) -> Option<Self> {
        self.tag.as_ref()?;
        Some(Self { digest: None, ..self.clone() })
    }

    /// The shortest text that means the same: `debian:12` for `docker.io/library/debian:12`.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let short = whole.strip_prefix("docker.io/").unwrap_or(&whole);
        let shorter = short.strip_prefix("library/").unwrap_or(short);
        // `docker.io/localhost/app` must not become `localhost/app`, which is another image.
        let same = |text: &&str| text.parse().as_ref() == Ok(self);
        [shorter, short].into_iter().find(same).unwrap_or(&whole).to_owned()
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to the port of the registry.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?.to_owned())),
        _ => (rest, None),
    };
    if name.len() == 64 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal characters look like an image id; write `name@sha256:...`");
    }
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > 255 {
        return Err("the name is longer than 255 characters");
    }
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// The first component is a registry if it looks like a host.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_REGISTRY, path),
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    text.parse().map_err(|_| "the digest must be `sha256:` and 64 lower-case hexadecimal characters")
}

fn check_tag(tag: &str) -> Result<&str, &'static str> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let valid = !tag.is_empty()
        && tag.len() <= 128
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'));
    if valid {
        Ok(tag)
    } else {
        Err("a tag is 1 to 128 of `A-Z a-z 0-9 _ . -` and starts with neither `.` nor `-`")
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit())) {
        return Err("the port of the registry is not a number");
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
        return if valid { Ok(()) } else { Err("the registry in brackets is not an IPv6 address") };
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err("the registry is not a host name") }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be in lower case");
    }
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("a repository is made of `a-z 0-9`, separated by `/`, `.`, `_`, `__` or dashes")
    }
}

/// Runs of letters and digits with one `.`, one or two `_`, or any number of `-` between two of them.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(alphanumeric).collect::<Vec<_>>();
    // `split` gives the text before, between and after the alphanumeric characters.
    let (first, last) = (separators.first().copied(), separators.last().copied());
    separators.len() > 1
        && first == Some("")
        && last == Some("")
        && separators.iter().all(|s| matches!(*s, "" | "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let found = text.parse::<Reference>();
        assert_eq!(found.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text:?} {found:?}");
        if let Ok(reference) = found {
            assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            assert_eq!(reference.familiar().parse(), Ok(reference));
        }
    }

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_filled_in() {
        check("debian", Some("docker.io/library/debian:latest"));
        check("debian:12", Some("docker.io/library/debian:12"));
        check("me/app", Some("docker.io/me/app:latest"));
        check("index.docker.io/debian", Some("docker.io/library/debian:latest"));
        check("localhost/app", Some("localhost/app:latest"));
        check("localhost:5000/app:v1", Some("localhost:5000/app:v1"));
        check("ghcr.io/a/b/c", Some("ghcr.io/a/b/c:latest"));
        check("[::1]:5000/app", Some("[::1]:5000/app:latest"));
        check("LOCAL/app", Some("LOCAL/app:latest"));
        check(&format!("debian@sha256:{HEX}"), Some(&format!("docker.io/library/debian@sha256:{HEX}")));
        check(&format!("a/b:t@sha256:{HEX}"), Some(&format!("docker.io/a/b:t@sha256:{HEX}")));
        check("a--b__c.d_e", Some("docker.io/library/a--b__c.d_e:latest"));
        check("docker.io/localhost/app", Some("docker.io/localhost/app:latest"));
        check("docker.io/library/a.b/c", Some("docker.io/library/a.b/c:latest"));
        check("host:80", Some("docker.io/library/host:80"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ":12",
            "a:",
            "a@",
            "Debian",
            "docker.io/Debian",
            "a//b",
            "a/",
            "/a",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:-x",
            "a b",
            "a\n",
            "é",
            "host:port/a",
            "a.-b.c/x",
            "[::g]/a",
            "a@sha256:12",
            "a@sha512:00",
            HEX,
        ] {
            check(text, None);
        }
        check(&format!("a:{}", "t".repeat(129)), None);
        check(&"a/".repeat(127).replace("a/", "aa/"), None);
        check(&format!("{}a", "a/".repeat(130)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_stable(text in "[a-zA-Z0-9.:@/_\\-\\[\\]é]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
