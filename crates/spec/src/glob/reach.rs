//! Matching without backtracking.
//!
//! For every position of the path, from the last to the first, one bit per instruction says whether
//! a match can be reached from there. That answers the match, costs the product of the two lengths at
//! most, and settles every negation on the way, because what a negation asks about lies in a stratum
//! of its own that is settled first. Captures come from a walk over those bits that follows the
//! preferred branches.
//!
//! The alternative, a regular expression with look-ahead, can take exponential time.

use super::Syntax;
use super::program::{Op, Pc, Program, Set};

/// The byte positions a group was captured at; `None` when it took no part.
pub(super) type Slots = Vec<Option<usize>>;

/// The bits for one path.
pub(super) struct Reach<'p> {
    program: &'p Program,
    syntax: Syntax,
    /// Each character with its byte offset.
    chars: Vec<(usize, char)>,
    length: usize,
    /// Words per position.
    width: usize,
    bits: Vec<u64>,
}

impl<'p> Reach<'p> {
    /// Computes the bits for `path`.
    pub fn of(program: &'p Program, syntax: Syntax, path: &str) -> Self {
        let mut chars = Vec::with_capacity(path.len());
        chars.extend(path.char_indices());
        let width = program.ops.len().div_ceil(64);
        let bits = vec![0; width * (chars.len() + 1)];
        let mut reach = Self { program, syntax, chars, length: path.len(), width, bits };
        for position in (0..=reach.chars.len()).rev() {
            reach.settle(position);
        }
        reach
    }

    /// Whether the whole path matches.
    pub fn is_match(&self) -> bool {
        self.get(0, 0)
    }

    fn get(&self, pc: Pc, position: usize) -> bool {
        bit(&self.bits[position * self.width..], pc)
    }

    /// Computes the bits of one position, the strata in their order.
    fn settle(&mut self, position: usize) {
        let (rows, later) = self.bits.split_at_mut((position + 1) * self.width);
        let mut here = Here {
            program: self.program,
            syntax: self.syntax,
            rest: &self.chars[position..],
            row: &mut rows[position * self.width..],
            next: later.get(..self.width).unwrap_or(&[]),
        };
        let mut end = self.program.ops.len();
        for &start in self.program.cuts.iter().rev() {
            while here.sweep(start, end) {}
            end = start;
        }
    }

    /// The captured positions, if the path matches: slot `2g` is the start of group `g`, slot `2g + 1`
    /// its end. Slots behind those of the last group are the walk's own.
    ///
    /// Where the bits say yes only loops can lead astray: an iteration that took nothing ends its loop.
    /// With loops, then, branches that failed are remembered, and none is tried twice; without them the
    /// first way is the right one.
    pub fn captures(&self) -> Option<Slots> {
        let mut slots: Slots = vec![None; self.program.slots];
        let may_fail = self.program.has_loops();
        let mut failed = vec![0u64; if may_fail { self.bits.len() } else { 0 }];
        let mut waiting = vec![Step::Try(0, 0)];
        while let Some(step) = waiting.pop() {
            let (mut pc, mut position) = match step {
                Step::Try(pc, position) => (pc, position),
                Step::Restore(slot, old) => {
                    slots[slot] = old;
                    continue;
                }
                Step::Fail(pc, position) => {
                    failed[position * self.width + pc / 64] |= 1 << (pc % 64);
                    continue;
                }
            };
            while self.get(pc, position) {
                let (first, second) = match &self.program.ops[pc] {
                    Op::End | Op::EndOfLine | Op::Anywhere => return Some(slots),
                    Op::Take(_, next) => {
                        (pc, position) = (*next, position + 1);
                        continue;
                    }
                    Op::Jump(next) => (*next, None),
                    Op::Unless(_) => (pc + 1, None),
                    Op::Save(slot) => {
                        let old = slots[*slot].replace(self.offset(position));
                        if may_fail {
                            waiting.push(Step::Restore(*slot, old));
                        }
                        (pc + 1, None)
                    }
                    Op::Again { slot, exit, .. } if slots[*slot] == Some(self.offset(position)) => {
                        (*exit, None)
                    }
                    Op::Again { head, exit, .. } => (*head, Some(*exit)),
                    Op::Split(first, second) if self.get(*first, position) => (*first, Some(*second)),
                    Op::Split(_, second) => (*second, None),
                };
                if let (true, Some(second)) = (may_fail, second) {
                    if bit(&failed[position * self.width..], pc) {
                        break;
                    }
                    waiting.extend([Step::Fail(pc, position), Step::Try(second, position)]);
                }
                pc = first;
            }
        }
        None
    }

    fn offset(&self, position: usize) -> usize {
        self.chars.get(position).map_or(self.length, |(offset, _)| *offset)
    }
}

/// The computation of one position.
struct Here<'r> {
    program: &'r Program,
    syntax: Syntax,
    /// The characters from here on.
    rest: &'r [(usize, char)],
    /// The bits of this position.
    row: &'r mut [u64],
    /// The bits of the next one; none at the end.
    next: &'r [u64],
}

impl Here<'_> {
    /// Computes a stratum backwards; whether an instruction may have used a bit that changed later.
    fn sweep(&mut self, start: Pc, end: Pc) -> bool {
        let mut stale = false;
        for pc in (start..end).rev() {
            if !bit(self.row, pc) && self.leads(pc) {
                self.row[pc / 64] |= 1 << (pc % 64);
                stale |= self.program.loops_to(pc);
            }
        }
        stale
    }

    fn leads(&self, pc: Pc) -> bool {
        match &self.program.ops[pc] {
            Op::Take(set, next) => match self.rest {
                [(_, c), ..] => bit(self.next, *next) && self.syntax.takes(set, *c),
                [] => false,
            },
            Op::Split(first, second) => bit(self.row, *first) || bit(self.row, *second),
            Op::Jump(next) => bit(self.row, *next),
            Op::Again { head, exit, .. } => bit(self.row, *head) || bit(self.row, *exit),
            Op::Save(_) => bit(self.row, pc + 1),
            Op::Unless(body) => !bit(self.row, *body) && bit(self.row, pc + 1),
            Op::End => self.rest.is_empty(),
            Op::EndOfLine => matches!(self.rest, [] | [(_, '\n')]),
            Op::Anywhere => true,
        }
    }
}

fn bit(row: &[u64], pc: Pc) -> bool {
    row[pc / 64] >> (pc % 64) & 1 != 0
}

/// What the walk still has to do.
enum Step {
    /// Go on here.
    Try(Pc, usize),
    /// Forget a position.
    Restore(usize, Option<usize>),
    /// Both ways from here have failed.
    Fail(Pc, usize),
}

impl Syntax {
    /// Whether a character belongs to the set.
    pub(super) fn takes(self, set: &Set, c: char) -> bool {
        let separates = self.separator == Some(c);
        // The dot of the original's regular expressions stops at newlines.
        let dot = !(self.strict() && c == '\n');
        match set {
            Set::Char(expected) => *expected == c,
            Set::NotSeparator if self.separator.is_some() => !separates,
            Set::NotSeparator | Set::Any => dot,
            Set::Class(class) => {
                let kept_out = separates && class.is_negated() && !self.strict();
                class.contains(c) && !kept_out
            }
        }
    }
}
