//! From the tree of a pattern to instructions.
//!
//! The instructions are those of a backtracking matcher (split, jump, save), but nothing here
//! backtracks: [`super::reach`] first computes which instructions can lead to a match from where.

use super::Syntax;
use super::class::Class;
use super::parse::{Item, Repeat, Sequence};

/// Index of an instruction.
pub(super) type Pc = usize;

/// Which characters an instruction takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Set {
    /// This one.
    Char(char),
    /// Any but the separator.
    NotSeparator,
    /// Any.
    Any,
    /// Those of a class.
    Class(Class),
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    /// Take a character of the set and go on there.
    Take(Set, Pc),
    /// Go on here or there; the first is preferred.
    Split(Pc, Pc),
    /// Go on there.
    Jump(Pc),
    /// Remember the position in this slot.
    Save(usize),
    /// End of an iteration that began at the position in `slot`: go on at `head` for another one or at
    /// `exit`; after an iteration that took nothing, only at `exit`.
    Again {
        /// The slot of the iteration.
        slot: usize,
        /// Where the next iteration begins.
        head: Pc,
        /// What follows the loop.
        exit: Pc,
    },
    /// Go on unless the instructions from there on lead to a match.
    Unless(Pc),
    /// A match, at the end of the path only.
    End,
    /// A match, at the end of the path or before a newline that ends it.
    EndOfLine,
    /// A match, wherever.
    Anywhere,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Program {
    pub ops: Vec<Op>,
    /// Number of capturing groups.
    pub groups: usize,
    /// Number of slots: two for each group and for the whole, one for each loop.
    pub slots: usize,
    /// Where the instructions are cut into strata: those behind a cut never depend on those before
    /// it, so that what an `Unless` asks about is settled first. Ascending; begins with 0.
    pub cuts: Vec<Pc>,
    /// Instructions that something behind them goes back to.
    loop_heads: Vec<bool>,
}

impl Program {
    /// Whether groups repeat.
    pub fn has_loops(&self) -> bool {
        self.slots > 2 * (self.groups + 1)
    }

    /// Whether an instruction behind `pc` goes back to it.
    pub fn loops_to(&self, pc: Pc) -> bool {
        self.loop_heads[pc]
    }
}

/// Compiles a pattern.
pub(super) fn compile(pattern: &Sequence, syntax: Syntax) -> Program {
    let negation = match bounded(pattern) {
        true => Op::Anywhere,
        false if syntax.strict() => Op::EndOfLine,
        false => Op::End,
    };
    let mut compiler = Compiler {
        difference: !syntax.strict(),
        negation,
        ops: Vec::new(),
        cuts: vec![0],
        groups: 0,
        slots: 2 * (groups_in(std::slice::from_ref(pattern)) + 1),
        bodies: Vec::new(),
        nesting: 0,
    };
    compiler.sequence(pattern);
    compiler.ops.push(Op::End);
    compiler.drain_bodies();
    let Compiler { ops, mut cuts, groups, slots, .. } = compiler;
    cuts.sort_unstable();
    cuts.dedup();
    let loop_heads = loop_heads(&ops);
    Program { ops, groups, slots, cuts, loop_heads }
}

/// Marks the targets of jumps backwards that take no character.
fn loop_heads(ops: &[Op]) -> Vec<bool> {
    let mut heads = vec![false; ops.len()];
    for (pc, op) in ops.iter().enumerate() {
        let targets = match op {
            Op::Split(first, second) => [*first, *second],
            Op::Jump(next) => [*next, *next],
            Op::Again { head, exit, .. } => [*head, *exit],
            _ => continue,
        };
        for target in targets.into_iter().filter(|target| *target <= pc) {
            heads[target] = true;
        }
    }
    heads
}

/// An alternative list whose instructions are emitted behind everything else.
struct Body {
    unless: Pc,
    alternatives: Vec<Sequence>,
    /// Number of the first group inside.
    first_group: usize,
}

struct Compiler {
    /// Whether a negation refuses what makes the whole pattern match (see [`super::Compat`]).
    difference: bool,
    /// How far the alternatives of other negations have to reach.
    negation: Op,
    ops: Vec<Op>,
    cuts: Vec<Pc>,
    groups: usize,
    slots: usize,
    bodies: Vec<Body>,
    /// How many repetitions and negations are around.
    nesting: usize,
}

