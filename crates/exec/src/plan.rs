//! From an attempt to an order: names become places, and what makes no sense is refused.

use std::any::Any;
use std::path::{Path, PathBuf};

use quern_core::port::{Images, InlineEntry, Presented, RootLayout, Workspace};
use quern_core::step::{Attempt, Mount, Network, Platform, RootAccess, Step};

use crate::mounts::NAME_SERVICE;
use crate::order::{File, Limits, Order, Placed, Point, Root, Span, What};
use crate::refusal::ExecError;

/// Processes of a step that asks for no number: more than any build uses, few enough to end them quickly.
const DEFAULT_PIDS: u64 = 4096;

/// Everything one attempt needs on this machine; what it holds is given back when it is dropped.
pub(crate) struct Plan<'a> {
    /// For the launcher.
    pub order: Order,
    /// Bytes beside the order.
    pub payload: Vec<u8>,
    /// The directories the step's outputs are written to, in order.
    pub outputs: Scratch<'a>,
    /// Keeps image and inputs in place.
    _leases: Vec<Box<dyn Any + Send + Sync>>,
}

/// Output directories that go back to their workspace.
pub(crate) struct Scratch<'a> {
    workspace: &'a dyn Workspace,
    dirs: Vec<PathBuf>,
}

impl Scratch<'_> {
    /// Keeps what was written, in order.
    pub fn take(mut self) -> Result<Vec<quern_core::ContentRef>, ExecError> {
        let mut kept = Vec::with_capacity(self.dirs.len());
        while !self.dirs.is_empty() {
            kept.push(self.workspace.take(&self.dirs.remove(0))?);
        }
        Ok(kept)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        for dir in &self.dirs {
            self.workspace.discard(dir);
        }
    }
}

impl<'a> Plan<'a> {
    /// Checks an attempt and asks the ports for its places.
    pub fn make(
        attempt: &Attempt,
        workspace: &'a dyn Workspace,
        images: &dyn Images,
    ) -> Result<Self, ExecError> {
        let step = attempt.step.as_ref();
        check(attempt)?;
        let mut leases = Vec::new();
        let rootfs = images.rootfs(&step.image)?;
        leases.push(rootfs.lease);
        let mut payload = Vec::new();
        let mut mounts = Vec::new();
        for input in &step.inputs {
            let what = match workspace.present(&input.tree)? {
                Presented::Inline(entries) => {
                    What::Files(entries.into_iter().map(|entry| inline(entry, &mut payload)).collect())
                }
                Presented::Directory { path, lease } => {
                    leases.push(lease);
                    What::Bind { source: text(&path)?, write: false }
                }
            };
            mounts.push(placed(&input.target, what));
        }
        let mut outputs = Scratch { workspace, dirs: Vec::new() };
        for output in &step.outputs {
            let dir = workspace.scratch()?;
            let source = text(&dir);
            outputs.dirs.push(dir);
            mounts.push(placed(output, What::Bind { source: source?, write: true }));
        }
        for mount in &step.mounts {
            let what = match mount {
                Mount::Cache { id, .. } => {
                    What::Bind { source: text(&workspace.cache_dir(id)?)?, write: true }
                }
                Mount::Tmpfs { size, .. } => What::Tmpfs { size: *size },
                Mount::Snapshot { .. } | Mount::Socket { .. } => {
                    return Err(ExecError::Invalid("snapshots and sockets cannot be mounted yet".into()));
                }
                Mount::Secret { name, .. } => {
                    let value = attempt.secrets.get(name).ok_or_else(|| {
                        ExecError::Invalid(format!("there is no value for the secret `{name}`; give it one"))
                    })?;
                    What::Secret(Span::append(&mut payload, value))
                }
            };
            mounts.push(placed(mount.target(), what));
        }
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        nest(&mut mounts, step)?;
        let order = order(attempt, root(&rootfs.layout)?, mounts);
        Ok(Self { order, payload, outputs, _leases: leases })
    }
}

