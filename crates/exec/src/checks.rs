//! What a step's places must be like, and how they lie in each other.

use quern_core::step::{Attempt, Mount, Platform, RootAccess, Step};

use crate::order::{Placed, Point, What};
use crate::refusal::ExecError;

/// Refuses an attempt that makes no sense.
pub(crate) fn check(attempt: &Attempt) -> Result<(), ExecError> {
    let step = attempt.step.as_ref();
    let invalid = |reason: String| Err(ExecError::Invalid(reason));
    if step.argv.first().is_none_or(String::is_empty) {
        return invalid("it names no program".into());
    }
    let (wanted, here) = (&step.platform, Platform::current());
    // In an image build programs of another architecture may run all the same: the kernel, or an emulator it knows, says so.
    let may_run = wanted.arch == here.arch || step.root == RootAccess::Writable;
    if wanted.os != here.os || !may_run {
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
pub(crate) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// Finds the mounts that lie inside others, where only some can hold them.
pub(crate) fn nest(mounts: &mut [Placed], step: &Step) -> Result<(), ExecError> {
    for at in 0..mounts.len() {
        let (before, rest) = mounts.split_at_mut(at);
        let this = &mut rest[0];
        let target = this.target.as_str();
        let no = |reason: &str| ExecError::Invalid(format!("nothing can be mounted at {target}: {reason}"));
        if before.last().is_some_and(|last| last.target == target) {
            return Err(no("something else is mounted there already"));
        }
        if is_the_sandboxs(target, step.root) {
            return Err(no("the sandbox has its own /proc, /sys and /dev"));
        }
        let holder = before.iter().rev().find(|other| is_below(target, &other.target));
        this.nested = match holder.map(|holder| &holder.what) {
            None => standard_holder(target, step.root).is_some(),
            // In a read-only one the place must be there already, which is seen when the step starts.
            Some(What::Tmpfs { .. } | What::Snapshot { .. } | What::Cache { .. }) => true,
            Some(_) => return Err(no("it lies inside an input, an output or a secret")),
        };
    }
    Ok(())
}

/// Whether a place is a part of the sandbox at which nothing can be mounted.
fn is_the_sandboxs(path: &str, root: RootAccess) -> bool {
    let under = |dir: &str| path == dir || is_below(path, dir);
    match root {
        RootAccess::ReadOnly => under("/proc") || (under("/dev") && !is_below(path, "/dev/shm")),
        RootAccess::Writable => under("/proc") || under("/sys") || path == "/dev" || under("/dev/pts"),
    }
}

/// What the sandbox itself mounts around a place.
fn standard_holder(path: &str, root: RootAccess) -> Option<Holder> {
    let around = |above: &str| path == above || is_below(path, above);
    match root {
        _ if around("/dev/shm") => Some(Holder::Memory),
        RootAccess::ReadOnly if around("/tmp") => Some(Holder::Memory),
        RootAccess::Writable if around("/sys") => Some(Holder::Mount),
        RootAccess::Writable if is_below(path, "/dev") => Some(Holder::Memory),
        _ if around("/dev") || around("/proc") => Some(Holder::Mount),
        _ => None,
    }
}

/// The places that must exist in the root.
pub(crate) fn points(mounts: &[Placed], step: &Step) -> Vec<Point> {
    let dir = |path: &str| Point { path: path.to_owned(), file: false };
    let memory = if step.root == RootAccess::Writable { "/sys" } else { "/tmp" };
    let mut points = vec![dir("/dev"), dir("/proc"), dir(memory)];
    for placed in mounts.iter().filter(|placed| !placed.nested) {
        // Whether a snapshot shows a file is known when it is mounted.
        if !matches!(placed.what, What::Snapshot { .. }) {
            let file = matches!(placed.what, What::Text { .. } | What::Socket { .. });
            points.push(Point { path: placed.target.clone(), file });
        }
    }
    // Where the root can be written to, the directory is made there.
    if step.root == RootAccess::ReadOnly && step.cwd != "/" && holder(mounts, &step.cwd, step.root).is_none()
    {
        points.push(dir(&step.cwd));
    }
    points.sort();
    points.dedup();
    points
}

/// What a path lies in, if not in the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An empty file system in memory, where it has yet to be made.
    Memory,
    /// Something mounted.
    Mount,
}

/// What a place lies in.
pub(crate) fn holder(mounts: &[Placed], path: &str, root: RootAccess) -> Option<Holder> {
    let around = |above: &str| path == above || is_below(path, above);
    if let Some(placed) = mounts.iter().rev().find(|placed| around(&placed.target)) {
        return Some(if matches!(placed.what, What::Tmpfs { .. }) { Holder::Memory } else { Holder::Mount });
    }
    standard_holder(path, root)
}

#[cfg(test)]
mod tests {
    use super::{Holder, Placed, RootAccess, What, check_path, holder, is_below};
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
        let placed = |target: &str, what| Placed { target: target.into(), what, nested: false };
        let mounts: Vec<Placed> =
            vec![placed("/m", What::Tmpfs { size: None }), placed("/m/deep", bind()), placed("/o", bind())];
        let (memory, mount) = (Some(Holder::Memory), Some(Holder::Mount));
        for (path, read_only, writable) in [
            ("/m", memory, memory),
            ("/m/x", memory, memory),
            ("/m/deep/x", mount, mount),
            ("/o/x", mount, mount),
            ("/ox", None, None),
            ("/tmp/x", memory, None),
            ("/tmpx", None, None),
            ("/dev", mount, mount),
            ("/dev/x", mount, memory),
            ("/dev/shm/x", memory, memory),
            ("/proc/self", mount, mount),
            ("/sys/x", None, mount),
        ] {
            assert_eq!(holder(&mounts, path, RootAccess::ReadOnly), read_only, "{path}");
            assert_eq!(holder(&mounts, path, RootAccess::Writable), writable, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in any::<String>()) {
            let _ = check_path("mount", &path, true);
        }
    }
}
