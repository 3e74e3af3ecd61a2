//! `RUN --mount=...`: a list of `key=value`, of which the values are expanded.

use super::ast::Word;
use super::go;
use super::plan::Origin;
use crate::decode::closest;
use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// A `--mount` as written.
#[derive(Debug, Clone, PartialEq)]
pub struct MountFlag {
    /// Keys in lower case, as they stand, and values; `None` for a bare word such as `ro`.
    pub fields: Vec<(String, Option<String>)>,
    /// The whole flag.
    pub span: Span,
}

/// A mount after expansion, with the defaults of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where the files come from; `None` is the build context for a bind mount and nothing for the others.
    pub from: Option<Origin>,
    /// The path in `from`, as written; the root if empty. For secrets and agents see `id`.
    pub source: String,
    /// Where it appears: absolute, except for secrets and agents, whose target may be empty.
    pub target: String,
    /// Whether it cannot be written. What is written to a bind mount is lost.
    pub read_only: bool,
    /// Permission bits: of the directory for a cache, of the file for a secret, of the socket for an agent.
    pub mode: Option<u32>,
    /// The owner's number.
    pub uid: Option<u32>,
    /// The group's number.
    pub gid: Option<u32>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its name; if none was given, the cleaned target.
        id: String,
        /// Who else may use it at the same time.
        sharing: Sharing,
    },
    /// Memory.
    Tmpfs {
        /// Most bytes; no limit if absent.
        size: Option<u64>,
    },
    /// A secret, as a file, a variable or both.
    Secret {
        /// Its name: `id` or `source`, else the last component of the target.
        id: String,
        /// The variable that holds it.
        env: Option<String>,
        /// Where the file appears; absent if only the variable is wanted. `/run/secrets/ID` by default.
        file: Option<String>,
        /// Whether the build fails without it.
        required: bool,
    },
    /// The socket of an SSH agent; without a target where whoever runs the command puts it. The command finds
    /// the place in `SSH_AUTH_SOCK`, unless that is set.
    Ssh {
        /// Its name; `default` by default.
        id: String,
        /// Whether the build fails without it.
        required: bool,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each user has a directory of its own.
    Private,
    /// One at a time.
    Locked,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

impl MountFlag {
    /// Splits the value of the flag and checks what can be checked before expansion.
    pub(super) fn parse(value: &Word) -> Result<Self, Diagnostic> {
        let span = value.span;
        let mut fields = Vec::new();
        for field in csv_fields(value).map_err(|reason| invalid(span, reason))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
                None => (field.to_lowercase(), None),
            };
            check_key(span, &key, value.as_deref(), &field)?;
            fields.push((key, value));
        }
        let flag = Self { fields, span };
        let literal = |(_, value): &(String, Option<String>)| {
            value.as_ref().is_none_or(|value| !value.contains(['$', '\\', '`', '"', '\'']))
        };
        if flag.fields.iter().all(literal) {
            flag.resolve(|text| Ok(text.to_owned()), |from| Origin::Image(from.to_owned()))?;
        }
        Ok(flag)
    }

    /// What `from` says, without expansion: a variable in it is refused.
    pub fn from(&self) -> Option<&str> {
        let is_from = |(key, _): &&(String, Option<String>)| key == "from";
        self.fields.iter().rfind(is_from)?.1.as_deref().filter(|from| !from.is_empty())
    }

    /// The mount, with its values expanded.
    pub(super) fn resolve(
        &self,
        mut expand: impl FnMut(&str) -> Result<String, Diagnostic>,
        locate: impl Fn(&str) -> Origin,
    ) -> Result<Mount, Diagnostic> {
        let mut raw = Raw::default();
        for (key, value) in &self.fields {
            let value = value.as_deref().map(&mut expand).transpose()?;
            raw.set(key, value.as_deref()).map_err(|reason| invalid(self.span, reason))?;
        }
        raw.finish(locate).map_err(|reason| invalid(self.span, reason))
    }
}

fn invalid(span: Span, reason: impl Into<String>) -> Diagnostic {
    Diagnostic::error("invalid-mount", span, reason)
}

fn check_key(span: Span, key: &str, value: Option<&str>, field: &str) -> Result<(), Diagnostic> {
    if !KEYS.contains(&key) {
        let problem = invalid(span, format!("unknown key `{key}` of a mount"));
        return Err(match closest(key, &KEYS) {
            Some(known) => problem.help(format!("did you mean `{known}`?")),
            None => problem.help(format!("the keys are {}", KEYS.join(", "))),
        });
    }
    let flag = matches!(key, "readonly" | "ro" | "readwrite" | "rw" | "required");
    if value.is_none() && !flag {
        return Err(invalid(span, format!("`{field}` needs a value")).help(format!("write `{key}=...`")));
    }
    let variable = value.is_some_and(|value| value.trim_end_matches('$').contains('$'));
    if key == "from" && variable {
        let problem = invalid(span, "`from` of a mount is not expanded");
        return Err(problem.help("give the image a stage of its own: FROM $IMAGE AS name"));
    }
    Ok(())
}

