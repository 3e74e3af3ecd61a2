//! What the arguments of each instruction mean.

use super::{Parser, Parts};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{
    Arg, Command, HealthOptions, Healthcheck, Instruction, Kind, Network, Onbuild, Pair, Run, Word,
};
use crate::dockerfile::flags::{Flags, Shape};
use crate::dockerfile::lint::rule;
use crate::dockerfile::mount::MountFlag;
use crate::dockerfile::words::{self, NotJson};
use crate::dockerfile::{go, heredoc};
use crate::duration::GoDuration;
use crate::source::Span;
use std::time::Duration;

/// The options of `HEALTHCHECK`.
const HEALTH_FLAGS: [(&str, Shape); 5] = [
    ("interval", Shape::Text),
    ("timeout", Shape::Text),
    ("start-period", Shape::Text),
    ("start-interval", Shape::Text),
    ("retries", Shape::Text),
];

impl Parser {
    /// An instruction other than `FROM`. `source` and `span` are what the tree shall remember of it.
    pub(super) fn instruction(
        &mut self,
        parts: Parts<'_>,
        source: String,
        span: Span,
    ) -> Option<Instruction> {
        let kind = match parts.name.as_str() {
            "ADD" => Kind::Add(self.transfer(&parts)?),
            "COPY" => Kind::Copy(self.transfer(&parts)?),
            "RUN" => Kind::Run(self.run(&parts)?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck(&parts)?),
            "ONBUILD" => Kind::Onbuild(self.onbuild(&parts)?),
            name => {
                let name = name.to_owned();
                let known = self.plain(&name, &parts);
                if known.is_some() {
                    self.flags(&parts, &[]);
                }
                known??
            }
        };
        let Parts { keyword, check, .. } = parts;
        Some(Instruction { keyword, kind, span, source, check })
    }

    /// Instructions without flags. `None`: there is no such instruction; `Some(None)`: it is wrong.
    fn plain(&mut self, name: &str, parts: &Parts<'_>) -> Option<Option<Kind>> {
        Some(match name {
            "ARG" => self.arg(parts).map(Kind::Arg),
            "CMD" => self.command(parts).map(Kind::Cmd),
            "ENTRYPOINT" => self.command(parts).map(Kind::Entrypoint),
            "ENV" => self.pairs(parts).map(Kind::Env),
            "LABEL" => self.pairs(parts).map(Kind::Label),
            "EXPOSE" => {
                let ports = words::split_blanks(parts.line, parts.args.clone());
                self.at_least_one(parts, ports).map(Kind::Expose)
            }
            "MAINTAINER" => {
                let message = "MAINTAINER is deprecated";
                self.lint(rule::MAINTAINER_DEPRECATED, &parts.check, parts.keyword.span, message);
                self.one(parts).map(Kind::Maintainer)
            }
            "SHELL" => self.shell(parts).map(Kind::Shell),
            "STOPSIGNAL" => self.one(parts).map(Kind::Stopsignal),
            "USER" => self.one(parts).map(Kind::User),
            "WORKDIR" => self.one(parts).map(Kind::Workdir),
            "VOLUME" => self.volumes(parts).map(Kind::Volume),
            _ => {
                self.unknown_instruction(&parts.keyword);
                return None;
            }
        })
    }

    fn missing<T>(&mut self, parts: &Parts<'_>) -> Option<T> {
        let message = format!("{} needs an argument", parts.name);
        self.error("missing-argument", parts.keyword.span, message);
        None
    }

    fn at_least_one(&mut self, parts: &Parts<'_>, words: Vec<Word>) -> Option<Vec<Word>> {
        if words.is_empty() { self.missing(parts) } else { Some(words) }
    }

    /// Everything up to the end of the line.
    fn one(&mut self, parts: &Parts<'_>) -> Option<Word> {
        if parts.args.is_empty() { self.missing(parts) } else { Some(parts.word()) }
    }

    /// A JSON array of strings, `Some(None)` if the arguments are something else.
    pub(super) fn json(&mut self, parts: &Parts<'_>) -> Option<Option<Vec<Word>>> {
        match words::json_array(parts.line, parts.args.clone()) {
            Ok(words) => Some(Some(words)),
            Err(NotJson::Text) => Some(None),
            Err(NotJson::OtherThings) => {
                let span = parts.line.span(parts.args.clone());
                let problem = Diagnostic::error("invalid-json", span, "the array must hold strings only");
                self.diagnostics.push(problem.help("put each element in double quotes"));
                None
            }
        }
    }

    /// Exec form, or else shell form.
    fn command(&mut self, parts: &Parts<'_>) -> Option<Command> {
        Some(match self.json(parts)? {
            Some(words) => Command::Exec(words),
            None => {
                self.warn_almost_json(parts);
                Command::Shell(parts.word())
            }
        })
    }

