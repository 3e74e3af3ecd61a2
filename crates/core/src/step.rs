//! The envelope: everything that describes one execution, as a value.
//!
//! It is the whole contract between the graph and whoever runs a step. It names content by digest and
//! secrets by name, never a local path, so the same bytes describe the step to a local sandbox, a pod
//! or a remote execution server.
//!
//! | field | enters [`Step::key`] | why |
//! |---|---|---|
//! | `argv`, `env`, `cwd`, `user`, `stdin` | yes | the program can see them |
//! | `image` | yes | digest of the root file system's identity |
//! | `inputs` | yes, target and tree digest | the program can read them |
//! | `mounts` | yes, without secret values, places of sockets and the sharing of caches | snapshot, cache id, secret name, owner, mode and target shape what it sees |
//! | `root` | yes, if writable | its changes are part of the result |
//! | `network`, `hosts`, `platform` | yes | they change what a program can do |
//! | `outputs`, `accept` | yes | they shape the result |
//! | `resources`, `timeout` | no | they decide whether a result comes, never which |
//! | [`Attempt::env`], [`Attempt::number`], secret values, sockets | no | they differ from run to run |

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::canon::{Canon, Visitor};
use crate::digest::Digest;
pub use crate::mount::{Mount, Sharing};

/// One execution of a program on given content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Program and arguments; started directly, without a shell. Never empty in a valid step.
    pub argv: Vec<String>,
    /// The complete environment besides [`Attempt::env`]; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    pub cwd: String,
    /// `name-or-uid[:group-or-gid]`, looked up in the image; the image's default if absent.
    pub user: Option<String>,
    /// What the program reads on standard input; empty means an empty stream.
    pub stdin: Vec<u8>,
    /// Identity of the root file system, as [`crate::port::Images::resolve`] gives it.
    pub image: Digest,
    /// Whether it may change the root file system.
    pub root: RootAccess,
    /// Trees shown read-only, ascending by target, no target twice or inside another one.
    pub inputs: Vec<Input>,
    /// Snapshots, caches, tmpfs, secrets and sockets, ascending by target.
    pub mounts: Vec<Mount>,
    /// What network the step sees.
    pub network: Network,
    /// Names of machines besides those that are known anyway, in the order in which they are looked up; shown where the root
    /// can be written to.
    pub hosts: Vec<(String, IpAddr)>,
    /// The platform it needs.
    pub platform: Platform,
    /// Absolute directories that are empty at the start and whose trees are the result, in order.
    pub outputs: Vec<String>,
    /// Exit codes besides 0 that count as success.
    pub accept: Vec<i32>,
    /// What it may use.
    pub resources: Resources,
    /// The longest it may run, wall clock.
    pub timeout: Option<Duration>,
}

/// Whether a step may change its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootAccess {
    /// Nothing but outputs, caches and `/tmp` can be written to, and `/tmp` is thrown away.
    #[default]
    ReadOnly,
    /// All of it, `/tmp` included; what changed is kept as [`crate::port::Outcome::layer`].
    Writable,
}

/// A tree shown read-only at a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// Absolute directory.
    pub target: String,
    /// Digest of the [`crate::Tree`] shown there.
    pub tree: Digest,
}

/// What network a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// An own namespace with nothing but a loopback interface.
    #[default]
    None,
    /// The machine's own network.
    Host,
}

/// Operating system, architecture and its variant in OCI's words, such as `linux`, `arm` and `v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub arch: String,
    /// Variant of the architecture; empty for the usual one.
    pub variant: String,
}

impl Platform {
    /// The platform this program was compiled for.
    pub fn current() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: std::env::consts::OS.to_owned(), arch: arch.to_owned(), variant: String::new() }
    }
}

/// What a step may use; absent means no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Number of accelerators.
    pub gpus: Option<u64>,
    /// Wishes of placement (queue, node selector, accelerator kind ...), for engines that place.
    pub labels: BTreeMap<String, String>,
}

impl Step {
    /// The key of the result; see the table in the module's header.
    pub fn key(&self) -> Digest {
        self.digest()
    }
}

impl Canon for Step {
    const DOMAIN: &'static str = "quern.step.v1";

    fn walk(&self, v: &mut dyn Visitor) {
        list(v, "argv", &self.argv, |v, arg| v.text("arg", arg));
        v.enter("env");
        for (name, value) in &self.env {
            v.text(name, value);
        }
        v.leave();
        v.text("cwd", &self.cwd);
        if let Some(user) = &self.user {
            v.text("user", user);
        }
        v.bytes("stdin", &self.stdin);
        v.digest("image", &self.image);
        v.enter("inputs");
        for input in &self.inputs {
            v.digest(&input.target, &input.tree);
        }
        v.leave();
        list(v, "mounts", &self.mounts, |v, mount| mount.walk(v));
        v.number(
            "network",
            match self.network {
                Network::None => 0,
                Network::Host => 1,
            },
        );
        v.text("platform.os", &self.platform.os);
        v.text("platform.arch", &self.platform.arch);
        if !self.platform.variant.is_empty() {
            v.text("platform.variant", &self.platform.variant);
        }
        list(v, "outputs", &self.outputs, |v, path| v.text("path", path));
        list(v, "accept", &self.accept, |v, code| v.bytes("code", &code.to_le_bytes()));
        // Left out otherwise, so that keys from before there were writable roots stay.
        if self.root == RootAccess::Writable {
            v.text("root", "writable");
        }
        // And those from before there were names.
        if !self.hosts.is_empty() {
            list(v, "hosts", &self.hosts, |v, (name, address)| v.text(name, &address.to_string()));
        }
    }
}

