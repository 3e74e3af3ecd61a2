//! The patterns of `${v#p}` and its kin: `*` any run and `?` any character, of one line.

use super::InvalidWord;

/// Most steps (characters of the value times parts of the pattern) that one operator may take.
const MAX_STEPS: usize = 1 << 26;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Char(char),
    One,
    Run,
}

#[derive(Debug)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, InvalidWord> {
        let invalid = || InvalidWord::InvalidPattern(text.chars().take(100).collect());
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' if parts.last() == Some(&Part::Run) => continue,
                '*' => Part::Run,
                '?' => Part::One,
                // These are escaped for the substitution's sake and are no part of the pattern's escapes.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => Part::Char(c),
                    _ => return Err(invalid()),
                },
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }

    /// The value without the match at its front.
    pub fn cut_front(&self, value: &str, longest: bool) -> Result<String, InvalidWord> {
        let chars: Vec<char> = value.chars().collect();
        let cut = find(&self.0, &chars, true, longest)?.map_or(0, |(_, end)| end);
        Ok(chars[cut..].iter().collect())
    }

    /// The value without the match at its end.
    pub fn cut_end(&self, value: &str, longest: bool) -> Result<String, InvalidWord> {
        let chars: Vec<char> = value.chars().rev().collect();
        let parts: Vec<Part> = self.0.iter().rev().copied().collect();
        let cut = find(&parts, &chars, true, longest)?.map_or(0, |(_, end)| end);
        Ok(chars[cut..].iter().rev().collect())
    }

    /// The value with the first or every longest match replaced. An empty match counts, except directly
    /// after another match.
    pub fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, InvalidWord> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        let mut last_end = None;
        while let Some((start, end)) = find(&self.0, &chars[at..], false, true)? {
            let (start, end) = (at + start, at + end);
            out.extend(&chars[at..start]);
            if start != end || last_end != Some(start) {
                out.push_str(replacement);
                last_end = Some(end);
            }
            if out.len() > super::MAX_SUBSTITUTED {
                return Err(InvalidWord::TooLarge);
            }
            at = end;
            if start == end {
                out.extend(chars.get(at));
                at += 1;
            }
            if !all || at > chars.len() {
                break;
            }
        }
        out.extend(chars.get(at..).unwrap_or_default());
        Ok(out)
    }
}

/// The leftmost match, shortest or longest: where it begins and ends.
///
/// One pass over the value; each part of the pattern remembers the leftmost beginning of a match that
/// has come so far.
fn find(
    parts: &[Part],
    value: &[char],
    at_front: bool,
    longest: bool,
) -> Result<Option<(usize, usize)>, InvalidWord> {
    if (value.len() + 1).saturating_mul(parts.len() + 1) > MAX_STEPS {
        return Err(InvalidWord::TooLarge);
    }
    let mut best: Option<(usize, usize)> = None;
    let mut states: Vec<Option<usize>> = vec![None; parts.len() + 1];
    for at in 0..=value.len() {
        let begins = if at_front { at == 0 } else { best.is_none() };
        if begins {
            states[0] = Some(states[0].map_or(at, |start| start.min(at)));
        }
        for index in 0..parts.len() {
            if let (Part::Run, Some(start)) = (parts[index], states[index]) {
                states[index + 1] = Some(states[index + 1].map_or(start, |other| other.min(start)));
            }
        }
        if let Some(start) = states[parts.len()] {
            if best.is_none_or(|(first, _)| start <= first) {
                best = Some((start, at));
            }
            if !longest {
                return Ok(best);
            }
        }
        let Some(&c) = value.get(at) else { break };
        if !step(parts, &mut states, c, best.map(|(start, _)| start)) && (at_front || best.is_some()) {
            break;
        }
    }
    Ok(best)
}

/// Takes one character; matches that begin after `limit` are given up. `false` if none is left.
fn step(parts: &[Part], states: &mut [Option<usize>], c: char, limit: Option<usize>) -> bool {
    let mut alive = false;
    let mut carried: Option<usize> = None;
    for (index, state) in states.iter_mut().enumerate() {
        let here = state.filter(|start| limit.is_none_or(|limit| *start <= limit));
        let part = parts.get(index).copied();
        let stays = here.filter(|_| part == Some(Part::Run) && c != '\n');
        let moves = here.filter(|_| match part {
            Some(Part::Char(wanted)) => wanted == c,
            Some(Part::One) => c != '\n',
            _ => false,
        });
        *state = match (stays, carried) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        alive |= state.is_some();
        carried = moves;
    }
    alive
}
