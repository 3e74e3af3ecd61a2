//! Patterns without negation, matched one machine word per character.
//!
//! A pattern is unfolded into alternatives without groups: `/{a,b}/*` into `/a/*` and `/b/*`. Each
//! takes a stretch of bits in one word; bit `i` of a stretch says that the first `i` elements of its
//! alternative are matched. A `*` is no element but lets a bit stay where it is. One path character
//! costs a shift and three bit operations, and the state after a directory is all a tree walk has to
//! keep. Patterns that unfold too far or repeat longer groups are left to [`super::reach`].

use super::Syntax;
use super::parse::{Item, Repeat, Sequence};
use super::program::Set;

/// Which elements of which alternatives are matched so far; 0 when no continuation can match.
pub(super) type State = u64;

/// Bits of a state.
const BITS: usize = 64;

/// What one character does to the state.
#[derive(Debug, Clone, Copy, Default)]
struct Moves {
    /// Bits that go on to the next element.
    forward: State,
    /// Bits that may also stay.
    stay: State,
}

/// A pattern as bits.
#[derive(Debug, Clone)]
pub(super) struct Flat {
    syntax: Syntax,
    /// The set that takes a bit to the next one, with the place of the bit.
    elements: Vec<(usize, Set)>,
    /// The set that lets a bit stay.
    loops: Vec<(usize, Set)>,
    start: State,
    accept: State,
    ascii: Box<[Moves; 128]>,
}

impl Flat {
    /// Compiles a pattern, if it can be unfolded into a word.
    pub fn compile(pattern: &Sequence, syntax: Syntax) -> Option<Self> {
        let mut flat = Self {
            syntax,
            elements: Vec::new(),
            loops: Vec::new(),
            start: 0,
            accept: 0,
            ascii: Box::new([Moves::default(); 128]),
        };
        let mut bits = 0;
        for alternative in unfold(pattern)? {
            let takes = alternative.iter().filter(|step| matches!(step, Step::Take(_))).count();
            if bits + takes >= BITS {
                return None;
            }
            flat.start |= 1 << bits;
            for step in alternative {
                match step {
                    Step::Take(set) => {
                        flat.elements.push((bits, set));
                        bits += 1;
                    }
                    Step::Loop(set) if flat.may_loop(bits, &set) => flat.loops.push((bits, set)),
                    Step::Loop(_) => return None,
                }
            }
            flat.accept |= 1 << bits;
            bits += 1;
        }
        for code in 0..128u8 {
            flat.ascii[usize::from(code)] = flat.moves(char::from(code));
        }
        Some(flat)
    }

    /// Whether a bit may get this loop. Two loops of one bit take turns, which is right only when one
    /// of them takes all the other does.
    fn may_loop(&self, bit: usize, set: &Set) -> bool {
        let plain = |set: &Set| matches!(set, Set::NotSeparator | Set::Any) && !self.syntax.strict();
        let fits = |other: &Set| other == set || plain(other) && plain(set);
        self.loops.iter().filter(|(at, _)| *at == bit).all(|(_, other)| fits(other))
    }

    /// The state before the first character.
    pub fn start(&self) -> State {
        self.start
    }

    fn moves(&self, c: char) -> Moves {
        let bits = |sets: &[(usize, Set)]| {
            let taken = sets.iter().filter(|(_, set)| self.syntax.takes(set, c));
            taken.fold(0, |bits, (bit, _)| bits | 1 << bit)
        };
        Moves { forward: bits(&self.elements), stay: bits(&self.loops) }
    }

    /// The state after `text`.
    pub fn advance(&self, mut state: State, text: &str) -> State {
        if text.is_ascii() {
            for &byte in text.as_bytes() {
                state = step(state, self.ascii[usize::from(byte & 127)]);
            }
            return state;
        }
        for c in text.chars() {
            let moves = u8::try_from(c).ok().filter(u8::is_ascii);
            let moves = moves.map_or_else(|| self.moves(c), |byte| self.ascii[usize::from(byte)]);
            state = step(state, moves);
        }
        state
    }

    /// Whether an alternative is through.
    pub fn accepts(&self, state: State) -> bool {
        state & self.accept != 0
    }
}

/// A bit that is through has no element, so it never runs into the next stretch.
fn step(state: State, moves: Moves) -> State {
    (state & moves.forward) << 1 | state & moves.stay
}

/// A step of an alternative.
#[derive(Debug, Clone)]
enum Step {
    /// One character of the set.
    Take(Set),
    /// Any number of characters of the set.
    Loop(Set),
}

/// The alternatives a pattern stands for, if they can fit a word.
fn unfold(pattern: &[Item]) -> Option<Vec<Vec<Step>>> {
    let mut out = vec![Vec::new()];
    for item in pattern {
        let choices = match item {
            Item::Text(text) => vec![text.chars().map(|c| Step::Take(Set::Char(c))).collect()],
            Item::Single => vec![vec![Step::Take(Set::NotSeparator)]],
            Item::Class(class) => vec![vec![Step::Take(Set::Class(class.clone()))]],
            Item::Star => vec![vec![Step::Loop(Set::NotSeparator)]],
            Item::Super => vec![vec![Step::Loop(Set::Any)]],
            Item::Braces(inner) | Item::Group(Repeat::Once, inner) => unfold_all(inner)?,
            Item::Group(Repeat::AtMostOnce, inner) => {
                let mut choices = unfold_all(inner)?;
                choices.push(Vec::new());
                choices
            }
            Item::Group(Repeat::Any, inner) => vec![vec![Step::Loop(single(inner)?)]],
            Item::Group(Repeat::AtLeastOnce, inner) => {
                let set = single(inner)?;
                vec![vec![Step::Take(set.clone()), Step::Loop(set)]]
            }
            Item::Not(_) => return None,
        };
        out = product(&out, &choices)?;
    }
    Some(out)
}

fn unfold_all(alternatives: &[Sequence]) -> Option<Vec<Vec<Step>>> {
    let mut out = Vec::new();
    for alternative in alternatives {
        out.append(&mut unfold(alternative)?);
        if out.len() > BITS {
            return None;
        }
    }
    Some(out)
}

/// Every beginning with every continuation.
fn product(beginnings: &[Vec<Step>], continuations: &[Vec<Step>]) -> Option<Vec<Vec<Step>>> {
    if beginnings.len() * continuations.len() > BITS {
        return None;
    }
    let joined = |beginning: &Vec<Step>, continuation: &Vec<Step>| {
        let mut whole = beginning.clone();
        whole.extend_from_slice(continuation);
        (whole.len() <= 2 * BITS).then_some(whole)
    };
    let pairs = beginnings.iter().flat_map(|first| continuations.iter().map(move |second| (first, second)));
    pairs.map(|(first, second)| joined(first, second)).collect()
}

/// The set of a group that is a single character.
fn single(alternatives: &[Sequence]) -> Option<Set> {
    let [alternative] = alternatives else { return None };
    match alternative.as_slice() {
        [Item::Single] => Some(Set::NotSeparator),
        [Item::Class(class)] => Some(Set::Class(class.clone())),
        [Item::Text(text)] => {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.next().is_none()).map(Set::Char)
        }
        _ => None,
    }
}
