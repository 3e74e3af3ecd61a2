//! Blobs on their way to or from a registry: a line for each that arrived, and live ones for those under way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use quern_core::Digest;
use quern_oci::registry::{Progress as News, Stage};
use serde_json::json;

use super::live::{self, Drawn, REFRESH, write};
use crate::args::Progress;
use crate::table::size;

/// Shows one transfer on standard error until dropped.
pub struct TransferReporter {
    kind: Progress,
    /// What has happened to a blob that arrived: `pulled` or `pushed`.
    word: &'static str,
    screen: Mutex<Screen>,
}

#[derive(Default)]
struct Screen {
    /// Bytes moved of those under way, and how many there are.
    moving: BTreeMap<Digest, (u64, u64)>,
    drawn: Drawn,
    last: Option<Instant>,
}

impl TransferReporter {
    /// A reporter of this kind; `Auto` is decided by where standard error goes.
    pub fn new(kind: Progress, word: &'static str) -> Self {
        let (kind, _) = live::face(kind);
        Self { kind, word, screen: Mutex::default() }
    }

    /// Hears of one blob.
    pub fn hear(&self, news: News) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let end = match news.stage {
            Stage::Moving(moved) => {
                screen.moving.insert(news.digest, (moved, news.size));
                if self.kind == Progress::Tty {
                    screen.redraw();
                }
                return;
            }
            Stage::Done => self.word,
            Stage::Present => "there already",
            Stage::Mounted => "taken over from another repository",
        };
        screen.moving.remove(&news.digest);
        match self.kind {
            Progress::Quiet => {}
            Progress::Rawjson => {
                let (digest, bytes) = (news.digest.to_string(), news.size);
                write(&json!({ "event": "blob", "digest": digest, "size": bytes, "state": end }).to_string());
            }
            _ => {
                screen.drawn.erase();
                write(&format!("{}  {:>10}  {end}", &news.digest.hex()[..12], size(news.size)));
            }
        }
    }
}

impl Drop for TransferReporter {
    fn drop(&mut self) {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).drawn.erase();
    }
}

impl Screen {
    fn redraw(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < REFRESH) {
            return;
        }
        self.last = Some(Instant::now());
        let width = super::terminal_width();
        let lines = self.moving.iter().map(|(digest, (moved, whole))| {
            let filled =
                usize::try_from((moved * 20).checked_div(*whole).unwrap_or(20)).unwrap_or(20).min(20);
            let bar = format!("{}{}", "#".repeat(filled), "-".repeat(20 - filled));
            let line = format!("{}  {:>10}  [{bar}] {}", &digest.hex()[..12], size(*whole), size(*moved));
            line.chars().take(width.saturating_sub(1)).collect()
        });
        let lines: Vec<String> = lines.collect();
        self.drawn.replace(&lines);
    }
}
