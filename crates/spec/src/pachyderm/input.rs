//! `input`: what the datums of a pipeline are made of.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::pipeline::non_empty;
use crate::decode::{Object, boolean, int64, string, timestamp};
use crate::diagnostic::Diagnostics;
use crate::source::{Span, Spanned};
use crate::value::Node;

/// One input, possibly made of others.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub kind: InputKind,
    /// Where further kinds stand in the same object; validation refuses them.
    pub surplus: Vec<Span>,
}

impl PartialEq for Input {
    /// Equal inputs may stand at different places.
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

/// The kinds of input.
#[derive(Debug, Clone, PartialEq)]
pub enum InputKind {
    /// None is set; validation refuses it.
    Missing,
    /// Files of a repo, one datum for each match of a glob.
    Pfs(Box<PfsInput>),
    /// Every combination of the members' datums.
    Cross(Vec<Input>),
    /// The members' datums one after the other.
    Union(Vec<Input>),
    /// Combinations of the members' datums with the same `join_on` key.
    Join(Vec<Input>),
    /// One datum for all files with the same `group_by` key.
    Group(Vec<Input>),
    /// A repo that gets a file at every tick of a clock.
    Cron(Box<CronInput>),
    /// A git repository that announces its pushes. Deprecated in the original.
    Git(Box<GitInput>),
}

/// Files of a repo.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PfsInput {
    /// The directory under `/pfs`; see [`PfsInput::name`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Spanned<String>>,
    /// The repo; must exist.
    pub repo: Spanned<String>,
    /// The branch; see [`PfsInput::branch`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Spanned<String>>,
    /// Set inside the original only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Which files and directories become datums.
    pub glob: Spanned<String>,
    /// Template of the key joins compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_on: Option<Spanned<String>>,
    /// Keep datums whose key other members lack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_join: Option<Spanned<bool>>,
    /// Template of the key groups compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_by: Option<Spanned<String>>,
    /// Fetch files when they are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy: Option<Spanned<bool>>,
    /// Show files without their content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_files: Option<Spanned<bool>>,
    /// Show the repo through S3 instead of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<Spanned<bool>>,
    /// When the branch moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Spanned<Trigger>>,
}

/// When a branch moves to the head of the branch it watches.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Trigger {
    /// The branch watched; `master` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// All conditions must hold, not any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// At the ticks of this clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron_spec: Option<Spanned<String>>,
    /// After so much growth, a quantity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Spanned<String>>,
    /// After so many commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commits: Option<Spanned<i64>>,
}

/// A clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CronInput {
    /// The directory under `/pfs`; required.
    pub name: Spanned<String>,
    /// The repo of the ticks; `<pipeline>_<name>` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<Spanned<String>>,
    /// Set inside the original only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Five fields or `@daily` and the like.
    pub spec: Spanned<String>,
    /// Keep the latest tick only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    /// The time to count from, RFC 3339; the pipeline's creation when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Spanned<String>>,
}

/// A git repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GitInput {
    /// The directory under `/pfs`; see [`GitInput::name`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Spanned<String>>,
    /// `https://….git`.
    pub url: Spanned<String>,
    /// The branch; `master` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Spanned<String>>,
    /// Set inside the original only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// One input that is not made of others, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf<'i> {
    /// The directory under `/pfs`.
    pub name: String,
    /// The repo it reads.
    pub repo: String,
    /// The branch it reads.
    pub branch: String,
    /// Where a problem with it is reported: its name, repo or whole object.
    pub span: Span,
    /// The input itself.
    pub kind: LeafKind<'i>,
}

