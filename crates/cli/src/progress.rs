//! What a person sees while work goes on: one event stream, four faces.

mod build;
mod live;
mod transfer;

use std::collections::BTreeMap;
use std::time::Instant;

use quern_core::event::{Counts, Event, Sink, StepStatus};
use quern_core::{Id, event};

use crate::args::Progress;
use crate::table::{duration, printable};
use live::{Drawn, Live, Screen};

pub use build::BuildReporter;
pub use transfer::TransferReporter;

/// Shows events on standard error until dropped.
pub struct Reporter(Screen<Display>);

impl Reporter {
    /// A reporter of this kind; `Auto` is decided by where standard error goes.
    pub fn new(kind: Progress) -> Self {
        let (kind, colour) = live::face(kind);
        Self(Screen::new(Display { kind, colour, jobs: BTreeMap::new(), drawn: Drawn::default() }, kind))
    }
}

impl Sink for Reporter {
    fn emit(&self, event: Event) {
        self.0.lock().take(&event);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.stop();
        self.0.lock().drawn.erase();
    }
}

struct Display {
    kind: Progress,
    colour: bool,
    jobs: BTreeMap<Id, JobLine>,
    drawn: Drawn,
}

struct JobLine {
    name: String,
    started: Instant,
    total: Option<u64>,
    skipped: u64,
    done: u64,
    running: Vec<String>,
}

impl Display {
    fn take(&mut self, event: &Event) {
        match self.kind {
            Progress::Rawjson => {
                let line = serde_json::to_string(event).expect("events hold only text and numbers");
                self.print(&line);
            }
            Progress::Quiet => {
                if let Event::JobFinished { state, .. } = event
                    && state != "success"
                {
                    self.print_finished(event);
                }
            }
            Progress::Tty => {
                self.follow(event);
                self.print_plain(event, false);
            }
            Progress::Plain | Progress::Auto => self.print_plain(event, true),
        }
    }

    /// Keeps the live lines up to date.
    fn follow(&mut self, event: &Event) {
        match event {
            Event::JobStarted { job, name, .. } => {
                let line = JobLine {
                    name: name.clone(),
                    started: Instant::now(),
                    total: None,
                    skipped: 0,
                    done: 0,
                    running: Vec::new(),
                };
                self.jobs.insert(*job, line);
            }
            Event::JobPlanned { job, total, skipped, .. } => {
                if let Some(line) = self.jobs.get_mut(job) {
                    (line.total, line.skipped) = (Some(*total), *skipped);
                }
            }
            Event::StepStarted { job, step } => {
                if let Some(line) = self.jobs.get_mut(job) {
                    line.running.push(step.clone());
                }
            }
            Event::StepFinished { job, step, .. } => {
                if let Some(line) = self.jobs.get_mut(job) {
                    line.done += 1;
                    line.running.retain(|name| name != step);
                }
            }
            Event::JobFinished { job, .. } => drop(self.jobs.remove(job)),
            Event::Log { .. } | Event::Warning { .. } => {}
        }
    }

    fn print_plain(&mut self, event: &Event, steps: bool) {
        match event {
            Event::JobStarted { job, name, reason } => {
                self.print(&format!("{} {name}: {}", self.dim(&short(*job)), printable(reason)));
            }
            Event::JobPlanned { job, total, skipped, because } if total > skipped => {
                let text = format!("{} of {total} to run: {because}", total - skipped);
                self.print(&format!("{}   {}", self.dim(&short(*job)), printable(&text)));
            }
            Event::StepFinished { job, step, status, millis } => {
                let bad = matches!(status, StepStatus::Failed | StepStatus::Recovered);
                if steps || bad {
                    let text = format!("{} {} {}", status_word(*status), printable(step), duration(*millis));
                    let text = if bad { self.red(&text) } else { text };
                    self.print(&format!("{}   {text}", self.dim(&short(*job))));
                }
            }
            Event::Log { job, line, stream, .. } if steps => {
                let mark = if *stream == event::Stream::Stderr { "!" } else { "|" };
                self.print(&format!("{}   {mark} {}", self.dim(&short(*job)), printable(line)));
            }
            Event::JobFinished { .. } => self.print_finished(event),
            Event::Warning { message } => self.print(&format!("warning: {}", printable(message))),
            Event::JobPlanned { .. } | Event::StepStarted { .. } | Event::Log { .. } => {}
        }
    }

    fn print_finished(&mut self, event: &Event) {
        let Event::JobFinished { job, name, state, reason, counts, millis } = event else { return };
        let text = format!("{name}: {state}, {} in {}", counts_text(counts), duration(*millis));
        let text = match (state.as_str(), reason.is_empty()) {
            ("success", _) => self.green(&text),
            (_, true) => self.red(&text),
            (_, false) => self.red(&format!("{text}: {}", printable(reason))),
        };
        self.print(&format!("{} {text}", self.dim(&short(*job))));
    }

    /// Prints one line above the live part.
    fn print(&mut self, line: &str) {
        self.drawn.erase();
        live::write(line);
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Live for Display {
    fn redraw(&mut self) {
        let width = terminal_width();
        let lines: Vec<String> = self.jobs.values().map(|job| job.render(width)).collect();
        self.drawn.replace(&lines);
    }
}

impl JobLine {
    fn render(&self, width: usize) -> String {
        let elapsed = duration(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let head = match self.total {
            None => format!("{} {elapsed} planning", self.name),
            Some(total) => {
                let ready = self.skipped + self.done;
                let filled =
                    usize::try_from((ready * 20).checked_div(total).unwrap_or(20)).unwrap_or(20).min(20);
                let bar = format!("{}{}", "#".repeat(filled), "-".repeat(20 - filled));
                format!("{} [{bar}] {ready}/{total} {elapsed}", self.name)
            }
        };
        let running = self.running.iter().take(4).map(|s| printable(s)).collect::<Vec<_>>().join(", ");
        format!("{head}  {running}").chars().take(width.saturating_sub(1)).collect()
    }
}

fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col).max(20))
}

fn short(job: Id) -> String {
    job.to_string()[..8].to_owned()
}

const fn status_word(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Ran => "ran",
        StepStatus::Cached => "cached",
        StepStatus::Failed => "FAILED",
        StepStatus::Recovered => "RECOVERED",
        StepStatus::Cancelled => "cancelled",
    }
}

/// `p + s / total` as pachctl shows it, in words.
pub fn counts_text(counts: &Counts) -> String {
    let parts = [
        (counts.processed, "ran"),
        (counts.skipped, "reused"),
        (counts.recovered, "recovered"),
        (counts.failed, "failed"),
    ];
    let text = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
    let text = text.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "no datums".to_owned() } else { format!("{text} of {}", counts.total) }
}
