//! The flags of an instruction: which it knows, and their values.

use super::ast::Word;
use super::lines::Line;
use super::words::Flag;
use crate::decode::closest;
use crate::diagnostic::{Diagnostic, Diagnostics};

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `--link`, `--link=false`.
    Bool,
    /// `--from=text`, once.
    Text,
    /// `--exclude=text`, any number of times.
    Many,
}

/// The flags given to an instruction that it knows, each with a value of its shape.
pub(super) struct Flags(Vec<(String, Word)>);

impl Flags {
    /// Reads flags; `known` are those of the instruction.
    pub fn read(
        line: &Line,
        given: &[Flag],
        instruction: &str,
        known: &[(&'static str, Shape)],
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut flags = Self(Vec::new());
        for flag in given {
            match flags.value(line, flag, instruction, known) {
                Ok(value) => {
                    let value = Word::new(value, line.span(flag.range.clone()));
                    flags.0.push((flag.name.clone(), value));
                }
                Err(problem) => diagnostics.push(problem),
            }
        }
        flags
    }

    fn value(
        &self,
        line: &Line,
        flag: &Flag,
        instruction: &str,
        known: &[(&'static str, Shape)],
    ) -> Result<String, Diagnostic> {
        let name = flag.name.as_str();
        let span = line.span(flag.range.clone());
        let Some((_, shape)) = known.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(flag, line, instruction, known));
        };
        if *shape != Shape::Many && self.text(name).is_some() {
            let message = format!("`--{name}` is given twice");
            return Err(Diagnostic::error("duplicate-flag", span, message).help("keep one of them"));
        }
        match (shape, flag.value.as_deref()) {
            (Shape::Bool, None) => Ok("true".to_owned()),
            (Shape::Bool, Some(value)) if matches!(value.to_lowercase().as_str(), "true" | "false") => {
                Ok(value.to_lowercase())
            }
            (Shape::Bool, Some(value)) => {
                let message = format!("`--{name}` is true or false, not `{value}`");
                Err(Diagnostic::error("invalid-flag", span, message))
            }
            (_, Some(value)) => Ok(value.to_owned()),
            (_, None) => {
                let problem = Diagnostic::error("invalid-flag", span, format!("`--{name}` needs a value"));
                Err(problem.help(format!("write `--{name}=...`")))
            }
        }
    }

    /// The value of a flag that is given once; absent if it is empty.
    pub fn text(&self, name: &str) -> Option<Word> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    /// The value of a flag that is true or false, if it is given.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| *value == "true")
    }

    /// All values of a flag.
    pub fn many(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }
}

fn unknown(flag: &Flag, line: &Line, instruction: &str, known: &[(&'static str, Shape)]) -> Diagnostic {
    let message = format!("{instruction} has no flag `--{}`", flag.name);
    let problem = Diagnostic::error("unknown-flag", line.span(flag.range.clone()), message);
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    if let Some(close) = closest(&flag.name, &names) {
        return problem.help(format!("did you mean `--{close}`?"));
    }
    if names.is_empty() {
        return problem.help("write `--` before an argument that begins with two dashes");
    }
    problem.help(format!("its flags are --{}", names.join(", --")))
}