    /// Text that begins and ends like an array but is none goes to the shell, which seldom was meant.
    fn warn_almost_json(&mut self, parts: &Parts<'_>) {
        let text = parts.text();
        if text.starts_with("[\"") || text.starts_with("['") && text.ends_with(']') {
            let span = parts.line.span(parts.args.clone());
            let message = "this is no JSON array, so the shell gets it as it stands";
            let problem = Diagnostic::warning("almost-json", span, message);
            self.diagnostics
                .push(problem.help("write [\"program\", \"argument\"] with double quotes and commas"));
        }
    }

    fn shell(&mut self, parts: &Parts<'_>) -> Option<Vec<Word>> {
        match self.json(parts)? {
            Some(words) => self.at_least_one(parts, words),
            None => {
                let problem = Diagnostic::error("invalid-shell", parts.span, "SHELL takes a JSON array");
                self.diagnostics.push(problem.help("write SHELL [\"/bin/sh\", \"-c\"]"));
                None
            }
        }
    }

    fn volumes(&mut self, parts: &Parts<'_>) -> Option<Vec<Word>> {
        let words = match self.json(parts)? {
            Some(words) => words,
            None => words::split_blanks(parts.line, parts.args.clone()),
        };
        for word in words.iter().filter(|word| word.trim().is_empty()) {
            self.error("invalid-volume", word.span, "a volume needs a path");
        }
        self.at_least_one(parts, words)
    }

    /// `ENV` and `LABEL`: `key=value ...`, or `key value` in the old form.
    fn pairs(&mut self, parts: &Parts<'_>) -> Option<Vec<Pair>> {
        let line = parts.line;
        let ranges = words::split_quoted(line, parts.args.clone(), self.escape);
        let Some(first) = ranges.first() else { return self.missing(parts) };
        if !line.text[first.clone()].contains('=') {
            let (key, value) = words::split_first(line, parts.args.clone());
            if value.is_empty() {
                let message = format!("`{}` has no value", &line.text[key.clone()]);
                let problem = Diagnostic::error("missing-value", line.span(key), message);
                self.diagnostics.push(problem.help("write key=value"));
                return None;
            }
            return Some(vec![Pair { key: line.word(key), value: line.word(value), legacy: true }]);
        }
        let mut pairs = Vec::new();
        for range in ranges {
            let text = &line.text[range.clone()];
            let Some((key, _)) = text.split_once('=') else {
                let message = format!("`{text}` has no `=`");
                let problem = Diagnostic::error("missing-value", line.span(range.clone()), message);
                self.diagnostics.push(problem.help("write key=value, and quotes around a value with blanks"));
                continue;
            };
            let middle = range.start + key.len();
            if key.is_empty() {
                let message = format!("{} has a value without a name", parts.name);
                self.error("missing-name", line.span(range), message);
                continue;
            }
            let (key, value) = (line.word(range.start..middle), line.word(middle + 1..range.end));
            pairs.push(Pair { key, value, legacy: false });
        }
        Some(pairs)
    }

    fn arg(&mut self, parts: &Parts<'_>) -> Option<Vec<Arg>> {
        let line = parts.line;
        let mut args = Vec::new();
        for range in words::split_quoted(line, parts.args.clone(), self.escape) {
            let text = &line.text[range.clone()];
            let name = text.split('=').next().unwrap_or(text);
            let middle = range.start + name.len();
            if name.is_empty() {
                self.error("missing-name", line.span(range), "ARG has a value without a name");
                continue;
            }
            let default = (middle < range.end).then(|| line.word(middle + 1..range.end));
            args.push(Arg { name: line.word(range.start..middle), default });
        }
        if args.is_empty() {
            return self.missing(parts);
        }
        let names: Vec<Word> = args.iter().map(|arg| arg.name.clone()).collect();
        self.describe(parts, &names);
        Some(args)
    }

    fn run(&mut self, parts: &Parts<'_>) -> Option<Run> {
        let known = [("mount", Shape::Many), ("network", Shape::Text), ("security", Shape::Text)];
        let flags = self.flags(parts, &known);
        let mut mounts = Vec::new();
        for value in flags.many("mount") {
            match MountFlag::parse(&value) {
                Ok(mount) => mounts.push(mount),
                Err(problem) => self.diagnostics.push(problem),
            }
        }
        let network = match self.choice(&flags, "network", &["default", "none", "host"]) {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            _ => Network::Default,
        };
        let insecure = self.choice(&flags, "security", &["sandbox", "insecure"]) == Some("insecure");
        let command = self.command(parts)?;
        if matches!(&command, Command::Shell(line) if line.is_empty()) {
            let message = "RUN has no command, so the shell has nothing to do";
            self.diagnostics.push(Diagnostic::warning("empty-command", parts.keyword.span, message));
        }
        Some(Run { command, heredocs: parts.heredocs.clone(), mounts, network, insecure })
    }

