//! `--chmod`: a mode in octal, or changes to modes as `chmod` takes them.

use std::str::FromStr;

/// How permission bits are changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod(Change);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// One change, such as `go-w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clause {
    /// Bits of those who are meant.
    who: u32,
    op: Op,
    /// Bits for everybody; the mask of `who` chooses among them.
    bits: u32,
    /// `X`: execution where it is a directory or somebody may execute already.
    search: bool,
    /// `g=u`: takes over the bits of this class (shift).
    copy: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

/// Text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode; write up to four octal digits such as 0755, or changes such as u=rwX,go=rX")]
pub struct InvalidMode(String);

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl FromStr for Chmod {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let invalid = || InvalidMode(text.escape_debug().take(100).collect());
        if text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) && !text.is_empty() {
            let mode = u32::from_str_radix(text, 8).map_err(|_| invalid())?;
            return if mode <= 0o7777 { Ok(Self(Change::Octal(mode))) } else { Err(invalid()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse(part, &mut clauses).ok_or_else(invalid)?;
        }
        Ok(Self(Change::Symbolic(clauses)))
    }
}

/// Reads `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`.
fn parse(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let mut chars = part.chars().peekable();
    let mut who = 0;
    while let Some(class) = chars.next_if(|c| matches!(c, 'u' | 'g' | 'o' | 'a')) {
        who |= match class {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            _ => USER | GROUP | OTHER,
        };
    }
    if who == 0 {
        who = USER | GROUP | OTHER;
    }
    chars.peek()?;
    while let Some(op) = chars.next() {
        let op = match op {
            '+' => Op::Add,
            '-' => Op::Remove,
            '=' => Op::Set,
            _ => return None,
        };
        let mut clause = Clause { who, op, bits: 0, search: false, copy: None };
        match chars.next_if(|c| matches!(c, 'u' | 'g' | 'o')) {
            Some('u') => clause.copy = Some(6),
            Some('g') => clause.copy = Some(3),
            Some(_) => clause.copy = Some(0),
            None => {
                while let Some(bit) = chars.next_if(|c| "rwxXst".contains(*c)) {
                    match bit {
                        'r' => clause.bits |= 0o444,
                        'w' => clause.bits |= 0o222,
                        'x' => clause.bits |= 0o111,
                        's' => clause.bits |= 0o6000,
                        't' => clause.bits |= 0o1000,
                        _ => clause.search = true,
                    }
                }
            }
        }
        clauses.push(clause);
    }
    Some(())
}

impl Chmod {
    /// The permission bits that become of `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match &self.0 {
            Change::Octal(mode) => *mode,
            Change::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = self.bits;
        if self.search && (is_dir || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copy {
            bits |= (mode >> shift & 0o7) * 0o111;
        }
        let bits = bits & self.who;
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            // Set-id bits of directories stay unless named, as `chmod` does.
            Op::Set => mode & !(self.who & if is_dir { 0o1777 } else { 0o7777 }) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (change, mode, is_dir, expected) in [
            ("0755", 0o600, false, 0o755),
            ("4711", 0o600, false, 0o4711),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o755, false, 0o700),
            ("a=r", 0o755, false, 0o444),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("o=", 0o777, false, 0o770),
            ("u+w-x", 0o555, false, 0o655),
        ] {
            assert_eq!(
                change.parse::<Chmod>().unwrap().apply(mode, is_dir),
                expected,
                "{change} on {mode:o}"
            );
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "77777", "u", "rwx", "u=q", "u+x,", "u++x,y", "-1o"] {
            assert!(text.parse::<Chmod>().is_err(), "{text}");
        }
    }
}