fn order(attempt: &Attempt, root: Root, mounts: Vec<Placed>) -> Order {
    let step = attempt.step.as_ref();
    let mut env = step.env.clone();
    env.extend(attempt.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut points = points(&mounts, &step.cwd);
    if step.network == Network::Host && matches!(root, Root::Layers(_)) {
        points.extend(NAME_SERVICE.map(|path| Point { path: path.to_owned(), file: true }));
    }
    Order {
        root,
        points,
        make_cwd: holder(&mounts, &step.cwd) == Some(Holder::Memory),
        mounts,
        argv: step.argv.clone(),
        env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: step.cwd.clone(),
        user: step.user.clone(),
        host_network: step.network == Network::Host,
        limits: Limits {
            memory: step.resources.memory,
            pids: step.resources.pids.unwrap_or(DEFAULT_PIDS),
            cpu_milli: step.resources.cpu_milli,
        },
        exact_pids: step.resources.pids.is_some(),
    }
}

fn check(attempt: &Attempt) -> Result<(), ExecError> {
    let step = attempt.step.as_ref();
    let invalid = |reason: String| Err(ExecError::Invalid(reason));
    if step.root == RootAccess::Writable {
        return invalid("writable roots are not there yet".into());
    }
    if step.argv.first().is_none_or(String::is_empty) {
        return invalid("it names no program".into());
    }
    let here = Platform::current();
    if step.platform != here {
        let wanted = &step.platform;
        return invalid(format!(
            "it needs {}/{}, this machine is {}/{}",
            wanted.os, wanted.arch, here.os, here.arch
        ));
    }
    if step.resources.gpus.unwrap_or(0) > 0 {
        return invalid("it needs an accelerator, and this executor has none to give".into());
    }
    let variables = step.env.iter().chain(&attempt.env);
    if let Some((name, _)) = variables.clone().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return invalid(format!("`{name}` cannot be the name of an environment variable"));
    }
    let mut texts = step.argv.iter().chain(variables.flat_map(|(name, value)| [name, value]));
    if texts.any(|text| text.contains('\0')) {
        return invalid("an argument or environment variable contains a NUL byte".into());
    }
    check_path("working directory", &step.cwd, true)?;
    let targets = step.inputs.iter().map(|input| input.target.as_str());
    let targets =
        targets.chain(step.outputs.iter().map(String::as_str)).chain(step.mounts.iter().map(Mount::target));
    for target in targets {
        check_path("mount", target, false)?;
    }
    Ok(())
}

fn check_path(what: &str, path: &str, may_be_root: bool) -> Result<(), ExecError> {
    let names_are_plain =
        || path[1..].split('/').all(|name| !matches!(name, "" | "." | "..")) && !path.contains('\0');
    if (may_be_root && path == "/") || (path.starts_with('/') && names_are_plain()) {
        return Ok(());
    }
    let path = path.escape_debug();
    Err(ExecError::Invalid(format!(
        "{what} `{path}` is not an absolute path without `.`, `..` and doubled slashes"
    )))
}

/// Whether `path` lies below `above`.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// Finds the mounts that lie inside others, where only writable ones can hold them.
fn nest(mounts: &mut [Placed], step: &Step) -> Result<(), ExecError> {
    for at in 0..mounts.len() {
        let (before, rest) = mounts.split_at_mut(at);
        let this = &mut rest[0];
        let target = this.target.as_str();
        let no = |reason: &str| ExecError::Invalid(format!("nothing can be mounted at {target}: {reason}"));
        if before.last().is_some_and(|last| last.target == target) {
            return Err(no("something else is mounted there already"));
        }
        let under = |dir: &str| target == dir || is_below(target, dir);
        if under("/proc") || (under("/dev") && !is_below(target, "/dev/shm")) {
            return Err(no("the sandbox has its own /proc and /dev"));
        }
        let holder = before.iter().rev().find(|other| is_below(target, &other.target));
        this.nested = match holder.map(|holder| &holder.what) {
            None => is_below(target, "/tmp") || is_below(target, "/dev/shm"),
            Some(What::Tmpfs { .. }) => true,
            Some(What::Bind { write: true, .. })
                if !step.outputs.iter().any(|output| is_below(target, output)) =>
            {
                true
            }
            Some(_) => return Err(no("it lies inside an input, an output or a secret")),
        };
    }
    Ok(())
}

