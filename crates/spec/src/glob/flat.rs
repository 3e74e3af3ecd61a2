//! Patterns without groups and braces, matched one machine word per character.
//!
//! Bit `i` of the state says that the first `i` elements are matched; `*` and `**` are no elements
//! but let a bit stay where it is. One path character costs a shift and three bit operations, and
//! the state after a directory is all a tree walk has to keep.

use super::Syntax;
use super::parse::{Item, Sequence};
use super::program::Set;

/// Elements a pattern may have so that the state fits a word.
const MOST: usize = 63;

/// What one character does to the state.
#[derive(Debug, Clone, Copy, Default)]
struct Moves {
    /// Bits that go on to the next element.
    forward: u64,
    /// Bits that may also stay.
    stay: u64,
}

/// A flat pattern.
#[derive(Debug, Clone)]
pub(super) struct Flat {
    syntax: Syntax,
    elements: Vec<Set>,
    /// Bits with a `*` before the next element.
    stars: u64,
    /// Bits with a `**` before the next element.
    supers: u64,
    ascii: Box<[Moves; 128]>,
}

/// Which elements are matched so far; 0 when no continuation can match.
pub(super) type State = u64;

impl Flat {
    /// The state before the first character.
    pub const START: State = 1;

    /// Compiles a pattern, if it is flat and short enough.
    pub fn compile(pattern: &Sequence, syntax: Syntax) -> Option<Self> {
        let (mut elements, mut stars, mut supers) = (Vec::new(), 0u64, 0u64);
        for item in pattern {
            let here = 1u64.checked_shl(u32::try_from(elements.len()).ok()?)?;
            match item {
                Item::Text(text) => elements.extend(text.chars().map(Set::Char)),
                Item::Single => elements.push(Set::NotSeparator),
                Item::Class(class) => elements.push(Set::Class(class.clone())),
                Item::Star => stars |= here,
                Item::Super => supers |= here,
                Item::Braces(_) | Item::Group(..) | Item::Not(_) => return None,
            }
            if elements.len() > MOST {
                return None;
            }
        }
        let mut flat = Self { syntax, elements, stars, supers, ascii: Box::new([Moves::default(); 128]) };
        for code in 0..128u8 {
            flat.ascii[usize::from(code)] = flat.moves(char::from(code));
        }
        Some(flat)
    }

    fn moves(&self, c: char) -> Moves {
        let taken = |(index, set): (usize, &Set)| u64::from(self.syntax.takes(set, c)) << index;
        let stars = if self.syntax.takes(&Set::NotSeparator, c) { self.stars } else { 0 };
        let supers = if self.syntax.takes(&Set::Any, c) { self.supers } else { 0 };
        let forward = self.elements.iter().enumerate().map(taken).fold(0, std::ops::BitOr::bitor);
        Moves { forward, stay: stars | supers }
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

    /// Whether the pattern is through.
    pub fn accepts(&self, state: State) -> bool {
        state >> self.elements.len() & 1 != 0
    }
}

fn step(state: State, moves: Moves) -> State {
    (state & moves.forward) << 1 | state & moves.stay
}
