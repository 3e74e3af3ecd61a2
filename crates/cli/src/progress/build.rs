//! An image build as a person sees it: numbered steps, in the manner of `docker buildx build`.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quern_core::event::{Event, Sink, StepStatus};

use crate::args::Progress;
use crate::table::printable;

/// How often the live display is redrawn.
const REFRESH: Duration = Duration::from_millis(100);
/// Lines of output shown below a running step.
const TAIL: usize = 5;

/// Shows the steps of one build on standard error until dropped.
pub struct BuildReporter {
    screen: Arc<Mutex<Screen>>,
    stop: Arc<AtomicBool>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

impl BuildReporter {
    /// A reporter of this kind; `Auto` is decided by where standard error goes.
    pub fn new(kind: Progress) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let kind = match kind {
            Progress::Auto if terminal => Progress::Tty,
            Progress::Auto => Progress::Plain,
            other => other,
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        let screen = Screen {
            kind,
            colour,
            steps: Vec::new(),
            numbers: BTreeMap::new(),
            total: 0,
            drawn: 0,
            began: Instant::now(),
        };
        let screen = Arc::new(Mutex::new(screen));
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = (kind == Progress::Tty).then(|| {
            let (screen, stop) = (Arc::clone(&screen), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(REFRESH);
                    lock(&screen).redraw(false);
                }
            })
        });
        Self { screen, stop, ticker: Mutex::new(ticker) }
    }

    /// Shows the end; what is printed from now on stands below.
    pub fn finish(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ticker) = ticker {
            ticker.thread().unpark();
            // A panic of the ticker has been printed already and must not hide the command's own result.
            let _ = ticker.join();
            lock(&self.screen).redraw(true);
        }
    }
}

impl Sink for BuildReporter {
    fn emit(&self, event: Event) {
        lock(&self.screen).take(&event);
    }
}

impl Drop for BuildReporter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A screen that another thread left in the middle of an update is still good enough to show.
fn lock(screen: &Mutex<Screen>) -> MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Screen {
    kind: Progress,
    colour: bool,
    /// In the order in which they began.
    steps: Vec<Step>,
    numbers: BTreeMap<String, usize>,
    total: u64,
    /// Lines of the live part on the screen now.
    drawn: usize,
    began: Instant,
}

struct Step {
    name: String,
    began: Instant,
    /// How it ended, and after how many milliseconds.
    end: Option<(StepStatus, u64)>,
    /// What it printed last.
    tail: Vec<String>,
}

impl Screen {
    fn take(&mut self, event: &Event) {
        match self.kind {
            Progress::Rawjson => {
                let line = serde_json::to_string(event).expect("events hold only text and numbers");
                write(&line);
            }
            Progress::Quiet => {}
            kind => self.follow(event, kind != Progress::Tty),
        }
    }

    fn follow(&mut self, event: &Event, plain: bool) {
        match event {
            Event::JobPlanned { total, .. } => self.total = *total,
            Event::StepStarted { step, .. } => drop(self.number(step, plain)),
            Event::StepFinished { step, status, millis, .. } => {
                let number = self.number(step, plain);
                self.steps[number].end = Some((*status, *millis));
                if plain {
                    write(&format!("#{} {}", number + 1, self.end_text(*status, *millis)));
                }
            }
            Event::Log { step, line, .. } => {
                let number = self.number(step, plain);
                let step = &mut self.steps[number];
                if plain {
                    let seconds = step.began.elapsed().as_secs_f64();
                    write(&format!("#{} {seconds:.3} {}", number + 1, printable(line)));
                } else {
                    step.tail.push(printable(line));
                    if step.tail.len() > TAIL {
                        step.tail.remove(0);
                    }
                }
            }
            Event::Warning { message } => {
                self.erase();
                write(&self.paint("33", &format!("warning: {}", printable(message))));
            }
            Event::JobStarted { .. } | Event::JobFinished { .. } => {}
        }
    }

    /// The place of a step, a new one if it was not seen yet.
    fn number(&mut self, name: &str, plain: bool) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.steps.len();
        self.numbers.insert(name.to_owned(), number);
        let name = name.to_owned();
        if plain {
            write(&format!("#{} {}", number + 1, printable(&name)));
        }
        self.steps.push(Step { name, began: Instant::now(), end: None, tail: Vec::new() });
        number
    }

    fn end_text(&self, status: StepStatus, millis: u64) -> String {
        match status {
            StepStatus::Ran | StepStatus::Recovered => format!("DONE {:.1}s", millis as f64 / 1000.0),
            StepStatus::Cached => "CACHED".to_owned(),
            StepStatus::Failed => self.paint("31", "ERROR"),
            StepStatus::Cancelled => "CANCELED".to_owned(),
        }
    }

    fn redraw(&mut self, last: bool) {
        self.erase();
        let width = super::terminal_width();
        let height =
            usize::from(rustix::termios::tcgetwinsize(std::io::stderr()).map_or(24, |size| size.ws_row))
                .max(8);
        let lines = self.lines(last);
        // The newest lines are those that move.
        let skip = if last { 0 } else { lines.len().saturating_sub(height - 1) };
        let mut err = std::io::stderr().lock();
        for (line, code) in &lines[skip..] {
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            let _ = writeln!(err, "{}", self.paint(code, &line));
        }
        self.drawn = if last { 0 } else { lines.len() - skip };
    }

    /// Each line of the live part, with its colour.
    fn lines(&self, last: bool) -> Vec<(String, &'static str)> {
        let ended = self.steps.iter().filter(|step| step.end.is_some()).count() as u64;
        let seconds = self.began.elapsed().as_secs_f64();
        let word = if last { "Built" } else { "Building" };
        let mut lines = vec![(format!("[+] {word} {seconds:.1}s ({ended}/{})", self.total.max(ended)), "")];
        for step in &self.steps {
            let (state, code) = match step.end {
                None => (format!("{:.1}s", step.began.elapsed().as_secs_f64()), "36"),
                Some((StepStatus::Failed, _)) => ("ERROR".to_owned(), "31"),
                Some((StepStatus::Cached, _)) => ("CACHED".to_owned(), "34"),
                Some((StepStatus::Cancelled, _)) => ("CANCELED".to_owned(), "33"),
                Some((_, millis)) => (format!("{:.1}s", millis as f64 / 1000.0), "34"),
            };
            lines.push((format!(" => {state:>8}  {}", printable(&step.name)), code));
            let failed = matches!(step.end, Some((StepStatus::Failed, _)));
            if step.end.is_none() || failed {
                lines.extend(step.tail.iter().map(|line| (format!(" =>           | {line}"), "2")));
            }
        }
        lines
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Standard error may be closed; progress is no reason to fail.
fn write(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
