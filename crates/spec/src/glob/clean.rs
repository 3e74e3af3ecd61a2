//! Paths in their one spelling.

/// Cleans a path or pattern by its letters alone: a leading slash, no empty, `.` or `..` components, no
/// trailing slash. The root becomes the empty text; `..` above the root is dropped.
pub fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for name in kept {
        out.push('/');
        out.push_str(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_path_has_one_spelling() {
        let rows = [
            ("", ""),
            ("/", ""),
            ("*", "/*"),
            ("//dir///*/", "/dir/*"),
            ("a/./b/../c", "/a/c"),
            ("../../a", "/a"),
            ("/..", ""),
            ("a/...", "/a/..."),
        ];
        for (path, expected) in rows {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(path in "[a./*]{0,12}") {
            let once = clean(&path);
            prop_assert_eq!(clean(&once), once);
        }
    }
}
