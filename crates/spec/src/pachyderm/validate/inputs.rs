//! Rules of `input`.

use std::collections::BTreeMap;

use super::{Check, check_name};
use crate::cron::CronSpec;
use crate::diagnostic::Diagnostic;
use crate::glob::{Glob, clean};
use crate::pachyderm::{CronInput, GitInput, Input, InputKind, LeafKind, PfsInput, Trigger};
use crate::source::{Span, Spanned};

/// Names of inputs with the place of their first use.
type Names = BTreeMap<String, Span>;

/// What an input is a member of, as far as rules depend on it.
#[derive(Clone, Copy, Default)]
struct Around {
    join: bool,
    group: bool,
    union: bool,
}

impl Check<'_, '_> {
    pub(super) fn input(&mut self) {
        let Some(input) = &self.pipeline.input else { return };
        self.one(input, Around::default());
        self.names(input, &mut Names::new(), &mut Vec::new());
        if self.pipeline.build().is_some() {
            self.build_names(input);
        }
    }

    fn one(&mut self, input: &Input, around: Around) {
        if let Some(second) = input.surplus.first() {
            let problem = Diagnostic::error("contradiction", *second, "multiple input types set");
            self.diagnostics
                .push(problem.help("one object is one input; combine inputs with `cross` or `union`"));
        }
        let mut around = around;
        match &input.kind {
            InputKind::Missing => {
                let kinds = "pfs, cross, union, join, group, cron, git";
                let problem = Diagnostic::error("missing-field", input.span, "no input set");
                self.diagnostics.push(problem.help(format!("set one of {kinds}")));
            }
            InputKind::Pfs(pfs) => self.pfs(pfs, around),
            InputKind::Cron(cron) => self.cron(cron),
            InputKind::Git(git) => self.git(git, input.span),
            InputKind::Cross(_) => {}
            InputKind::Union(_) => around.union = true,
            InputKind::Join(_) => around.join = true,
            InputKind::Group(_) => around.group = true,
        }
        for member in input.members() {
            self.one(member, around);
        }
    }

    fn pfs(&mut self, pfs: &PfsInput, around: Around) {
        if self.present("repo", &pfs.repo) {
            check_name("repo name", &pfs.repo, self.diagnostics);
        }
        self.directory(pfs.name());
        if let Some(branch) = &pfs.branch
            && self.present("branch", branch)
        {
            check_name("branch name", branch, self.diagnostics);
        }
        if self.present("glob", &pfs.glob)
            && let Err(error) = Glob::compile(&pfs.glob, self.compat)
        {
            let message = format!("`{}` is not a glob: {}", pfs.glob.value, error.reason);
            let problem = Diagnostic::error("invalid-glob", pfs.glob.span, message);
            self.diagnostics
                .push(problem.help(format!("at character {} of `{}`", error.column, error.pattern)));
        }
        self.keys(pfs, around);
        if let Some(s3) = pfs.s3.as_ref().filter(|s3| s3.value) {
            self.s3(pfs, s3.span, around);
        }
        if let Some(trigger) = &pfs.trigger {
            self.trigger(trigger);
        }
    }

    /// Warns about keys that nothing compares, and about comparisons without keys.
    fn keys(&mut self, pfs: &PfsInput, around: Around) {
        let stray = [
            (pfs.join_on.as_ref().map(|key| key.span), around.join, "join_on", "join"),
            (pfs.group_by.as_ref().map(|key| key.span), around.group, "group_by", "group"),
        ];
        for (span, used, field, kind) in stray {
            if let (Some(span), false) = (span, used) {
                let message = format!("`{field}` has no effect outside `{kind}`");
                self.diagnostics.push(Diagnostic::warning("no-effect", span, message));
            }
        }
        if let Some(outer) = pfs.outer_join.as_ref().filter(|outer| outer.value && !around.join) {
            let message = "`outer_join` has no effect outside `join`";
            self.diagnostics.push(Diagnostic::warning("no-effect", outer.span, message));
        }
    }

    fn s3(&mut self, pfs: &PfsInput, span: Span, around: Around) {
        let on = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
        let rules = [
            (!clean(&pfs.glob).is_empty(), "an s3 input must have the glob `/`"),
            (on(&pfs.lazy), "an s3 input cannot be lazy"),
            (on(&pfs.empty_files), "an s3 input cannot have `empty_files`"),
            (around.join, "an s3 input cannot be part of a join"),
            (around.group, "an s3 input cannot be part of a group"),
            (around.union, "an s3 input cannot be part of a union"),
        ];
        for (_, message) in rules.into_iter().filter(|(broken, _)| *broken) {
            self.error("contradiction", span, message);
        }
    }

