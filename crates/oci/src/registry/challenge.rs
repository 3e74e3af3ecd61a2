//! What a server asks for: the header `WWW-Authenticate` (RFC 9110, section 11).

use std::collections::BTreeMap;

/// One way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer` ... in lower case.
    pub scheme: String,
    /// Parameters, names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// Reads the ways in a header. What is not well formed ends the list.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut list: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while let Some((word, after)) = token(rest) {
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            // `name=value` belongs to the way before it.
            Some(value) if !list.is_empty() => {
                let Some((value, next)) = value_of(value.trim_start_matches([' ', '\t'])) else { break };
                let parameters = &mut list.last_mut().expect("not empty").parameters;
                parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = next;
            }
            Some(_) => break,
            None => {
                list.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    list
}

fn token(text: &str) -> Option<(&str, &str)> {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !in_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token, or text in quotes in which a backslash takes the meaning from the next character.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: &[(&str, &[(&str, &str)])]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(scheme, parameters)| Challenge {
                scheme: (*scheme).to_owned(),
                parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            })
            .collect();
        assert_eq!(challenges(header), expected, "{header}");
    }

    #[test]
    fn what_registries_send() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            &[(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:a/b:pull,push"),
                ],
            )],
        );
        check(r#"Basic realm="a \"b\" c""#, &[("basic", &[("realm", r#"a "b" c"#)])]);
        check(
            "Negotiate, basic Realm = x , BEARER",
            &[("negotiate", &[]), ("basic", &[("realm", "x")]), ("bearer", &[])],
        );
        check(r#"Bearer realm="a",realm="b""#, &[("bearer", &[("realm", "a")])]);
    }

    #[test]
    fn what_is_not_well_formed_ends_the_list() {
        check("", &[]);
        check("realm=x", &[]);
        check(r#"Bearer realm="never closed"#, &[("bearer", &[])]);
        check("Bearer realm=é", &[("bearer", &[])]);
        check("=", &[]);
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(header in ".{0,80}") {
            challenges(&header);
        }
    }
}
