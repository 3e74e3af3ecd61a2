//! Tests with several processes: a test binary that runs one of its own tests as another process.
//!
//! A test function that plays a part in a child asks [`part`] first; without a part it passes at once, so an ordinary
//! run of all tests does nothing there.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

const PART: &str = "QUERN_TEST_PART";

/// What this process was started for, if it was started by [`Again::start`].
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Says something to the process that started this one, see [`Again::said`].
///
/// # Panics
/// If nobody listens any more.
pub fn say(text: &str) {
    // The test runner may be in the middle of a line.
    writeln!(std::io::stdout().lock(), "\n> {text}").expect("the starting process listens");
}

/// Another process of this test binary; killed when dropped.
#[derive(Debug)]
pub struct Again {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Again {
    /// Starts the test `test` of this binary, by its full path, with a part to play.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(test: &str, part: &str) -> Self {
        let program = std::env::current_exe().expect("a test knows its own binary");
        let mut child = Command::new(program)
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary starts");
        let stdout = child.stdout.take().expect("was piped");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The text of the next [`say`] of the part; none once it has ended.
    ///
    /// # Panics
    /// If its output is not text.
    pub fn said(&mut self) -> Option<String> {
        for line in self.lines.by_ref() {
            let line = line.expect("output of a test is text");
            if let Some(said) = line.strip_prefix("> ") {
                return Some(said.to_owned());
            }
        }
        None
    }

    /// Ends the process as `kill -9` does and waits for it. What it said before can still be asked for.
    ///
    /// # Panics
    /// If it cannot be ended.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for the end and asserts that the part succeeded.
    ///
    /// # Panics
    /// If it failed.
    pub fn succeed(&mut self) {
        while self.said().is_some() {}
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "the other process ended with {status}");
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part() {
        if let Some(part) = part() {
            say(&format!("playing {part}"));
            if part == "for ever" {
                std::thread::park();
            }
        }
    }

    #[test]
    fn a_test_runs_as_another_process() {
        let mut again = Again::start("again::tests::a_part", "once");
        assert_eq!(again.said().as_deref(), Some("playing once"));
        again.succeed();
        let mut again = Again::start("again::tests::a_part", "for ever");
        assert_eq!(again.said().as_deref(), Some("playing for ever"));
        again.kill();
        assert_eq!(again.said(), None);
    }
}