    fn trigger(&mut self, trigger: &Trigger) {
        if let Some(spec) = trigger.cron_spec.as_ref().filter(|spec| !spec.is_empty()) {
            self.clock(spec);
        }
        self.quantity("trigger.size", trigger.size.as_ref());
        self.not_negative("trigger.commits", trigger.commits.as_ref());
    }

    fn cron(&mut self, cron: &CronInput) {
        if self.present("name", &cron.name) {
            self.directory(&cron.name);
        }
        if let Some(repo) = cron.repo.as_ref().filter(|repo| !repo.is_empty()) {
            check_name("repo name", repo, self.diagnostics);
        }
        if self.present("spec", &cron.spec) {
            self.clock(&cron.spec);
        }
    }

    fn clock(&mut self, spec: &Spanned<String>) {
        if let Err(error) = spec.parse::<CronSpec>() {
            let problem = Diagnostic::error("invalid-cron", spec.span, error.to_string());
            self.diagnostics.push(problem.help("write it like \"*/10 * * * *\" or \"@daily\""));
        }
    }

    fn git(&mut self, git: &GitInput, span: Span) {
        if !self.present("url", &git.url) {
            return;
        }
        if !git.url.starts_with("https://") || !git.url.ends_with(".git") {
            let message = format!("`{}` is no clone URL", git.url.value);
            let problem = Diagnostic::error("invalid-url", git.url.span, message);
            self.diagnostics.push(problem.help("it has the form `https://….git`"));
        } else {
            let place = git.name.as_ref().map_or(span, |name| name.span);
            self.directory(&Spanned::new(git.name().to_owned(), place));
        }
    }

    /// Reports a required text that is absent or empty.
    fn present(&mut self, field: &str, text: &Spanned<String>) -> bool {
        if text.is_empty() && !self.is_reported(text.span) {
            self.error("missing-field", text.span, format!("the input must specify a {field}"));
        }
        !text.is_empty()
    }

    /// Names become directories under `/pfs`, so they must be single, ordinary components.
    fn directory(&mut self, name: &Spanned<String>) {
        if name.value == "out" {
            let problem = Diagnostic::error("reserved-name", name.span, "an input cannot be named \"out\"");
            self.diagnostics.push(problem.help("`/pfs/out` is where results go; add another `name`"));
        }
        let odd = |c: char| c == '/' || c.is_control();
        if name.contains(odd) || matches!(name.value.as_str(), "." | "..") {
            let message = format!("`{}` cannot be a directory under /pfs", name.value);
            self.error("invalid-name", name.span, message);
        }
    }

    /// A name may be used once per datum: arms of a union may share names among themselves, but not
    /// with what the union is combined with. `added` collects what this input adds to `taken`.
    fn names(&mut self, input: &Input, taken: &mut Names, added: &mut Vec<(String, Span)>) {
        if let InputKind::Union(members) = &input.kind {
            let mut arms = Vec::new();
            for member in members {
                let mut own = Vec::new();
                self.names(member, taken, &mut own);
                for (name, _) in &own {
                    taken.remove(name);
                }
                arms.append(&mut own);
            }
            for (name, span) in arms {
                if taken.insert(name.clone(), span).is_none() {
                    added.push((name, span));
                }
            }
            return;
        }
        for member in input.members() {
            self.names(member, taken, added);
        }
        if let (true, Some(leaf)) = (input.members().is_empty(), input.leaves("").pop()) {
            self.name_of(leaf.name, leaf.span, taken, added);
        }
    }

    fn name_of(&mut self, name: String, span: Span, taken: &mut Names, added: &mut Vec<(String, Span)>) {
        if name.is_empty() {
            return;
        }
        if let Some(first) = taken.get(&name) {
            let message = format!("the name \"{name}\" was used more than once");
            let problem = Diagnostic::error("duplicate-name", span, message);
            let problem = problem.label(*first, "first used here");
            self.diagnostics.push(problem.help("give one of the inputs another `name`"));
        } else {
            taken.insert(name.clone(), span);
            added.push((name, span));
        }
    }

    /// `source` and `build` are the inputs a build adds. Names that come from a repo count as well: the
    /// original misses those at first and fails half-way.
    fn build_names(&mut self, input: &Input) {
        for leaf in input.leaves(self.pipeline.name()) {
            if !matches!(leaf.name.as_str(), "build" | "source") {
                continue;
            }
            let message = format!("in a build pipeline no input can be named \"{}\"", leaf.name);
            let problem = Diagnostic::error("reserved-name", leaf.span, message);
            let from_repo = matches!(leaf.kind, LeafKind::Pfs(pfs) if pfs.name.is_none());
            self.diagnostics.push(match from_repo {
                true => problem.help("the name comes from the repo; add another `name`"),
                false => problem.help("choose another name"),
            });
        }
    }
}
