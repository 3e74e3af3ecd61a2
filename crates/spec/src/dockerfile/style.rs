//! Checks that look at the file as a whole.

use super::ast::Dockerfile;
use super::lint::{Check, Lint, rule};
use crate::diagnostic::Diagnostics;
use crate::source::Span;

/// Names that mean something else in `FROM` and `--from`.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(dockerfile: &Dockerfile, diagnostics: &mut Diagnostics) {
    let mut lint = Lint { file: &dockerfile.check, diagnostics };
    stage_names(dockerfile, &mut lint);
    keyword_casing(dockerfile, &mut lint);
}

fn stage_names(dockerfile: &Dockerfile, lint: &mut Lint<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for stage in &dockerfile.stages {
        let Some(name) = &stage.name else { continue };
        if RESERVED.contains(&name.as_str()) {
            let message = format!("the stage name `{}` is reserved", name.value);
            lint.report(rule::RESERVED_STAGE_NAME, &Check::default(), name.span, message);
        }
        if seen.contains(&name.as_str()) {
            let message = format!("two stages are named `{}`", name.value);
            lint.report(rule::DUPLICATE_STAGE_NAME, &Check::default(), name.span, message);
        }
        seen.push(name);
    }
}

/// All instructions should be written in the case of most.
fn keyword_casing(dockerfile: &Dockerfile, lint: &mut Lint<'_>) {
    let keywords: Vec<(&str, Span)> = dockerfile
        .stages
        .iter()
        .flat_map(|stage| {
            let own = std::iter::once(&stage.keyword);
            own.chain(stage.instructions.iter().map(|instruction| &instruction.keyword))
        })
        .map(|keyword| (keyword.as_str(), keyword.span))
        .collect();
    let lower = keywords.iter().filter(|(word, _)| *word == word.to_lowercase()).count();
    let upper = keywords.iter().filter(|(word, _)| *word == word.to_uppercase()).count();
    for (word, span) in keywords {
        let (wanted, case) = if lower > upper {
            (word.to_lowercase(), "lower case")
        } else {
            (word.to_uppercase(), "upper case")
        };
        if word != wanted {
            let message = format!("`{word}` is not in {case} like most instructions");
            lint.report(rule::CONSISTENT_INSTRUCTION_CASING, &Check::default(), span, message);
        }
    }
}