fn points(mounts: &[Placed], cwd: &str) -> Vec<Point> {
    let dir = |path: &str| Point { path: path.to_owned(), file: false };
    let mut points = vec![dir("/dev"), dir("/proc"), dir("/tmp")];
    for placed in mounts.iter().filter(|placed| !placed.nested) {
        points.push(Point { path: placed.target.clone(), file: matches!(placed.what, What::Secret(_)) });
    }
    if cwd != "/" && holder(mounts, cwd).is_none() {
        points.push(dir(cwd));
    }
    points.sort();
    points.dedup();
    points
}

/// What a path lies in, if not in the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// An empty file system in memory, where it has yet to be made.
    Memory,
    /// Something mounted.
    Mount,
}

fn holder(mounts: &[Placed], path: &str) -> Option<Holder> {
    let around = |above: &str| path == above || is_below(path, above);
    if let Some(placed) = mounts.iter().rev().find(|placed| around(&placed.target)) {
        return Some(if matches!(placed.what, What::Tmpfs { .. }) { Holder::Memory } else { Holder::Mount });
    }
    match path {
        _ if around("/tmp") || around("/dev/shm") => Some(Holder::Memory),
        _ if around("/dev") || around("/proc") => Some(Holder::Mount),
        _ => None,
    }
}

fn placed(target: &str, what: What) -> Placed {
    Placed { target: target.to_owned(), what, nested: false }
}

fn inline(entry: InlineEntry, payload: &mut Vec<u8>) -> File {
    match entry {
        InlineEntry::Dir(path) => File::Dir(path.as_str().to_owned()),
        InlineEntry::File { path, bytes, executable } => {
            File::Plain(path.as_str().to_owned(), Span::append(payload, &bytes), executable)
        }
        InlineEntry::Link { path, target } => File::Link(path.as_str().to_owned(), target),
    }
}

fn root(layout: &RootLayout) -> Result<Root, ExecError> {
    let texts = |paths: &[PathBuf]| paths.iter().map(|path| text(path)).collect::<Result<Vec<_>, _>>();
    Ok(match layout {
        RootLayout::Layers(layers) => Root::Layers(texts(layers)?),
        RootLayout::Host { directories, etc } => Root::Host { places: texts(directories)?, etc: text(etc)? },
    })
}

fn text(path: &Path) -> Result<String, ExecError> {
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text.to_owned()),
        _ => Err(ExecError::Invalid(format!("{} must be an absolute path in UTF-8", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Placed, What, check_path, holder, is_below, placed};
    use proptest::prelude::{any, proptest};

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/", false),
            ("/a", true),
            ("/a/b c/\u{e4}", true),
            ("", false),
            ("a", false),
            ("/a/", false),
            ("//a", false),
            ("/a//b", false),
            ("/./a", false),
            ("/a/..", false),
            ("/..a/.b", true),
            ("/a\0b", false),
        ] {
            assert_eq!(check_path("mount", path, false).is_ok(), expected, "{path:?}");
        }
        assert!(check_path("working directory", "/", true).is_ok());
        assert!(is_below("/a/b", "/a") && !is_below("/ab", "/a") && !is_below("/a", "/a"));
    }

    #[test]
    fn what_a_place_lies_in() {
        let bind = || What::Bind { source: "/x".into(), write: true };
        let mounts: Vec<Placed> =
            vec![placed("/m", What::Tmpfs { size: None }), placed("/m/deep", bind()), placed("/o", bind())];
        for (path, expected) in [
            ("/m", Some(Holder::Memory)),
            ("/m/x", Some(Holder::Memory)),
            ("/m/deep/x", Some(Holder::Mount)),
            ("/o/x", Some(Holder::Mount)),
            ("/ox", None),
            ("/tmp/x", Some(Holder::Memory)),
            ("/tmpx", None),
            ("/dev/shm/x", Some(Holder::Memory)),
            ("/proc/self", Some(Holder::Mount)),
        ] {
            assert_eq!(holder(&mounts, path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in any::<String>()) {
            let _ = check_path("mount", &path, true);
        }
    }
}
