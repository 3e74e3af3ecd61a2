//! `COPY` and `ADD`.

use super::{Parser, Parts};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Transfer, Word};
use crate::dockerfile::flags::Shape;
use crate::dockerfile::heredoc;
use crate::dockerfile::words;

const COPY_FLAGS: [(&str, Shape); 6] = [
    ("from", Shape::Text),
    ("chown", Shape::Text),
    ("chmod", Shape::Text),
    ("link", Shape::Bool),
    ("parents", Shape::Bool),
    ("exclude", Shape::Many),
];
const ADD_FLAGS: [(&str, Shape); 7] = [
    ("chown", Shape::Text),
    ("chmod", Shape::Text),
    ("link", Shape::Bool),
    ("exclude", Shape::Many),
    ("checksum", Shape::Text),
    ("keep-git-dir", Shape::Bool),
    ("unpack", Shape::Bool),
];

impl Parser {
    pub(super) fn transfer(&mut self, parts: &Parts<'_>) -> Option<Transfer> {
        let known = if parts.name == "ADD" { &ADD_FLAGS[..] } else { &COPY_FLAGS[..] };
        let flags = self.flags(parts, known);
        let words = match self.json(parts)? {
            Some(words) => words,
            None => words::split_blanks(parts.line, parts.args.clone()),
        };
        let (dest, sources) = self.destination(parts, words)?;
        let (sources, heredocs) = Self::sort_heredocs(parts, sources);
        let from = flags.text("from");
        if let Some(from) = from.as_ref().filter(|from| from.contains('$')) {
            let problem = Diagnostic::error("invalid-flag", from.span, "`--from` is not expanded");
            self.diagnostics.push(problem.help("give the image a stage of its own: FROM $IMAGE AS name"));
        }
        Some(Transfer {
            from,
            sources,
            heredocs,
            dest,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            exclude: flags.many("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        })
    }

    /// The last word is the destination; at least one comes before it.
    fn destination(&mut self, parts: &Parts<'_>, mut words: Vec<Word>) -> Option<(Word, Vec<Word>)> {
        let dest = words.pop().filter(|_| !words.is_empty());
        let Some(dest) = dest else {
            let message = format!("{} needs at least a source and a destination", parts.name);
            self.error("missing-argument", parts.span, message);
            return None;
        };
        if heredoc::announced_by(&dest).is_some() {
            let message = format!("the destination of {} cannot be a here-document", parts.name);
            self.error("invalid-destination", dest.span, message);
            return None;
        }
        Some((dest, words))
    }
}
