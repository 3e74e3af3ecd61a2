//! Matching without backtracking.
//!
//! For every position of the path, from the last to the first, one bit per instruction says whether
//! a match can be reached from there. That answers the match, costs the product of the two lengths at
//! most, and settles every negation on the way, because what a negation asks about lies in a stratum
//! of its own that is settled first. Captures come from a walk over those bits that follows the
//! preferred branches and enters each (instruction, position) pair at most once.
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
        let chars: Vec<(usize, char)> = path.char_indices().collect();
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
        self.bits[position * self.width + pc / 64] >> (pc % 64) & 1 != 0
    }

    /// Computes the bits of one position, the strata in their order.
    fn settle(&mut self, position: usize) {
        let mut end = self.program.ops.len();
        for &start in self.program.cuts.iter().rev() {
            while self.sweep(start, end, position) {}
            end = start;
        }
    }

    /// Computes a stratum backwards; whether an instruction may have used a bit that changed later.
    fn sweep(&mut self, start: Pc, end: Pc, position: usize) -> bool {
        let mut stale = false;
        for pc in (start..end).rev() {
            let before = self.get(pc, position);
            let now = before || self.leads(pc, position);
            if now && !before {
                self.bits[position * self.width + pc / 64] |= 1 << (pc % 64);
                stale |= self.program.loops_to(pc);
            }
        }
        stale
    }

    fn leads(&self, pc: Pc, position: usize) -> bool {
        match &self.program.ops[pc] {
            Op::Take(set, next) => {
                let taken = self.chars.get(position).is_some_and(|(_, c)| self.syntax.takes(set, *c));
                taken && self.get(*next, position + 1)
            }
            Op::Split(first, second) => self.get(*first, position) || self.get(*second, position),
            Op::Jump(next) => self.get(*next, position),
            Op::Save(_) => self.get(pc + 1, position),
            Op::Unless(body) => !self.get(*body, position) && self.get(pc + 1, position),
            Op::End => position == self.chars.len(),
            Op::EndOfLine => matches!(self.chars[position..], [] | [(_, '\n')]),
            Op::Anywhere => true,
        }
    }

    /// The captured positions, if the path matches: slot `2g` is the start of group `g`, slot `2g + 1`
    /// its end.
    pub fn captures(&self) -> Option<Slots> {
        let mut slots: Slots = vec![None; 2 * (self.program.groups + 1)];
        let mut seen = vec![0u64; self.bits.len()];
        let mut waiting = vec![Step::Try(0, 0)];
        while let Some(step) = waiting.pop() {
            let (mut pc, mut position) = match step {
                Step::Restore(slot, old) => {
                    slots[slot] = old;
                    continue;
                }
                Step::Try(pc, position) => (pc, position),
            };
            while self.get(pc, position) && first_visit(&mut seen, position * self.width, pc) {
                match &self.program.ops[pc] {
                    Op::Take(_, next) => (pc, position) = (*next, position + 1),
                    Op::Split(first, second) => {
                        waiting.push(Step::Try(*second, position));
                        pc = *first;
                    }
                    Op::Jump(next) => pc = *next,
                    Op::Save(slot) => {
                        waiting.push(Step::Restore(*slot, slots[*slot]));
                        slots[*slot] = Some(self.offset(position));
                        pc += 1;
                    }
                    Op::Unless(_) => pc += 1,
                    Op::End | Op::EndOfLine | Op::Anywhere => return Some(slots),
                }
            }
        }
        None
    }

    fn offset(&self, position: usize) -> usize {
        self.chars.get(position).map_or(self.length, |(offset, _)| *offset)
    }
}

/// What the walk still has to do.
enum Step {
    Try(Pc, usize),
    Restore(usize, Option<usize>),
}

fn first_visit(seen: &mut [u64], base: usize, pc: Pc) -> bool {
    let word = &mut seen[base + pc / 64];
    let fresh = *word >> (pc % 64) & 1 == 0;
    *word |= 1 << (pc % 64);
    fresh
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
