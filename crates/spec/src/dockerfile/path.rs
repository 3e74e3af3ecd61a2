//! Paths of images, by their letters alone.

/// The shortest spelling: no empty, `.` or inner `..` component, no trailing slash; `.` if nothing is left.
/// Absolute stays absolute, and `..` above the root is dropped.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if absolute => {}
            name => kept.push(name),
        }
    }
    let joined = kept.join("/");
    match (absolute, joined.as_str()) {
        (true, _) => format!("/{joined}"),
        (false, "") => ".".to_owned(),
        (false, _) => joined,
    }
}

/// The cleaned path as seen from an absolute directory.
pub(super) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{dir}/{path}")) }
}

/// [`join`] that keeps what a trailing slash says: that the path is a directory.
pub(super) fn join_keeping_slash(dir: &str, path: &str) -> String {
    let joined = join(dir, path);
    let directory = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    if directory && joined != "/" { format!("{joined}/") } else { joined }
}
