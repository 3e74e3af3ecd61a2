//! Running what waits, in this process, until a person says stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_core::port::{self, Cancel};
use quern_engine::driver::DriveError;

use crate::failure::{Failure, Kind};
use crate::wiring::Home;

/// Runs what waits until `done`; Ctrl-C ends it orderly.
pub fn drive(home: &Home, done: &quern_engine::driver::Done<'_>) -> Result<(), Failure> {
    let idle = port::read(&*home.records.meta, |r| {
        Ok::<_, Failure>(quern_engine::schedule::active(r)?.is_empty() && done(r)?)
    })?;
    if idle {
        return Ok(());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let stop = Cancel::or_when(move || interrupted.load(Ordering::Relaxed));
    let runner = home.runner()?;
    Ok(runner.drive(done, &stop)?)
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Interrupted => Self::new(Kind::Interrupted, error),
            DriveError::Schedule(error) => error.into(),
            DriveError::Store(error) => error.into(),
        }
    }
}