fn list<T>(v: &mut dyn Visitor, name: &str, items: &[T], mut each: impl FnMut(&mut dyn Visitor, &T)) {
    v.enter(name);
    for item in items {
        each(v, item);
    }
    v.leave();
}

/// What travels beside a step and never enters a key.
#[derive(Clone)]
pub struct Attempt {
    /// The step.
    pub step: Arc<Step>,
    /// 1 for the first try.
    pub number: u32,
    /// Variables that differ from run to run (job id, commit ids) or are secret; they override [`Step::env`].
    pub env: BTreeMap<String, String>,
    /// Values of the secrets the step names.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Where the sockets the step names are on this machine.
    pub sockets: BTreeMap<String, PathBuf>,
}

impl Attempt {
    /// The first attempt at a step, with nothing beside it.
    pub fn first(step: Step) -> Self {
        Self {
            step: Arc::new(step),
            number: 1,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            sockets: BTreeMap::new(),
        }
    }
}

/// Values that may be secret are left out.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("step", &self.step)
            .field("number", &self.number)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("sockets", &self.sockets)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            argv: vec!["sh".into(), "-c".into(), "true".into()],
            env: BTreeMap::from([("A".into(), "1".into())]),
            cwd: "/".into(),
            user: None,
            stdin: Vec::new(),
            image: Digest::of(b"image"),
            root: RootAccess::ReadOnly,
            inputs: vec![Input { target: "/pfs/in".into(), tree: Digest::of(b"") }],
            mounts: Vec::new(),
            network: Network::None,
            hosts: Vec::new(),
            platform: Platform { os: "linux".into(), arch: "amd64".into(), variant: String::new() },
            outputs: vec!["/pfs/out".into()],
            accept: Vec::new(),
            resources: Resources::default(),
            timeout: None,
        }
    }

    #[test]
    fn what_a_program_can_see_enters_the_key() {
        let changes: [fn(&mut Step); 16] = [
            |s| s.argv.push("x".into()),
            |s| drop(s.env.insert("A".into(), "2".into())),
            |s| s.cwd = "/x".into(),
            |s| s.user = Some("1".into()),
            |s| s.stdin = b"x".to_vec(),
            |s| s.image = Digest::of(b"other"),
            |s| s.inputs[0].tree = Digest::of(b"other"),
            |s| s.inputs[0].target = "/pfs/other".into(),
            |s| s.mounts.push(Mount::cache("/c", "c")),
            |s| s.root = RootAccess::Writable,
            |s| s.network = Network::Host,
            |s| s.hosts.push(("a".into(), IpAddr::from([10, 0, 0, 1]))),
            |s| s.hosts.push(("a".into(), IpAddr::from([10, 0, 0, 2]))),
            |s| s.platform.variant = "v3".into(),
            |s| s.outputs.clear(),
            |s| s.accept.push(3),
        ];
        let mut keys = vec![step().key()];
        for change in changes {
            let mut changed = step();
            change(&mut changed);
            assert!(!keys.contains(&changed.key()), "{changed:?}");
            keys.push(changed.key());
        }
    }

    /// The key as it was before there were writable roots and further mounts.
    #[test]
    fn keys_from_before_stay() {
        let mut older = step();
        older.user = Some("build".into());
        older.stdin = b"in".to_vec();
        older.mounts = vec![
            Mount::cache("/c", "pip"),
            Mount::secret("/s", "token"),
            Mount::Tmpfs { target: "/t".into(), size: Some(5) },
            Mount::Tmpfs { target: "/u".into(), size: None },
        ];
        let before = "sha256:44b3c4695a07d4bdbf2799274b90822febb7aa36ebcc5d5bb1009670376ec1f5";
        assert_eq!(older.key().to_string(), before);
    }

    #[test]
    fn limits_do_not() {
        let mut limited = step();
        limited.timeout = Some(Duration::from_secs(1));
        limited.resources.memory = Some(1);
        assert_eq!(limited.key(), step().key());
    }

    #[test]
    fn secret_values_are_not_printed() {
        let mut attempt = Attempt::first(step());
        attempt.secrets.insert("token".into(), b"hunter2".to_vec());
        attempt.env.insert("PASSWORD".into(), "hunter3".into());
        let text = format!("{attempt:?}");
        assert!(text.contains("token") && text.contains("PASSWORD"));
        assert!(!text.contains("hunter") && !text.contains("104"));
    }
}