/// The kinds of [`Leaf`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LeafKind<'i> {
    /// Files of a repo.
    Pfs(&'i PfsInput),
    /// A clock.
    Cron(&'i CronInput),
    /// A git repository.
    Git(&'i GitInput),
}

impl Eq for LeafKind<'_> {}

impl Input {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("input", node, diagnostics)?;
        let mut kinds = Vec::new();
        let mut add = |span: Option<Span>, kind: Option<InputKind>| {
            kinds.extend(span.zip(kind));
        };
        let place = fields.key_span("pfs");
        add(place, fields.optional("pfs", PfsInput::read).map(|pfs| InputKind::Pfs(Box::new(pfs))));
        for name in ["cross", "union", "join", "group"] {
            let place = fields.key_span(name);
            let members = fields.list(name, Self::read);
            add(place, (!members.is_empty()).then(|| combination(name, members)));
        }
        let place = fields.key_span("cron");
        add(place, fields.optional("cron", CronInput::read).map(|cron| InputKind::Cron(Box::new(cron))));
        let place = fields.key_span("git");
        add(place, fields.optional("git", GitInput::read).map(|git| InputKind::Git(Box::new(git))));
        fields.finish();
        kinds.sort_by_key(|(span, _)| *span);
        let surplus = kinds.iter().skip(1).map(|(span, _)| *span).collect();
        let kind = kinds.into_iter().next().map_or(InputKind::Missing, |(_, kind)| kind);
        Some(Self { span: node.span, kind, surplus })
    }

    /// The inputs this one is made of; none for a leaf.
    pub fn members(&self) -> &[Self] {
        match &self.kind {
            InputKind::Cross(members)
            | InputKind::Union(members)
            | InputKind::Join(members)
            | InputKind::Group(members) => members,
            InputKind::Missing | InputKind::Pfs(_) | InputKind::Cron(_) | InputKind::Git(_) => &[],
        }
    }

    /// The leaves below (or this one), in the order of the specification, with their defaults for a
    /// pipeline of that name.
    pub fn leaves(&self, pipeline: &str) -> Vec<Leaf<'_>> {
        let mut leaves = Vec::new();
        self.collect_leaves(pipeline, &mut 0, &mut leaves);
        leaves
    }

    fn collect_leaves<'i>(&'i self, pipeline: &str, triggers: &mut usize, out: &mut Vec<Leaf<'i>>) {
        match &self.kind {
            InputKind::Pfs(pfs) => out.push(pfs.leaf(self.span, pipeline, triggers)),
            InputKind::Cron(cron) => out.push(cron.leaf(self.span, pipeline)),
            InputKind::Git(git) => out.push(git.leaf(self.span)),
            _ => {}
        }
        for member in self.members() {
            member.collect_leaves(pipeline, triggers, out);
        }
    }
}

impl PfsInput {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("input.pfs", node, diagnostics)?;
        let input = Self {
            name: fields.spanned("name", string),
            repo: required(&mut fields, "repo"),
            branch: fields.spanned("branch", string),
            commit: fields.optional("commit", string),
            glob: required(&mut fields, "glob"),
            join_on: fields.spanned("join_on", string),
            outer_join: fields.spanned("outer_join", boolean),
            group_by: fields.spanned("group_by", string),
            lazy: fields.spanned("lazy", boolean),
            empty_files: fields.spanned("empty_files", boolean),
            s3: fields.spanned("s3", boolean),
            trigger: fields.spanned("trigger", Trigger::read),
        };
        fields.finish();
        Some(input)
    }

    /// The directory under `/pfs`: the name given, or that of the repo.
    pub fn name(&self) -> &Spanned<String> {
        self.name.as_ref().filter(|name| !name.is_empty()).unwrap_or(&self.repo)
    }

    /// The branch given, or `master`. With a trigger and no branch the branch is made for the pipeline;
    /// [`Input::leaves`] knows its name.
    pub fn branch(&self) -> &str {
        self.branch.as_ref().and_then(|branch| non_empty(&branch.value)).unwrap_or("master")
    }

    fn leaf(&self, span: Span, pipeline: &str, triggers: &mut usize) -> Leaf<'_> {
        *triggers += usize::from(self.trigger.is_some());
        let given = self.branch.as_ref().is_some_and(|branch| !branch.is_empty());
        let branch = match (&self.trigger, given) {
            (Some(_), false) => format!("{pipeline}-trigger-{triggers}"),
            _ => self.branch().to_owned(),
        };
        let name = self.name();
        let span = if name.is_empty() { span } else { name.span };
        Leaf {
            name: name.value.clone(),
            repo: self.repo.value.clone(),
            branch,
            span,
            kind: LeafKind::Pfs(self),
        }
    }
}

