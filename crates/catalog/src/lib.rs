//! Versioned data: repos, branches, commits, files, datums.
