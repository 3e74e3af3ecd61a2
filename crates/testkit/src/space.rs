//! A temporary directory in which programs run: files in, exit code and output back.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory that exists as long as this value.
#[derive(Debug)]
pub struct TempSpace {
    dir: tempfile::TempDir,
}

impl TempSpace {
    /// A fresh, empty directory.
    ///
    /// # Panics
    /// If the temporary directory cannot be written.
    #[expect(clippy::new_without_default, reason = "making a directory is not a default value")]
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new()
                .prefix("quern-test-")
                .tempdir()
                .expect("temp directory is writable"),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the directory.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root().join(relative)
    }

    /// Writes a file, with the directories above it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        let parent = path.parent().expect("a relative path has a parent below the root");
        fs::create_dir_all(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// The text of a file.
    ///
    /// # Panics
    /// If it cannot be read or is not UTF-8.
    pub fn read(&self, relative: &str) -> String {
        let path = self.path(relative);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All files below the directory, as sorted relative paths.
    ///
    /// # Panics
    /// If a directory cannot be read.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.root().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
                let entry = entry.expect("directory entry is readable");
                if entry.file_type().expect("type is known").is_dir() {
                    open.push(entry.path());
                } else {
                    let path = entry.path();
                    let relative = path.strip_prefix(self.root()).expect("found below the root");
                    found.push(relative.to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found
    }

    /// Runs a program in the directory and waits for it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[A]) -> Finished {
        self.run_with_input(program, args, b"")
    }

    /// Runs a program in the directory with these bytes on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_with_input<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: &[A],
        input: &[u8],
    ) -> Finished {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.root());
        Finished::of(command, input)
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Finished {
    command: String,
    output: Output,
}

impl Finished {
    /// Runs a prepared command to its end with these bytes on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn of(mut command: Command, input: &[u8]) -> Self {
        let shown = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut stdin = child.stdin.take().expect("was piped");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program that does not read its input closes the pipe; that is its right.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output()
        });
        Self { output: output.unwrap_or_else(|error| panic!("{shown}: {error}")), command: shown }
    }

    /// Asserts the exit code.
    ///
    /// # Panics
    /// With everything the program wrote, if the code is another one.
    #[track_caller]
    pub fn code(&self, expected: i32) -> &Self {
        let status = self.output.status;
        assert!(status.code() == Some(expected), "{}: {status}, expected {expected}\n{self}", self.command);
        self
    }

    /// Asserts exit code 0 and gives the standard output.
    ///
    /// # Panics
    /// With everything the program wrote, if it failed.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.code(0).stdout()
    }

    /// The standard output as text; what is not UTF-8 is replaced.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The standard error as text; what is not UTF-8 is replaced.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The raw status and output.
    pub fn output(&self) -> &Output {
        &self.output
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_programs() {
        let space = TempSpace::new();
        space.write("a/b.txt", "hello\n");
        space.write("c", [0xff, 0]);
        assert_eq!(space.files(), ["a/b.txt", "c"]);
        assert_eq!(space.run("cat", &["a/b.txt", "-"]).ok(), "hello\n");
        assert_eq!(space.run_with_input("cat", &["-"], b"input").ok(), "input");
        let failed = space.run("sh", &["-c", "echo no >&2; exit 3"]);
        assert_eq!(failed.code(3).stderr(), "no\n");
    }
}
