//! From text to the tree: statements, here-documents, stages.

mod instruction;
mod transfer;

use super::ast::{Dockerfile, Heredoc, Instruction, Kind, Stage, Word};
use super::directive;
use super::flags::{Flags, Shape};
use super::heredoc;
use super::lines::{Line, Lines};
use super::lint::{Check, Lint, Rule, rule};
use super::words::{self, Flag, NotJson};
use crate::decode::closest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{SourceText, Span};
use std::ops::Range;

/// The names of all instructions.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a Dockerfile: the tree, and everything that is wrong with the text.
///
/// Use the tree only if the diagnostics have no errors: what could not be read is missing from it. No
/// variable is looked at here; see [`super::plan_stages`] and [`super::Scope`] for what follows.
pub fn parse_dockerfile(source: &SourceText) -> (Dockerfile, Diagnostics) {
    let mut diagnostics = Diagnostics::new();
    let head = directive::read(source, &mut diagnostics);
    let mut parser = Parser { escape: head.escape, check: head.check.clone(), diagnostics };
    let mut dockerfile = Dockerfile {
        escape: head.escape,
        syntax: head.syntax,
        check: head.check,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    let mut lines = Lines::new(source, head.end, head.escape);
    let mut any = false;
    while let Some(line) = lines.next_line() {
        any = true;
        match parser.line(&line, &mut lines) {
            Some(Statement::From(stage)) => dockerfile.stages.push(*stage),
            Some(Statement::Instruction(instruction)) => parser.place(*instruction, &mut dockerfile),
            None => {}
        }
    }
    if dockerfile.stages.is_empty() && !parser.diagnostics.has_errors() {
        let message = if any { "there is no FROM, so nothing to build" } else { "there is no instruction" };
        let problem = Diagnostic::global("no-stage", message).help("begin with `FROM image`");
        parser.diagnostics.push(problem);
    }
    super::style::check(&dockerfile, &mut parser.diagnostics);
    (dockerfile, parser.diagnostics)
}

/// Reads an `ONBUILD` trigger as it stands in an image's configuration: one instruction, with `\` as
/// its escape character. All of it counts as standing at `span`, the `FROM` that brings it.
pub(super) fn parse_trigger_at(text: &str, span: Span) -> (Option<Instruction>, Diagnostics) {
    let source = SourceText::new("ONBUILD", text);
    let mut parser = Parser { escape: '\\', check: Check::default(), diagnostics: Diagnostics::new() };
    let mut lines = Lines::fixed(&source, '\\', span);
    let mut found = Vec::new();
    while let Some(line) = lines.next_line() {
        found.push(parser.line(&line, &mut lines));
    }
    let mut instruction = match found.pop() {
        Some(Some(Statement::Instruction(instruction))) if found.is_empty() => Some(*instruction),
        Some(None) => None,
        _ => {
            let problem = Diagnostic::error("invalid-trigger", span, "an ONBUILD trigger is one instruction");
            parser.diagnostics.push(problem);
            None
        }
    };
    if let Some(instruction) = &mut instruction {
        instruction.span = span;
    }
    (instruction, parser.diagnostics)
}

/// What a logical line says.
enum Statement {
    From(Box<Stage>),
    Instruction(Box<Instruction>),
}

struct Parser {
    escape: char,
    check: Check,
    diagnostics: Diagnostics,
}

/// A line split into its parts, before its instruction gives them meaning.
struct Parts<'a> {
    line: &'a Line,
    keyword: Word,
    /// The keyword in upper case.
    name: String,
    flags: Vec<Flag>,
    /// What follows the flags, without blanks at its ends.
    args: Range<usize>,
    heredocs: Vec<Heredoc>,
    /// The keyword up to the end of the arguments.
    span: Span,
    check: Check,
}

impl Parts<'_> {
    /// The arguments as they stand.
    fn text(&self) -> &str {
        &self.line.text[self.args.clone()]
    }

    /// The whole argument text as a word.
    fn word(&self) -> Word {
        self.line.word(self.args.clone())
    }
}