impl Compiler {
    fn sequence(&mut self, items: &Sequence) {
        for item in items {
            self.item(item);
        }
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Text(text) => text.chars().for_each(|c| self.take(Set::Char(c))),
            Item::Single => self.take(Set::NotSeparator),
            Item::Star => self.run(Set::NotSeparator),
            Item::Super => self.run(Set::Any),
            Item::Class(class) => self.take(Set::Class(class.clone())),
            Item::Braces(alternatives) => self.alternatives(alternatives),
            Item::Group(repeat, alternatives) => self.group(*repeat, alternatives),
            Item::Not(alternatives) => self.not(alternatives),
        }
    }

    fn take(&mut self, set: Set) {
        let next = self.ops.len() + 1;
        self.ops.push(Op::Take(set, next));
    }

    /// As many as possible of the set.
    fn run(&mut self, set: Set) {
        let start = self.ops.len();
        self.ops.extend([Op::Split(start + 1, start + 2), Op::Take(set, start)]);
    }

    fn alternatives(&mut self, alternatives: &[Sequence]) {
        let mut exits = Vec::new();
        for (index, alternative) in alternatives.iter().enumerate() {
            let split = (index + 1 < alternatives.len()).then(|| self.reserve());
            self.sequence(alternative);
            if let Some(split) = split {
                exits.push(self.reserve());
                self.ops[split] = Op::Split(split + 1, self.ops.len());
            }
        }
        for exit in exits {
            self.ops[exit] = Op::Jump(self.ops.len());
        }
    }

    /// A place for an instruction that is known later.
    fn reserve(&mut self) -> Pc {
        self.ops.push(Op::Anywhere);
        self.ops.len() - 1
    }

    fn group(&mut self, repeat: Repeat, alternatives: &[Sequence]) {
        self.groups += 1;
        let group = self.groups;
        self.ops.push(Op::Save(2 * group));
        match repeat {
            Repeat::Once => self.alternatives(alternatives),
            Repeat::AtMostOnce => self.skippable(|compiler| compiler.alternatives(alternatives)),
            Repeat::Any => self.skippable(|compiler| compiler.repeated(alternatives)),
            Repeat::AtLeastOnce => self.repeated(alternatives),
        }
        self.ops.push(Op::Save(2 * group + 1));
    }

    /// What `emit` emits, or nothing.
    fn skippable(&mut self, emit: impl FnOnce(&mut Self)) {
        let split = self.reserve();
        emit(self);
        self.ops[split] = Op::Split(split + 1, self.ops.len());
    }

    /// The alternatives, as often as possible but at least once.
    fn repeated(&mut self, alternatives: &[Sequence]) {
        let (slot, head) = (self.slots, self.ops.len());
        self.slots += 1;
        self.nesting += 1;
        self.ops.push(Op::Save(slot));
        self.alternatives(alternatives);
        self.nesting -= 1;
        self.ops.push(Op::Again { slot, head, exit: self.ops.len() + 1 });
    }

    fn not(&mut self, alternatives: &[Sequence]) {
        self.groups += 1;
        let group = self.groups;
        let first_group = self.groups + 1;
        self.groups += groups_in(alternatives);
        self.ops.push(Op::Save(2 * group));
        let unless = self.reserve();
        // Inside a repetition or another negation "the whole pattern" would refer to itself.
        if self.difference && self.nesting == 0 {
            self.emit_difference(unless, alternatives, first_group);
        } else {
            self.bodies.push(Body { unless, alternatives: alternatives.to_vec(), first_group });
            self.run(Set::NotSeparator);
        }
        self.ops.push(Op::Save(2 * group + 1));
    }

    /// `unless` the alternatives followed by the rest of the pattern; they are emitted in place.
    fn emit_difference(&mut self, unless: Pc, alternatives: &[Sequence], first_group: usize) {
        self.cuts.push(unless + 1);
        let skip = self.reserve();
        self.ops[unless] = Op::Unless(self.ops.len());
        self.nesting += 1;
        let groups = std::mem::replace(&mut self.groups, first_group - 1);
        self.alternatives(alternatives);
        self.groups = groups;
        self.nesting -= 1;
        let over = self.reserve();
        self.ops[skip] = Op::Jump(self.ops.len());
        self.run(Set::NotSeparator);
        self.ops[over] = Op::Jump(self.ops.len());
    }

    /// Emits the waiting bodies, and those found inside them.
    fn drain_bodies(&mut self) {
        self.nesting += 1;
        while let Some(body) = self.bodies.pop() {
            let start = self.ops.len();
            self.cuts.push(start);
            self.ops[body.unless] = Op::Unless(start);
            let groups = std::mem::replace(&mut self.groups, body.first_group - 1);
            self.alternatives(&body.alternatives);
            self.groups = groups;
            self.ops.push(self.negation.clone());
        }
    }
}

/// Number of capturing groups in these alternatives.
pub(super) fn groups_in(alternatives: &[Sequence]) -> usize {
    let count = |item: &Item| match item {
        Item::Braces(inner) => groups_in(inner),
        Item::Group(_, inner) | Item::Not(inner) => 1 + groups_in(inner),
        _ => 0,
    };
    alternatives.iter().flatten().map(count).sum()
}

/// Whether literal text, `*` or `**` follows the first negation that closes.
///
/// This decides for all negations of the pattern whether an alternative is a forbidden beginning or
/// the forbidden rest. "Closes" is meant: of nested negations the innermost first one counts.
pub(super) fn bounded(pattern: &Sequence) -> bool {
    let mut search = Search::Before;
    for item in pattern {
        search.item(item);
    }
    search == Search::Bounded
}

#[derive(PartialEq, Clone, Copy)]
enum Search {
    /// No negation has closed yet.
    Before,
    /// One has, and only groups, classes and `?` followed.
    After,
    /// Text or a star followed.
    Bounded,
}

impl Search {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Text(_) | Item::Star | Item::Super => {
                if *self == Self::After {
                    *self = Self::Bounded;
                }
            }
            Item::Single | Item::Class(_) => {}
            Item::Braces(inner) | Item::Group(_, inner) => self.alternatives(inner),
            Item::Not(inner) => {
                self.alternatives(inner);
                if *self == Self::Before {
                    *self = Self::After;
                }
            }
        }
    }

    fn alternatives(&mut self, alternatives: &[Sequence]) {
        for item in alternatives.iter().flatten() {
            self.item(item);
        }
    }
}
