//! What a step sees at a place that is neither input nor output.

use crate::canon::Visitor;
use crate::digest::Digest;

/// Something mounted that is neither input nor output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A file or directory of a snapshot; a writable one throws away what the step changes.
    Snapshot {
        /// Absolute path.
        target: String,
        /// Which snapshot, as [`crate::port::Images::rootfs`] knows it.
        snapshot: Digest,
        /// What of it, from its root; links are followed inside of it. `/` for all.
        path: String,
        /// Whether the step may write.
        writable: bool,
    },
    /// A directory that survives between steps and whose content never decides a result.
    Cache {
        /// Absolute directory.
        target: String,
        /// Which cache. Those that differ in seed, owner or mode are different caches.
        id: String,
        /// What happens when another step uses it at the same time.
        sharing: Sharing,
        /// What it holds at first: a directory of a snapshot; nothing if absent.
        seed: Option<(Digest, String)>,
        /// Who owns it at first, user and group number; the step's user if absent.
        owner: Option<(u32, u32)>,
        /// Its permission bits at first, `0o755` if absent.
        mode: Option<u32>,
        /// Whether the step may only read it.
        read_only: bool,
    },
    /// A private directory in memory.
    Tmpfs {
        /// Absolute directory.
        target: String,
        /// Upper limit in bytes, none for the sandbox's default.
        size: Option<u64>,
    },
    /// The value of a secret as a file.
    Secret {
        /// Absolute path of the file.
        target: String,
        /// Name of the secret; the value travels in [`crate::step::Attempt::secrets`].
        name: String,
        /// Permission bits, usually [`Mount::SECRET_MODE`].
        mode: u32,
        /// Its owner, user and group number; the step's user if absent.
        owner: Option<(u32, u32)>,
    },
    /// A socket of the machine, such as that of an ssh agent.
    Socket {
        /// Absolute path.
        target: String,
        /// Name of the socket; its place travels in [`crate::step::Attempt::sockets`].
        name: String,
        /// Permission bits, usually [`Mount::SOCKET_MODE`].
        mode: u32,
        /// Its owner, user and group number; the step's user if absent.
        owner: Option<(u32, u32)>,
    },
}

/// What happens when two steps use one cache at the same time. It decides when a step runs, not what it sees, and
/// is in no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Both use it.
    #[default]
    Shared,
    /// The second one gets another cache of the same name.
    Private,
    /// The second one waits for the first.
    Locked,
}

impl Mount {
    /// Permission bits of a secret, if nothing else is said.
    pub const SECRET_MODE: u32 = 0o400;
    /// Permission bits of a socket, if nothing else is said.
    pub const SOCKET_MODE: u32 = 0o600;

    /// A cache that steps share, empty at first and owned by whoever the step runs as.
    pub fn cache(target: impl Into<String>, id: impl Into<String>) -> Self {
        let (target, id) = (target.into(), id.into());
        Self::Cache {
            target,
            id,
            sharing: Sharing::Shared,
            seed: None,
            owner: None,
            mode: None,
            read_only: false,
        }
    }

    /// A secret that only the step's user can read.
    pub fn secret(target: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Secret { target: target.into(), name: name.into(), mode: Self::SECRET_MODE, owner: None }
    }