impl Trigger {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("input.pfs.trigger", node, diagnostics)?;
        let trigger = Self {
            branch: fields.optional("branch", string),
            all: fields.optional("all", boolean),
            cron_spec: fields.spanned("cron_spec", string),
            size: fields.spanned("size", string),
            commits: fields.spanned("commits", int64),
        };
        fields.finish();
        Some(trigger)
    }
}

impl CronInput {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("input.cron", node, diagnostics)?;
        let input = Self {
            name: required(&mut fields, "name"),
            repo: fields.spanned("repo", string),
            commit: fields.optional("commit", string),
            spec: required(&mut fields, "spec"),
            overwrite: fields.optional("overwrite", boolean),
            start: fields.spanned("start", timestamp),
        };
        fields.finish();
        Some(input)
    }

    fn leaf(&self, span: Span, pipeline: &str) -> Leaf<'_> {
        let given = self.repo.as_ref().and_then(|repo| non_empty(&repo.value));
        let repo = given.map_or_else(|| format!("{pipeline}_{}", self.name.value), str::to_owned);
        let span = if self.name.is_empty() { span } else { self.name.span };
        let (name, branch) = (self.name.value.clone(), "master".to_owned());
        Leaf { name, repo, branch, span, kind: LeafKind::Cron(self) }
    }
}

impl GitInput {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("input.git", node, diagnostics)?;
        let input = Self {
            name: fields.spanned("name", string),
            url: required(&mut fields, "url"),
            branch: fields.spanned("branch", string),
            commit: fields.optional("commit", string),
        };
        fields.finish();
        Some(input)
    }

    /// The directory under `/pfs`: the name given, or the last part of the URL.
    pub fn name(&self) -> &str {
        let from_url = || self.url.rsplit('/').next().unwrap_or("").trim_end_matches(".git");
        self.name.as_ref().and_then(|name| non_empty(&name.value)).unwrap_or_else(from_url)
    }

    fn leaf(&self, span: Span) -> Leaf<'_> {
        let branch = self.branch.as_ref().and_then(|branch| non_empty(&branch.value)).unwrap_or("master");
        let name = self.name().to_owned();
        let span = self.name.as_ref().map_or(span, |name| name.span);
        Leaf { repo: name.clone(), name, branch: branch.to_owned(), span, kind: LeafKind::Git(self) }
    }
}

fn combination(name: &str, members: Vec<Input>) -> InputKind {
    match name {
        "cross" => InputKind::Cross(members),
        "union" => InputKind::Union(members),
        "join" => InputKind::Join(members),
        _ => InputKind::Group(members),
    }
}

/// A field that validation wants; empty when absent (at the start of the object) or unreadable.
fn required(fields: &mut Object<'_, '_>, name: &'static str) -> Spanned<String> {
    let start = Span::new(fields.span.start, fields.span.start + 1);
    let place = fields.node(name).map_or(start, |node| node.span);
    fields.spanned(name, string).unwrap_or_else(|| Spanned::new(String::new(), place))
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.kind {
            InputKind::Missing => {}
            InputKind::Pfs(pfs) => map.serialize_entry("pfs", pfs)?,
            InputKind::Cross(members) => map.serialize_entry("cross", members)?,
            InputKind::Union(members) => map.serialize_entry("union", members)?,
            InputKind::Join(members) => map.serialize_entry("join", members)?,
            InputKind::Group(members) => map.serialize_entry("group", members)?,
            InputKind::Cron(cron) => map.serialize_entry("cron", cron)?,
            InputKind::Git(git) => map.serialize_entry("git", git)?,
        }
        map.end()
    }
}
