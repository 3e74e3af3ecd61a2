//! What all stages of a build share: global variables, build arguments, names of stages and contexts.

use std::collections::{BTreeMap, BTreeSet};

use super::ast::{Arg, Dockerfile};
use super::expand::{InvalidWord, Variables, expand};
use super::ignore::DockerIgnore;
use super::lint::{Check, Lint, rule};
use super::plan::{Origin, Request};
use crate::diagnostic::{Diagnostic, Diagnostics};

/// Variables in the order in which they were set last, as programs see them in their environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Environment {
    /// Values by name, each with its rank in the order.
    values: BTreeMap<String, (usize, String)>,
    next: usize,
    /// Bytes of all names and values.
    bytes: usize,
}

impl Environment {
    /// Sets a variable and moves it to the end.
    pub fn set(&mut self, name: &str, value: &str) {
        self.next += 1;
        self.insert(name, self.next, value);
    }

    /// Sets a variable and leaves it where it stands.
    pub fn set_in_place(&mut self, name: &str, value: &str) {
        match self.values.get(name) {
            Some((rank, _)) => self.insert(name, *rank, value),
            None => self.set(name, value),
        }
    }

    fn insert(&mut self, name: &str, rank: usize, value: &str) {
        self.bytes += name.len() + value.len();
        if let Some((_, old)) = self.values.insert(name.to_owned(), (rank, value.to_owned())) {
            self.bytes -= name.len() + old.len();
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut ranked: Vec<_> = self.values.iter().collect();
        ranked.sort_by_key(|(_, (rank, _))| *rank);
        ranked.into_iter().map(|(name, (_, value))| (name.clone(), value.clone())).collect()
    }
}

impl Variables for Environment {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

#[derive(Debug)]
pub(super) struct Globals {
    pub escape: char,
    pub check: Check,
    /// Platform variables, and what `ARG` before the first `FROM` gives.
    pub variables: Environment,
    pub build_args: BTreeMap<String, String>,
    /// Names declared before the first `FROM`.
    pub declared: BTreeSet<String>,
    pub contexts: BTreeSet<String>,
    /// What of the build context stays behind.
    pub ignore: DockerIgnore,
    /// Stages by name.
    pub names: BTreeMap<String, usize>,
}

impl Globals {
    /// What `--from` means. A number is a stage even if there is none of that number.
    pub fn origin(&self, from: &str) -> Origin {
        if let Some(index) = self.names.get(&from.to_lowercase()) {
            return Origin::Stage(*index);
        }
        match from.parse() {
            Ok(index) => Origin::Stage(index),
            Err(_) => self.outside(from),
        }
    }

    /// What a name that is no stage means.
    pub fn outside(&self, name: &str) -> Origin {
        match (name, self.context(name)) {
            ("scratch", _) => Origin::Scratch,
            (_, Some(context)) => Origin::Context(context.to_owned()),
            _ => Origin::Image(name.to_owned()),
        }
    }