impl Parser {
    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(code, span, message));
    }

    fn lint(&mut self, rule: Rule, own: &Check, span: Span, message: impl Into<String>) {
        Lint { file: &self.check, diagnostics: &mut self.diagnostics }.report(
            rule,
            own,
            span,
            message.into(),
        );
    }

    /// Reads one logical line and the here-documents it announces.
    fn line(&mut self, line: &Line, lines: &mut Lines<'_>) -> Option<Statement> {
        let check = directive::check_of(&line.comments);
        if let Some(span) = line.empty_line {
            self.lint(rule::NO_EMPTY_CONTINUATION, &check, span, "empty line inside a continuation");
        }
        let whole = line.trim(0..line.text.len());
        let mut parts = self.split(line, whole.clone(), check);
        if self.takes_heredocs(&parts) {
            parts.heredocs = heredoc::announced(&line.text);
        }
        for heredoc in &mut parts.heredocs {
            if !lines.read_heredoc(heredoc) {
                let message = format!("the here-document `{}` is not closed", heredoc.name);
                let problem = Diagnostic::error("open-heredoc", parts.span, message);
                self.diagnostics.push(problem.help(format!("end it with a line `{}`", heredoc.name)));
            }
        }
        let end = parts.heredocs.last().map_or(line.span.end, |last| last.span.end);
        let source = line.text[whole].to_owned();
        if parts.name == "FROM" {
            return self.from(&parts, source).map(|stage| Statement::From(Box::new(stage)));
        }
        let span = Span::new(line.span.start, end);
        let instruction = self.instruction(parts, source, span)?;
        Some(Statement::Instruction(Box::new(instruction)))
    }

    /// Splits a line, or the part of one that follows `ONBUILD`.
    fn split<'a>(&self, line: &'a Line, range: Range<usize>, check: Check) -> Parts<'a> {
        let (keyword, rest) = words::split_first(line, range.clone());
        let (flags, args) = words::take_flags(line, rest, self.escape);
        Parts {
            line,
            name: line.text[keyword.clone()].to_uppercase(),
            keyword: line.word(keyword),
            flags,
            args,
            heredocs: Vec::new(),
            span: line.span(range),
            check,
        }
    }

    /// `ADD`, `COPY` and `RUN` take here-documents unless their arguments are in JSON form, also behind
    /// `ONBUILD`.
    fn takes_heredocs(&self, parts: &Parts<'_>) -> bool {
        if parts.name == "ONBUILD" && !parts.args.is_empty() {
            let inner = self.split(parts.line, parts.args.clone(), Check::default());
            return inner.name != "ONBUILD" && self.takes_heredocs(&inner);
        }
        let form = || words::json_array(parts.line, parts.args.clone());
        matches!(parts.name.as_str(), "ADD" | "COPY" | "RUN") && form() == Err(NotJson::Text)
    }

    fn flags(&mut self, parts: &Parts<'_>, known: &[(&'static str, Shape)]) -> Flags {
        Flags::read(parts.line, &parts.flags, &parts.name, known, &mut self.diagnostics)
    }

    /// Puts an instruction into the stage it belongs to.
    fn place(&mut self, instruction: Instruction, dockerfile: &mut Dockerfile) {
        match (dockerfile.stages.last_mut(), instruction.kind) {
            (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
            (None, Kind::Arg(args)) => dockerfile.global_args.extend(args),
            (None, kind) => {
                let message = format!("{} stands before the first FROM", kind.name());
                let problem = Diagnostic::error("no-stage", instruction.keyword.span, message);
                self.diagnostics.push(problem.help("only ARG may stand there"));
            }
        }
    }

    fn from(&mut self, parts: &Parts<'_>, source: String) -> Option<Stage> {
        let flags = self.flags(parts, &[("platform", Shape::Text)]);
        let mut args = words::split_blanks(parts.line, parts.args.clone()).into_iter();
        let (base, keyword, name, more) = (args.next(), args.next(), args.next(), args.next());
        let complete = keyword.is_some() == name.is_some() && more.is_none();
        let is_as = keyword.as_ref().is_none_or(|keyword| keyword.eq_ignore_ascii_case("as"));
        let Some(base) = base.filter(|_| complete && is_as) else {
            let problem =
                Diagnostic::error("invalid-from", parts.span, "FROM takes an image, or an image and a name");
            self.diagnostics.push(problem.help("write `FROM image` or `FROM image AS name`"));
            return None;
        };
        let name = match (keyword, name) {
            (Some(keyword), Some(name)) => Some(self.stage_name(parts, &keyword, &name)?),
            _ => None,
        };
        if let Some(name) = &name {
            self.describe(parts, std::slice::from_ref(name));
        }
        Some(Stage {
            keyword: parts.keyword.clone(),
            base,
            name,
            platform: flags.text("platform"),
            instructions: Vec::new(),
            span: parts.span,
            source,
            check: parts.check.clone(),
        })
    }

    fn stage_name(&mut self, parts: &Parts<'_>, keyword: &Word, name: &Word) -> Option<Word> {
        let lower = name.to_lowercase();
        if lower != name.value {
            let message = format!("the stage name `{}` is not in lower case", name.value);
            self.lint(rule::STAGE_NAME_CASING, &parts.check, name.span, message);
        }
        let from = parts.keyword.as_str();
        let expected = match from {
            from if from == from.to_lowercase() => keyword.to_lowercase(),
            from if from == from.to_uppercase() => keyword.to_uppercase(),
            _ => keyword.value.clone(),
        };
        if expected != keyword.value {
            let message = format!("`{}` and `{from}` differ in case", keyword.value);
            self.lint(rule::FROM_AS_CASING, &parts.check, keyword.span, message);
        }
        let mut chars = lower.chars();
        let ok = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
        if !ok {
            let message = format!("`{}` is no name for a stage", name.value);
            let problem = Diagnostic::error("invalid-stage-name", name.span, message);
            self.diagnostics
                .push(problem.help("begin with a letter; then letters, digits, `-`, `_` and `.`"));
            return None;
        }
        Some(Word::new(lower, name.span))
    }

    /// The comment directly before a definition describes it: it begins with its name.
    fn describe(&mut self, parts: &Parts<'_>, names: &[Word]) {
        let Some(comment) = parts.line.comments.last() else { return };
        let first = comment.split(' ').next().unwrap_or("");
        if let Some(name) = names.first()
            && names.iter().all(|name| name.as_str() != first)
        {
            let message = format!("the comment before `{}` does not begin with its name", name.value);
            self.lint(rule::INVALID_DEFINITION_DESCRIPTION, &parts.check, parts.span, message);
        }
    }

    fn unknown_instruction(&mut self, keyword: &Word) {
        let message = format!("unknown instruction `{}`", keyword.value);
        let problem = Diagnostic::error("unknown-instruction", keyword.span, message);
        // Problems past the limit are only counted, so their hints are not looked for.
        let close = if self.diagnostics.is_full() { None } else { closest(keyword, &INSTRUCTIONS) };
        self.diagnostics.push(match close {
            Some(close) => problem.help(format!("did you mean `{close}`?")),
            None => problem.help("a line that continues the one before needs `\\` at the end of that"),
        });
    }
}
