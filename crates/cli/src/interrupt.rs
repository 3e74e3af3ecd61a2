//! Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_core::port::Cancel;
use quern_solver::CancelToken;

use crate::failure::Failure;

/// A token that Ctrl-C sets; a second one ends the program at once.
///
/// # Errors
/// If signals cannot be caught.
pub fn token() -> Result<CancelToken, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let token = CancelToken::new();
    let cancel = token.clone();
    std::thread::spawn(move || {
        while !interrupted.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        cancel.cancel();
    });
    Ok(token)
}

/// The same for work that is no part of a graph.
///
/// # Errors
/// As [`token`].
pub fn cancel() -> Result<Cancel, Failure> {
    let token = token()?;
    Ok(Cancel::or_when(move || token.is_cancelled()))
}