    /// The named context of a name; images are compared by what they are, however they are written.
    pub fn context(&self, name: &str) -> Option<&str> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let wanted = familiar(name);
        self.contexts.iter().find(|context| familiar(context) == wanted).map(String::as_str)
    }
}

/// The shortest name of an image: without the default registry and the tag `latest`.
fn familiar(name: &str) -> String {
    let name = name.to_lowercase();
    let short = name.strip_prefix("index.docker.io/").or_else(|| name.strip_prefix("docker.io/"));
    let short = short.unwrap_or(&name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    short.strip_suffix(":latest").unwrap_or(short).to_owned()
}

/// Build arguments that need no `ARG`: proxies are given to every command and enter no key.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
/// Build arguments that speak to the builder.
const FOR_THE_BUILDER: [&str; 2] = ["SOURCE_DATE_EPOCH", "BUILDKIT_"];

/// Whether a build argument of this name is one of the proxies, in upper or lower case.
pub(super) fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// Whether a build argument of this name counts without being declared.
pub(super) fn is_predefined(name: &str) -> bool {
    let platform = name.starts_with("TARGET") || name.starts_with("BUILD");
    is_proxy(name)
        || FOR_THE_BUILDER.iter().any(|known| name.starts_with(known))
        || platform && PLATFORM_VARIABLES.contains(&name)
}

const PLATFORM_VARIABLES: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// The variables of the platforms and the target, which build arguments may override.
fn platform_variables(dockerfile: &Dockerfile, request: &Request) -> Environment {
    let (build, target) = (&request.build_platform, &request.target_platform);
    let last =
        || dockerfile.stages.last().and_then(|stage| stage.name.as_ref()).map(|name| name.value.clone());
    let stage = request.target.clone().or_else(last).unwrap_or_else(|| "default".to_owned());
    let values = [
        build.to_string(),
        build.os.clone(),
        String::new(),
        build.arch.clone(),
        build.variant.clone(),
        target.to_string(),
        target.os.clone(),
        String::new(),
        target.arch.clone(),
        target.variant.clone(),
        stage,
    ];
    let mut variables = Environment::default();
    for (name, value) in PLATFORM_VARIABLES.iter().zip(values) {
        variables.set(name, request.build_args.get(*name).unwrap_or(&value));
    }
    variables
}

/// The variables that `FROM` lines see. `None` if one cannot be expanded.
pub(super) fn global_variables(
    dockerfile: &Dockerfile,
    request: &Request,
    diagnostics: &mut Diagnostics,
) -> Option<Environment> {
    let predefined = platform_variables(dockerfile, request);
    let without = declare(dockerfile, predefined.clone(), &BTreeMap::new());
    if let Ok(variables) = without {
        check_defaults(dockerfile, &variables, diagnostics);
    }
    match declare(dockerfile, predefined, &request.build_args) {
        Ok(variables) => Some(variables),
        Err((arg, error)) => {
            let span = arg.default.as_ref().map_or(arg.name.span, |default| default.span);
            diagnostics.push(Diagnostic::error("invalid-word", span, error.to_string()));
            None
        }
    }
}

fn declare<'a>(
    dockerfile: &'a Dockerfile,
    mut variables: Environment,
    given: &BTreeMap<String, String>,
) -> Result<Environment, (&'a Arg, InvalidWord)> {
    for arg in &dockerfile.global_args {
        let value = match (given.get(arg.name.as_str()), &arg.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => {
                expand(default, &variables, dockerfile.escape).map_err(|error| (arg, error))?.text
            }
            (None, None) => continue,
        };
        variables.set(&arg.name, &value);
    }
    Ok(variables)
}

/// Every base should name an image even if no build argument is given.
fn check_defaults(dockerfile: &Dockerfile, variables: &Environment, diagnostics: &mut Diagnostics) {
    for stage in dockerfile.stages.iter().filter(|stage| stage.base.contains('$')) {
        let Ok(base) = expand(&stage.base, variables, dockerfile.escape) else { return };
        if !looks_like_image(&base.text) {
            let message = format!("without build arguments `{}` names no image", stage.base.value);
            let mut lint = Lint { file: &dockerfile.check, diagnostics };
            lint.report(rule::INVALID_DEFAULT_ARG_IN_FROM, &stage.check, stage.base.span, message);
        }
    }
}

/// Whether a text may be an image reference, by its letters: neither empty, nor with empty parts or
/// characters that none has.
fn looks_like_image(text: &str) -> bool {
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let fits = |part: &str| {
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        part.chars().all(ok) && ends(part.chars().next()) && ends(part.chars().last())
    };
    let lower = path.rsplit('/').next().is_some_and(|last| last == last.to_lowercase());
    path.split('/').all(fits)
        && lower
        && tag.is_none_or(|tag| !tag.is_empty() && tag.len() <= 128)
        && digest.is_none_or(|digest| digest.contains(':'))
}
