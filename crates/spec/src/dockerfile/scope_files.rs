//! `RUN`, `COPY` and `ADD` in a scope.

use super::ast::{Command, Heredoc, Kind, Run, Transfer};
use super::chmod::Chmod;
use super::globals::is_proxy;
use super::heredoc;
use super::lint::rule;
use super::mount::{Mount, MountKind};
use super::path;
use super::remote::SourcePath;
use super::scope::{Context, Reported, Scope};
use super::step::{Action, CopyStep, InlineFile, RunStep, Step, Unpack};
use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// Where a here-document with a `#!` line lies while it runs.
const SCRIPTS: &str = "/dev/pipes/";

impl Scope {
    pub(super) fn run(&mut self, context: &mut Context<'_>, run: &Run) -> Result<Step, Reported> {
        let (argv, script) = self.command_of(run);
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            mounts.push(self.mount(context, flag)?);
        }
        let args = self.shown_args();
        let count = (!args.is_empty()).then(|| format!("|{}", args.len()));
        let words: Vec<String> = count.into_iter().chain(args).chain(argv.iter().cloned()).collect();
        let created_by = format!("RUN {} # buildkit", words.join(" "));
        let action = Action::Run(RunStep {
            argv,
            env: self.env.pairs(),
            proxies: self.proxies(),
            cwd: self.working_dir.clone(),
            user: self.user.clone(),
            mounts,
            script,
            network: run.network,
            insecure: run.insecure,
        });
        Ok(Step { action, created_by, layer: true })
    }

    /// The proxies that were given, each in upper and lower case: programs look at one or the other.
    fn proxies(&self) -> Vec<(String, String)> {
        let given = &self.globals.build_args;
        let mut proxies = Vec::new();
        for (name, value) in given.iter().filter(|(name, _)| is_proxy(name)) {
            for spelling in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                let own = spelling == *name || !given.contains_key(&spelling);
                if own && self.env.get(&spelling).is_none() {
                    proxies.push((spelling, value.clone()));
                }
            }
        }
        proxies
    }

    /// The argument vector. A command line that is nothing but a here-document is that document: a program
    /// of its own if it begins with `#!`, else text for the shell. Other here-documents are the shell's to
    /// read.
    fn command_of(&self, run: &Run) -> (Vec<String>, Option<InlineFile>) {
        let line = match &run.command {
            Command::Exec(words) => return (words.iter().map(|word| word.value.clone()).collect(), None),
            Command::Shell(line) => line,
        };
        let Some(first) = run.heredocs.first() else { return (self.with_shell(line.value.clone()), None) };
        if heredoc::announced_by(line).is_some() {
            let content = first.text();
            if content.starts_with("#!") {
                let path = format!("{SCRIPTS}{}", first.name);
                return (self.with_shell(path.clone()), Some(InlineFile { path, content }));
            }
            return (self.with_shell(content), None);
        }
        let mut text = line.value.clone();
        for Heredoc { content, name, .. } in &run.heredocs {
            text.push('\n');
            text.push_str(content);
            text.push_str(name);
        }
        (self.with_shell(text), None)
    }

    fn mount(
        &mut self,
        context: &mut Context<'_>,
        flag: &super::mount::MountFlag,
    ) -> Result<Mount, Reported> {
        // Every value is expanded before any is looked at, so that all of its problems are reported.
        let mut values = Vec::new();
        for (_, value) in &flag.fields {
            values.extend(value.as_deref().map(|value| self.text(context, value, flag.span)).transpose()?);
        }
        let mut values = values.into_iter();
        let globals = std::sync::Arc::clone(&self.globals);
        let resolved = flag.resolve(|_| Ok(values.next().unwrap_or_default()), |from| globals.origin(from));
        let mut mount = match resolved {
            Ok(mount) => mount,
            Err(problem) => {
                context.diagnostics.push(problem);
                return Err(Reported);
            }
        };
        if matches!(mount.kind, MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. }) {
            mount.target = path::join(&self.working_dir, &mount.target);
            if mount.target == "/" {
                return context.error("invalid-mount", flag.span, "nothing can be mounted on `/`");
            }
        }
        Ok(mount)
    }

    pub(super) fn copy(&mut self, context: &mut Context<'_>, transfer: &Transfer) -> Result<Step, Reported> {
        let add = matches!(context.instruction.kind, Kind::Add(_));
        let mut optional = |scope: &mut Self, word: &Option<super::ast::Word>| {
            let text = word.as_ref().map(|word| scope.word(context, word)).transpose();
            text.map(|text| text.filter(|text| !text.is_empty()))
        };
        let chown = optional(self, &transfer.chown)?;
        let chmod_text = optional(self, &transfer.chmod)?;
        let checksum = optional(self, &transfer.checksum)?;
        let mut sources = Vec::new();
        let mut shown = Vec::new();
        for word in &transfer.sources {
            let text = self.word(context, word)?;
            let source = SourcePath::classify(&text);
            if !add && !matches!(source, SourcePath::Local(_)) {
                let problem = Diagnostic::error("invalid-source", word.span, "COPY takes no remote source");
                context.diagnostics.push(problem.help("use ADD"));
                return Err(Reported);
            }
            if transfer.from.is_none() && matches!(source, SourcePath::Local(_)) {
                self.warn_of_ignored(context, &text, word.span);
            }
            shown.push(text);
            sources.push(source);
        }
        let written_dest = self.word(context, &transfer.dest)?;
        let mut files = Vec::new();
        for document in &transfer.heredocs {
            let text = document.text();
            let content = if document.expand { self.document(context, &text)? } else { text };
            files.push(InlineFile { path: document.name.clone(), content });
        }
        let place =
            |word: &Option<super::ast::Word>| word.as_ref().map_or(transfer.dest.span, |word| word.span);
        let chmod = match &chmod_text {
            None => None,
            Some(text) => match Chmod::parse(text) {
                Ok(chmod) => Some(chmod),
                Err(reason) => return context.error("invalid-chmod", place(&transfer.chmod), reason),
            },
        };
        if let Some(owner) = chown.as_ref().filter(|owner| transfer.link && !is_numeric(owner)) {
            let message = format!("`{owner}`: names are not known to a layer of its own (`--link`)");
            return context.error("invalid-chown", place(&transfer.chown), message);
        }
        if let Some(checksum) = &checksum {
            check_checksum(context, checksum, &sources, place(&transfer.checksum))?;
        }
        let step = CopyStep {
            from: transfer.from.as_ref().map(|from| self.globals.origin(from)),
            sources,
            files,
            dest: path::join_keeping_slash(&self.working_dir, &written_dest),
            chown,
            chmod,
            link: transfer.link,
            parents: transfer.parents,
            exclude: transfer.exclude.iter().map(|pattern| pattern.value.clone()).collect(),
            checksum,
            keep_git_dir: transfer.keep_git_dir,
            unpack: match (add, transfer.unpack) {
                (false, _) | (true, Some(false)) => Unpack::Never,
                (true, None) => Unpack::Local,
                (true, Some(true)) => Unpack::All,
            },
        };
        let created_by = shown_copy(add, &step, shown, written_dest);
        Ok(Step { action: Action::Copy(step), created_by, layer: true })
    }

    /// A source that `.dockerignore` keeps back. If it brings files back, nothing can be said.
    fn warn_of_ignored(&self, context: &mut Context<'_>, source: &str, span: Span) {
        let ignore = &self.globals.ignore;
        if ignore.brings_back() {
            return;
        }
        let cleaned = path::clean(source);
        let ignored = match cleaned.trim_start_matches('/') {
            "" | "." => ignore.takes_all(),
            relative => ignore.is_ignored(relative),
        };
        if ignored {
            let message = format!("`{source}` stays behind because of .dockerignore");
            context.lint(&self.globals, rule::COPY_IGNORED_FILE, span, message);
        }
    }
}