    /// The value of a flag that must be one of a few.
    fn choice<'k>(&mut self, flags: &Flags, name: &str, known: &[&'k str]) -> Option<&'k str> {
        let value = flags.text(name)?;
        let found = known.iter().find(|known| **known == value.as_str());
        if found.is_none() {
            let message = format!("`--{name}` cannot be `{}`", value.value);
            let problem = Diagnostic::error("invalid-flag", value.span, message);
            self.diagnostics.push(problem.help(format!("choose from {}", known.join(", "))));
        }
        found.copied()
    }

    fn healthcheck(&mut self, parts: &Parts<'_>) -> Option<Healthcheck> {
        let flags = self.flags(parts, &HEALTH_FLAGS);
        let (kind, rest) = words::split_first(parts.line, parts.args.clone());
        if kind.is_empty() {
            return self.missing(parts);
        }
        let word = parts.line.word(kind);
        let rest = parts.line.trim(rest);
        match word.to_uppercase().as_str() {
            "NONE" if rest.is_empty() => Some(Healthcheck::None),
            "NONE" => {
                self.error(
                    "invalid-healthcheck",
                    parts.line.span(rest),
                    "HEALTHCHECK NONE takes no argument",
                );
                None
            }
            "CMD" => {
                let inner =
                    Parts { args: rest, heredocs: Vec::new(), flags: Vec::new(), ..clone_parts(parts) };
                let command = self.command(&inner)?;
                let empty = match &command {
                    Command::Exec(words) => words.is_empty(),
                    Command::Shell(line) => line.is_empty(),
                };
                if empty {
                    self.error("missing-argument", word.span, "HEALTHCHECK CMD needs a command");
                    return None;
                }
                Some(Healthcheck::Check { command, options: self.health_options(&flags) })
            }
            _ => {
                let message = format!("HEALTHCHECK has no kind `{}`", word.value);
                let problem = Diagnostic::error("invalid-healthcheck", word.span, message);
                self.diagnostics.push(problem.help("write HEALTHCHECK CMD command, or HEALTHCHECK NONE"));
                None
            }
        }
    }

    fn health_options(&mut self, flags: &Flags) -> HealthOptions {
        let mut duration = |name: &str| {
            let Some(value) = flags.text(name) else { return Duration::ZERO };
            let read = value.parse::<GoDuration>().map_err(|error| error.to_string()).and_then(|length| {
                let length =
                    length.to_std().filter(|length| length.is_zero() || *length >= Duration::from_millis(1));
                length.ok_or_else(|| format!("`--{name}` must be at least 1ms"))
            });
            read.unwrap_or_else(|reason| {
                self.diagnostics.push(Diagnostic::error("invalid-duration", value.span, reason));
                Duration::ZERO
            })
        };
        let interval = duration("interval");
        let timeout = duration("timeout");
        let start_period = duration("start-period");
        let start_interval = duration("start-interval");
        let retries = flags.text("retries").map_or(0, |value| {
            let number = go::parse_u32(&value, 10).filter(|number| i32::try_from(*number).is_ok());
            number.unwrap_or_else(|| {
                let message = format!("`--retries` is a number from 0, not `{}`", value.value);
                self.error("invalid-flag", value.span, message);
                0
            })
        });
        HealthOptions { interval, timeout, start_period, start_interval, retries }
    }

    fn onbuild(&mut self, parts: &Parts<'_>) -> Option<Onbuild> {
        self.flags(parts, &[]);
        if parts.args.is_empty() {
            return self.missing(parts);
        }
        let mut inner = self.split(parts.line, parts.args.clone(), parts.check.clone());
        if matches!(inner.name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            let message = format!("{} cannot follow ONBUILD", inner.name);
            self.error("invalid-trigger", inner.keyword.span, message);
            return None;
        }
        inner.heredocs = parts.heredocs.clone();
        let source = parts.text().to_owned();
        // Blanks at the end of the line stay, as in the original: the text goes into the image.
        let mut expression = parts.line.text[parts.args.start..].to_owned();
        for heredoc in &parts.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        let span = inner.span;
        let trigger = Box::new(self.instruction(inner, source, span)?);
        Some(Onbuild { expression, trigger })
    }

    /// The here-documents among words, in the order of the words, and the other words.
    pub(super) fn sort_heredocs(
        parts: &Parts<'_>,
        words: Vec<Word>,
    ) -> (Vec<Word>, Vec<crate::dockerfile::ast::Heredoc>) {
        let mut heredocs = Vec::new();
        let mut others = Vec::new();
        for word in words {
            match heredoc::announced_by(&word) {
                None => others.push(word),
                Some(named) => {
                    let read = parts.heredocs.iter().rev().find(|read| read.name == named.name);
                    heredocs.push(match read {
                        Some(read) => crate::dockerfile::ast::Heredoc {
                            content: read.content.clone(),
                            span: read.span,
                            ..named
                        },
                        None => named,
                    });
                }
            }
        }
        (others, heredocs)
    }
}

fn clone_parts<'a>(parts: &Parts<'a>) -> Parts<'a> {
    Parts {
        line: parts.line,
        keyword: parts.keyword.clone(),
        name: parts.name.clone(),
        flags: parts.flags.clone(),
        args: parts.args.clone(),
        heredocs: Vec::new(),
        span: parts.span,
        check: parts.check.clone(),
    }
}
