//! `--chmod`: octal, or symbolic as chmod(1) has it.

/// New permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    text: String,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Set(u32),
    Clauses(Vec<Clause>),
}

/// One operator with what stands left and right of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clause {
    /// The bits that may change.
    who: u32,
    operator: char,
    /// Bits for every class at once, such as 0444 for `r`.
    bits: u32,
    /// Whether execution is meant for what is executable already (`X`).
    executable: bool,
    /// The class whose bits are copied.
    copy: Option<char>,
}

impl Chmod {
    /// Reads a mode.
    ///
    /// # Errors
    /// What is wrong, as a fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let change = if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = super::go::parse_u32(text, 8).filter(|bits| *bits <= 0o7777);
            Change::Set(bits.ok_or_else(|| format!("`{text}` is no octal mode from 0 to 7777"))?)
        } else {
            let clauses = text.split(',').map(clauses).collect::<Option<Vec<_>>>();
            let clauses = clauses.ok_or_else(|| format!("`{text}` is no mode"))?;
            Change::Clauses(clauses.into_iter().flatten().collect())
        };
        Ok(Self { text: text.to_owned(), change })
    }

    /// The mode of directories that are made to copy something into: an octal one counts for them, too.
    pub fn of_made_directories(&self) -> u32 {
        match self.change {
            Change::Set(mode) => mode & 0o777,
            Change::Clauses(_) => 0o755,
        }
    }

    /// The mode as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The permission bits (07777) of a file that had `mode`.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match &self.change {
            Change::Set(bits) => *bits,
            Change::Clauses(clauses) => {
                let executable = directory || mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |now, clause| clause.apply(now, executable))
            }
        }
    }
}

impl Clause {
    fn apply(self, now: u32, executable: bool) -> u32 {
        let copied = match self.copy {
            Some('u') => (now >> 6 & 7) * 0o111,
            Some('g') => (now >> 3 & 7) * 0o111,
            Some(_) => (now & 7) * 0o111,
            None => 0,
        };
        let execution = if self.executable && executable { 0o111 } else { 0 };
        let bits = (self.bits | copied | execution) & self.who;
        match self.operator {
            '+' => now | bits,
            '-' => now & !bits,
            // A copy is of rwx alone and leaves set-id bits as they are.
            _ if self.copy.is_some() => now & !(self.who & 0o777) | bits,
            _ => now & !self.who | bits,
        }
    }
}

/// The clauses of one part between commas: `[ugoa]*([+-=][rwxXstugo]*)+`.
fn clauses(text: &str) -> Option<Vec<Clause>> {
    let split = text.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?;
    let (left, mut rest) = text.split_at(split);
    let class = |c| match c {
        'u' => 0o4700,
        'g' => 0o2070,
        'o' => 0o0007,
        _ => 0o6777,
    };
    let named = left.chars().fold(0, |who, c| who | class(c));
    let who = if named == 0 { 0o6777 } else { named };
    let mut clauses = Vec::new();
    while !rest.is_empty() {
        let operator = rest.chars().next().filter(|c| matches!(c, '+' | '-' | '='))?;
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        operation(who, operator, &rest[1..end], &mut clauses)?;
        rest = &rest[end..];
    }
    Some(clauses)
}

/// One operator and the permissions after it. Each class that is copied is a clause of its own.
fn operation(who: u32, operator: char, permissions: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let none = Clause { who, operator, bits: 0, executable: false, copy: None };
    let mut clause = none;
    let mut copied = false;
    for c in permissions.chars() {
        match c {
            'r' => clause.bits |= 0o444,
            'w' => clause.bits |= 0o222,
            'x' => clause.bits |= 0o111,
            'X' if operator == '-' => clause.bits |= 0o111,
            'X' => clause.executable = true,
            // Set-id and sticky bits are not for others alone.
            's' if who != 0o007 => clause.bits |= 0o6000,
            't' if who != 0o007 => {
                clause.who |= 0o1000;
                clause.bits |= 0o1000;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                clauses.extend((clause != none).then_some(clause));
                clauses.push(Clause { copy: Some(c), ..none });
                clause = none;
                copied = true;
            }
            _ => return None,
        }
    }
    if !copied {
        clauses.push(clause);
    } else if clause != none {
        // `=` has cleared what it is to clear.
        let operator = if operator == '=' { '+' } else { operator };
        clauses.push(Clause { operator, ..clause });
    }
    Some(())
}
