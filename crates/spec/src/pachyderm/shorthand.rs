//! An input in one line, as lists of pipelines show it.

use std::fmt;

use super::{Input, InputKind};

impl fmt::Display for Input {
    /// `repo:glob`, `(a:/ ⨯ b:/*)`, `∪` for unions, `⋈` for joins, `(Group: a:/, b:/)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            InputKind::Missing => f.write_str("none"),
            InputKind::Pfs(pfs) => write!(f, "{}:{}", pfs.repo.value, pfs.glob.value),
            InputKind::Cron(cron) => write!(f, "{}:{}", cron.name.value, cron.spec.value),
            InputKind::Git(git) => write!(f, "{}:{}", git.name(), git.url.value),
            InputKind::Cross(members) => joined(f, "(", members, " ⨯ "),
            InputKind::Union(members) => joined(f, "(", members, " ∪ "),
            InputKind::Join(members) => joined(f, "(", members, " ⋈ "),
            InputKind::Group(members) => joined(f, "(Group: ", members, ", "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, open: &str, members: &[Input], between: &str) -> fmt::Result {
    f.write_str(open)?;
    for (index, member) in members.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{member}")?;
    }
    f.write_str(")")
}
