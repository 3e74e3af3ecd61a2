//! Users and groups of an image, read from its `/etc/passwd` and `/etc/group`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use crate::refusal::Refusal;

/// Who a step runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups, ascending, with the first.
    pub groups: Vec<u32>,
}

/// A longer file is not read further: no real one comes near.
const MOST_BYTES: u64 = 4 << 20;
/// `-1` means "no change" to the kernel.
const INVALID: u32 = u32::MAX;

impl User {
    /// Looks up `name-or-uid[:group-or-gid]` in the files below the current root; root if absent.
    pub fn find(text: Option<&str>) -> Result<Self, Refusal> {
        match text {
            None | Some("" | "0" | "root" | "0:0" | "root:root") => {
                Ok(Self { uid: 0, gid: 0, groups: vec![0] })
            }
            Some(text) => Self::look_up(text, &read("/etc/passwd"), &read("/etc/group"))
                .map_err(|reason| Refusal::User { user: text.to_owned(), reason }),
        }
    }

    fn look_up(text: &str, passwd: &str, group: &str) -> Result<Self, String> {
        let (user, wanted_group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let entry = lines(passwd).find(|fields| fields[0] == user && fields.len() >= 4);
        let (name, uid, own_gid) = match (entry, number(user)) {
            (Some(fields), _) => {
                let uid = number(fields[2]).ok_or("its entry in /etc/passwd has no valid number")?;
                (Some(fields[0]), uid, number(fields[3]))
            }
            (None, Some(uid)) => {
                let entry = lines(passwd).find(|fields| fields.len() >= 4 && number(fields[2]) == Some(uid));
                let name = entry.as_ref().map(|fields| fields[0]);
                (name, uid, entry.as_ref().and_then(|fields| number(fields[3])))
            }
            (None, None) => return Err("the image's /etc/passwd does not have it".into()),
        };
        let gid = match wanted_group {
            None => own_gid.unwrap_or(0),
            Some(group_name) => find_group(group_name, group)?,
        };
        let mut groups = vec![gid];
        if let (Some(name), None) = (name, wanted_group) {
            let member = |fields: &Vec<&str>| fields.len() >= 4 && fields[3].split(',').any(|m| m == name);
            groups.extend(lines(group).filter(member).filter_map(|fields| number(fields[2])));
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(Self { uid, gid, groups })
    }
}

/// The home directory of a user in the current root's `/etc/passwd`, `/` for one that is not there.
pub(crate) fn home_of(uid: u32) -> String {
    let passwd = read("/etc/passwd");
    let mut entries = lines(&passwd);
    let entry = entries.find(|fields| fields.len() >= 6 && number(fields[2]) == Some(uid));
    let home = entry.map(|fields| fields[5]).filter(|home| !home.is_empty() && !home.contains('\0'));
    home.unwrap_or("/").to_owned()
}

fn find_group(text: &str, group: &str) -> Result<u32, String> {
    lines(group)
        .find(|fields| fields[0] == text && fields.len() >= 3)
        .and_then(|fields| number(fields[2]))
        .or_else(|| number(text))
        .ok_or_else(|| format!("the image's /etc/group does not have the group `{text}`"))
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != INVALID)
}

/// An image without the file has no names. What is not a plain file (a pipe would block) is none.
fn read(path: &str) -> String {
    let open = || {
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    open().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::User;
    use proptest::prelude::{any, proptest};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nbuild:x:1000:1001::/home/build:/bin/sh\nodd:x:x:1:::\nminus:x:4294967295:1::/:\n";
    const GROUP: &str = "root:x:0:\nbuild:x:1001:\nwheel:x:10:root,build\ncode:x:20:other,build\nempty:x:\n";

    fn check(text: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let found = User::look_up(text, PASSWD, GROUP);
        match expected {
            Ok((uid, gid, groups)) => {
                assert_eq!(found, Ok(User { uid, gid, groups: groups.to_vec() }), "{text}");
            }
            Err(part) => {
                assert!(found.as_ref().is_err_and(|reason| reason.contains(part)), "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn names_and_numbers() {
        check("build", Ok((1000, 1001, &[10, 20, 1001])));
        check("1000", Ok((1000, 1001, &[10, 20, 1001])));
        check("build:code", Ok((1000, 20, &[20])));
        check("build:7", Ok((1000, 7, &[7])));
        check("55", Ok((55, 0, &[0])));
        check("55:66", Ok((55, 66, &[66])));
        check("nobody", Err("/etc/passwd"));
        check("build:nogroup", Err("nogroup"));
        check("build:", Err("group"));
        check("odd", Err("number"));
        check("minus", Err("number"));
        check("4294967295", Err("/etc/passwd"));
        check("-1", Err("/etc/passwd"));
        check("+5", Err("/etc/passwd"));
        check("", Err("/etc/passwd"));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in any::<String>(), passwd in "[a-z0-9:\n,]{0,80}", group in "[a-z0-9:\n,]{0,80}") {
            let _ = User::look_up(&text, &passwd, &group);
        }
    }
}