/// The fields of a line of comma-separated values; a field in double quotes may hold commas and `""`.
fn csv_fields(value: &Word) -> Result<Vec<String>, &'static str> {
    let mut rest = value.as_str();
    if rest.is_empty() {
        return Err("a mount needs at least one `key=value`");
    }
    let mut fields = Vec::new();
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("a quote inside a field: put the whole field in quotes");
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let (text, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
            field.push_str(text);
            quoted = after;
            match quoted.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    quoted = after;
                }
                None => break,
            }
        }
        fields.push(field);
        if quoted.is_empty() {
            return Ok(fields);
        }
        rest = quoted.strip_prefix(',').ok_or("text after a closing quote")?;
    }
}

/// The fields by name, before the rules of the type are applied.
#[derive(Default)]
struct Raw {
    kind: Option<&'static str>,
    from: Option<String>,
    source: String,
    target: String,
    read_only: Option<bool>,
    required: bool,
    size: Option<u64>,
    id: String,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Raw {
    fn kind(&self) -> &'static str {
        self.kind.unwrap_or("bind")
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let kind = self.kind();
        let text = value.unwrap_or_default().to_owned();
        let bad = || format!("`{text}` is no value for `{key}` of a mount");
        let boolean = || value.map_or(Some(true), go::parse_bool).ok_or_else(bad);
        let unexpected = || format!("a mount of type `{kind}` has no `{key}`");
        match key {
            "type" => self.kind = Some(choose(&text, &TYPES, "type")?),
            "from" => self.from = Some(text).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = text,
            "target" | "dst" | "destination" => self.target = text,
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" if !matches!(kind, "secret" | "ssh") => return Err(unexpected()),
            "required" => self.required = boolean()?,
            "size" if kind != "tmpfs" => return Err(unexpected()),
            "size" => self.size = Some(go::parse_size(&text).ok_or_else(bad)?).filter(|size| *size > 0),
            "id" => self.id = text,
            "sharing" => {
                self.sharing = Some(match choose(&text, &SHARING, "sharing")? {
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => Sharing::Shared,
                });
            }
            "mode" => self.mode = Some(go::parse_u32(&text, 8).ok_or_else(bad)?),
            "uid" => self.uid = Some(go::parse_u32(&text, 10).ok_or_else(bad)?),
            "gid" => self.gid = Some(go::parse_u32(&text, 10).ok_or_else(bad)?),
            _ => self.env = Some(text),
        }
        Ok(())
    }

    fn finish(self, locate: impl Fn(&str) -> Origin) -> Result<Mount, String> {
        let kind = self.kind();
        let owned = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
        if let Some((key, _)) =
            owned.iter().find(|(_, value)| value.is_some() && matches!(kind, "bind" | "tmpfs"))
        {
            return Err(format!("a mount of type `{kind}` has no `{key}`"));
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(format!("a mount of type `{kind}` has no `sharing`"));
        }
        let writable = matches!(kind, "cache" | "tmpfs");
        let read_only = self.read_only.unwrap_or(!writable);
        let kind = match kind {
            "cache" => {
                let id = if self.id.is_empty() { super::path::clean(&self.target) } else { self.id.clone() };
                MountKind::Cache { id, sharing: self.sharing.unwrap_or_default() }
            }
            "tmpfs" => MountKind::Tmpfs { size: self.size },
            "secret" => self.secret()?,
            "ssh" if !self.source.is_empty() => {
                return Err("a mount of type `ssh` has no `source`".to_owned());
            }
            "ssh" => {
                let id = if self.id.is_empty() { "default".to_owned() } else { self.id.clone() };
                MountKind::Ssh { id, required: self.required }
            }
            _ => MountKind::Bind,
        };
        let Self { source, target, mode, uid, gid, .. } = self;
        let from = self.from.as_deref().map(locate);
        Ok(Mount { kind, from, source, target, read_only, mode, uid, gid })
    }

    fn secret(&self) -> Result<MountKind, String> {
        if self.from.is_some() {
            return Err("a mount of type `secret` has no `from`".to_owned());
        }
        if !self.source.is_empty() && !self.id.is_empty() {
            return Err("`id` and `source` of a secret mean the same; give one".to_owned());
        }
        let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or("").to_owned();
        let id = match (self.source.as_str(), self.id.as_str()) {
            ("", "") if self.target.is_empty() => {
                return Err("a secret needs `id` or `target`".to_owned());
            }
            ("", "") => last(&self.target),
            ("", id) => id.to_owned(),
            (source, _) => source.to_owned(),
        };
        let file = match (&self.env, self.target.is_empty()) {
            (_, false) => Some(self.target.clone()),
            (Some(_), true) => None,
            (None, true) => Some(format!("/run/secrets/{}", last(&id))),
        };
        // An empty `env=` names the variable like the secret.
        let env = self.env.clone().map(|env| if env.is_empty() { id.clone() } else { env });
        Ok(MountKind::Secret { id, env, file, required: self.required })
    }
}

fn choose(text: &str, known: &[&'static str], what: &str) -> Result<&'static str, String> {
    let wanted = text.to_lowercase();
    known.iter().find(|known| **known == wanted).copied().ok_or_else(|| {
        let hint = match closest(&wanted, known) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("choose from {}", known.join(", ")),
        };
        format!("unknown mount {what} `{text}`: {hint}")
    })
}
