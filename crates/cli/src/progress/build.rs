//! An image build as a person sees it: numbered steps, in the manner of `docker buildx build`.

use std::collections::BTreeMap;
use std::time::Instant;

use quern_core::event::{Event, Sink, StepStatus};

use super::live::{self, Drawn, Live, Screen, write};
use crate::args::Progress;
use crate::table::printable;

/// Lines of output shown below a running step.
const TAIL: usize = 5;

/// Shows the steps of one build on standard error until dropped.
pub struct BuildReporter(Screen<Display>);

impl BuildReporter {
    /// A reporter of this kind; `Auto` is decided by where standard error goes.
    pub fn new(kind: Progress) -> Self {
        let (kind, colour) = live::face(kind);
        let display = Display {
            kind,
            colour,
            steps: Vec::new(),
            numbers: BTreeMap::new(),
            total: 0,
            drawn: Drawn::default(),
            began: Instant::now(),
        };
        Self(Screen::new(display, kind))
    }

    /// Shows the end; what is printed from now on stands below.
    pub fn finish(&self) {
        if self.0.stop() {
            self.0.lock().draw_end();
        }
    }
}

impl Sink for BuildReporter {
    fn emit(&self, event: Event) {
        self.0.lock().take(&event);
    }
}

impl Drop for BuildReporter {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Display {
    kind: Progress,
    colour: bool,
    /// In the order in which they began.
    steps: Vec<Step>,
    numbers: BTreeMap<String, usize>,
    total: u64,
    drawn: Drawn,
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

impl Display {
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
                self.drawn.erase();
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

    /// Draws everything for the last time.
    fn draw_end(&mut self) {
        self.drawn.erase();
        let width = super::terminal_width();
        self.painted(&self.lines(true), width).iter().for_each(|line| write(line));
    }

    /// The lines as wide as the terminal, in their colours.
    fn painted(&self, lines: &[(String, &str)], width: usize) -> Vec<String> {
        let cut = |line: &str| line.chars().take(width.saturating_sub(1)).collect::<String>();
        lines.iter().map(|(line, code)| self.paint(code, &cut(line))).collect()
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

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Live for Display {
    fn redraw(&mut self) {
        let rows = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(24, |size| size.ws_row);
        let lines = self.lines(false);
        // The newest lines are those that move.
        let skip = lines.len().saturating_sub(usize::from(rows).max(8) - 1);
        let lines = self.painted(&lines[skip..], super::terminal_width());
        self.drawn.replace(&lines);
    }
}