/// The line of the history.
fn shown_copy(add: bool, step: &CopyStep, sources: Vec<String>, dest: String) -> String {
    let mut words = vec![if add { "ADD" } else { "COPY" }.to_owned()];
    words.extend(step.parents.then(|| "--parents".to_owned()));
    words.extend(step.chown.as_ref().map(|chown| format!("--chown={chown}")));
    words.extend(step.chmod.as_ref().map(|chmod| format!("--chmod={}", chmod.text())));
    words.extend(sources);
    words.extend(step.files.iter().map(|file| format!("<<{}", file.path)));
    words.push(dest);
    format!("{} # buildkit", words.join(" "))
}

fn is_numeric(owner: &str) -> bool {
    owner.split(':').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()))
}

/// A checksum needs one source to check.
fn check_checksum(
    context: &mut Context<'_>,
    checksum: &str,
    sources: &[SourcePath],
    span: Span,
) -> Result<(), Reported> {
    let hex = |text: &str| text.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'));
    let (fits, help) = match sources {
        [SourcePath::Http(_)] => {
            let fits = checksum.strip_prefix("sha256:").is_some_and(|rest| rest.len() == 64 && hex(rest));
            (fits, "write `--checksum=sha256:` and 64 hexadecimal digits")
        }
        [SourcePath::Git(_)] => {
            ((7..=64).contains(&checksum.len()) && hex(checksum), "write a commit of git")
        }
        _ => (false, "`--checksum` needs exactly one source, of HTTP or git"),
    };
    if fits {
        return Ok(());
    }
    let message = format!("`{checksum}` cannot be checked");
    context.diagnostics.push(Diagnostic::error("invalid-checksum", span, message).help(help));
    Err(Reported)
}