    /// Where it appears.
    pub fn target(&self) -> &str {
        match self {
            Self::Snapshot { target, .. }
            | Self::Cache { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Secret { target, .. }
            | Self::Socket { target, .. } => target,
        }
    }

    /// Shows what enters the key. What came later than the first two fields is shown where it is not the default, so
    /// that older keys stay.
    pub(crate) fn walk(&self, v: &mut dyn Visitor) {
        let (kind, name) = match self {
            Self::Snapshot { path, .. } => ("snapshot", path.as_str()),
            Self::Cache { id, .. } => ("cache", id.as_str()),
            Self::Tmpfs { .. } => ("tmpfs", ""),
            Self::Secret { name, .. } => ("secret", name.as_str()),
            Self::Socket { name, .. } => ("socket", name.as_str()),
        };
        v.enter(self.target());
        v.text("kind", kind);
        v.text("name", name);
        match self {
            Self::Snapshot { snapshot, writable, .. } => {
                v.digest("snapshot", snapshot);
                if *writable {
                    v.number("writable", 1);
                }
            }
            Self::Cache { seed, owner, mode, read_only, .. } => {
                if let Some((snapshot, path)) = seed {
                    v.digest("seed", snapshot);
                    v.text("seed.path", path);
                }
                walk_access(v, *owner, mode.filter(|mode| *mode != 0o755));
                if *read_only {
                    v.number("read_only", 1);
                }
            }
            Self::Tmpfs { size, .. } => {
                if let Some(size) = size {
                    v.number("size", *size);
                }
            }
            Self::Secret { mode, owner, .. } => {
                walk_access(v, *owner, (*mode != Self::SECRET_MODE).then_some(*mode));
            }
            Self::Socket { mode, owner, .. } => {
                walk_access(v, *owner, (*mode != Self::SOCKET_MODE).then_some(*mode));
            }
        }
        v.leave();
    }
}

fn walk_access(v: &mut dyn Visitor, owner: Option<(u32, u32)>, mode: Option<u32>) {
    if let Some((user, group)) = owner {
        v.number("owner.user", user.into());
        v.number("owner.group", group.into());
    }
    if let Some(mode) = mode {
        v.number("mode", mode.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::DigestVisitor;

    fn key(mount: &Mount) -> Digest {
        let mut visitor = DigestVisitor::new("test");
        mount.walk(&mut visitor);
        visitor.finish()
    }

    fn snapshot(path: &str, writable: bool) -> Mount {
        Mount::Snapshot { target: "/m".into(), snapshot: Digest::of(b"s"), path: path.into(), writable }
    }

    fn cache(seed: Option<&str>, owner: Option<(u32, u32)>, mode: Option<u32>) -> Mount {
        let seed = seed.map(|path| (Digest::of(b"s"), path.to_owned()));
        let (target, id) = ("/m".into(), "i".into());
        Mount::Cache { target, id, sharing: Sharing::Shared, seed, owner, mode, read_only: false }
    }

    fn secret(mode: u32, owner: Option<(u32, u32)>) -> Mount {
        Mount::Secret { target: "/m".into(), name: "i".into(), mode, owner }
    }

    fn socket(mode: u32, owner: Option<(u32, u32)>) -> Mount {
        Mount::Socket { target: "/m".into(), name: "i".into(), mode, owner }
    }

    #[test]
    fn what_shapes_a_mount_enters_the_key() {
        let mut read_only = Mount::cache("/m", "i");
        if let Mount::Cache { read_only, .. } = &mut read_only {
            *read_only = true;
        }
        let all = [
            read_only,
            snapshot("/", false),
            snapshot("/", true),
            snapshot("/a", false),
            cache(None, None, None),
            cache(Some("/"), None, None),
            cache(Some("/a"), None, None),
            cache(None, Some((0, 0)), None),
            cache(None, Some((0, 1)), None),
            cache(None, None, Some(0o700)),
            Mount::Tmpfs { target: "/m".into(), size: None },
            Mount::Tmpfs { target: "/m".into(), size: Some(1) },
            secret(0o400, None),
            secret(0o440, None),
            secret(0o400, Some((0, 0))),
            socket(0o600, None),
            socket(0o666, None),
            socket(0o600, Some((1, 1))),
        ];
        let keys: Vec<_> = all.iter().map(key).collect();
        for (at, mount) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(mount), "{:?}", all[at]);
        }
    }

    #[test]
    fn when_a_cache_is_used_does_not() {
        let mut locked = Mount::cache("/m", "i");
        if let Mount::Cache { sharing, .. } = &mut locked {
            *sharing = Sharing::Locked;
        }
        assert_eq!(key(&locked), key(&Mount::cache("/m", "i")));
        assert_eq!(key(&cache(None, None, Some(0o755))), key(&Mount::cache("/m", "i")));
    }
}
