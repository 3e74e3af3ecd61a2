//! What the displays on standard error have in common: who looks at them, lines that are replaced, and drawing these
//! again from time to time.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::args::Progress;

/// How often live lines are drawn again.
pub const REFRESH: Duration = Duration::from_millis(100);

/// `Auto` decided by where standard error goes, and whether there is colour.
pub fn face(kind: Progress) -> (Progress, bool) {
    let terminal = std::io::stderr().is_terminal();
    let kind = match kind {
        Progress::Auto if terminal => Progress::Tty,
        Progress::Auto => Progress::Plain,
        other => other,
    };
    (kind, terminal && std::env::var_os("NO_COLOR").is_none())
}

/// Prints a line. Standard error may be closed; progress is no reason to fail.
pub fn write(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The lines that the next drawing replaces.
#[derive(Debug, Default)]
pub struct Drawn(usize);

impl Drawn {
    /// Takes them off the screen.
    pub fn erase(&mut self) {
        if self.0 > 0 {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[{}A\x1b[J", self.0);
            self.0 = 0;
        }
    }

    /// Draws others in their place.
    pub fn replace(&mut self, lines: &[String]) {
        self.erase();
        let mut err = std::io::stderr().lock();
        for line in lines {
            let _ = writeln!(err, "{line}");
        }
        self.0 = lines.len();
    }
}

/// A display of which a part is drawn again and again.
pub trait Live: Send + 'static {
    /// Draws it as it is now.
    fn redraw(&mut self);
}

/// A display that threads tell news of, with one more thread that draws it.
pub struct Screen<D> {
    display: Arc<Mutex<D>>,
    stop: Arc<AtomicBool>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

impl<D: Live> Screen<D> {
    /// Shows the display; draws it from time to time if it is on a terminal.
    pub fn new(display: D, kind: Progress) -> Self {
        let display = Arc::new(Mutex::new(display));
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = (kind == Progress::Tty).then(|| {
            let (display, stop) = (Arc::clone(&display), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(REFRESH);
                    lock(&display).redraw();
                }
            })
        });
        Self { display, stop, ticker: Mutex::new(ticker) }
    }

    /// The display, for whoever has news.
    pub fn lock(&self) -> MutexGuard<'_, D> {
        lock(&self.display)
    }

    /// Draws no more. True if it was drawn until now.
    pub fn stop(&self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        ticker.is_some_and(|ticker| {
            ticker.thread().unpark();
            // A panic of the ticker has been printed already and must not hide the command's own result.
            let _ = ticker.join();
            true
        })
    }
}

/// A display that another thread left in the middle of an update is still good enough to show.
fn lock<D>(display: &Mutex<D>) -> MutexGuard<'_, D> {
    display.lock().unwrap_or_else(PoisonError::into_inner)
}
