//! The loop that carries out builds: takes over builds nobody drives, starts the jobs that can run, watches them, and
//! stops when there is nothing left to do.
//!
//! What has to run is read from the records in every round and nothing is remembered but what runs in this process.
//! So a build may be planned, moved on or stopped by any process at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use quern_builds::{Event, JobIndex, JobState};
use quern_core::Id;
use quern_core::port::{self, Cancel, MetaRead, MetaWrite, PortError};
use quern_solver::CancelToken;

use crate::job::{self, State};
use crate::schedule::{self, ScheduleError, Scheduler};
use crate::{Runner, lease};

/// How long the loop waits for something to happen before it looks at the records again.
const ROUND: Duration = Duration::from_millis(100);
/// How often leases are renewed; a fraction of [`lease::LEASE_MILLIS`].
const RENEW: Duration = Duration::from_secs(3);

/// Why driving ended early.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A person said stop. Jobs go on where they were when driven again.
    #[error("interrupted; run the command again to carry on")]
    Interrupted,
    /// Builds could not be moved on.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// Whether what the caller waits for has happened.
pub type Done<'a> = dyn Fn(&dyn MetaRead) -> Result<bool, PortError> + 'a;

/// Jobs and builds in the hands of this process.
struct Hands {
    builds: BTreeSet<Id>,
    running: BTreeMap<Id, CancelToken>,
    renewed: Instant,
}

impl Runner {
    /// Plans what is stale and drives builds until none is left that this process can drive and `done` says so, or
    /// until `stop` is set.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn drive(&self, done: &Done<'_>, stop: &Cancel) -> Result<(), DriveError> {
        let mut hands = Hands { builds: BTreeSet::new(), running: BTreeMap::new(), renewed: Instant::now() };
        let driven = thread::scope(|scope| {
            let (ended, ends) = channel();
            let driven = self.rounds(scope, &mut hands, (&ended, &ends), done, stop);
            hands.running.values().for_each(CancelToken::cancel);
            driven
        });
        let released =
            port::write(&*self.records.meta, |w| hands.builds.iter().try_for_each(|build| let_go(w, *build)));
        driven.and(released.map_err(DriveError::Store))
    }

    fn rounds<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        hands: &mut Hands,
        (ended, ends): (&Sender<Id>, &Receiver<Id>),
        done: &Done<'_>,
        stop: &Cancel,
    ) -> Result<(), DriveError> {
        loop {
            let active = self.take_over(hands)?;
            let ready = if stop.is_set() { Vec::new() } else { self.ready(hands)? };
            for (build, index, id) in ready {
                let cancel = CancelToken::new();
                hands.running.insert(id, cancel.clone());
                let ended = ended.clone();
                scope.spawn(move || {
                    self.run_job(build, index, id, &cancel);
                    // The loop is gone only if it failed; then nobody needs to hear.
                    let _ = ended.send(id);
                });
            }
            if hands.running.is_empty() && active == 0 && port::read(&*self.records.meta, |r| done(r))? {
                return Ok(());
            }
            if stop.is_set() {
                hands.running.values().for_each(CancelToken::cancel);
                if hands.running.is_empty() {
                    return Err(DriveError::Interrupted);
                }
            }
            if let Ok(id) = ends.recv_timeout(ROUND) {
                hands.running.remove(&id);
            }
        }
    }

    /// Plans what advanced, claims builds that nobody drives, renews what is ours. Gives back how many builds
    /// this process drives.
    fn take_over(&self, hands: &mut Hands) -> Result<usize, DriveError> {
        let (now, me, ids) = (self.records.clock.now(), &self.records.owner, &*self.records.ids);
        let unclaimed = port::read(&*self.records.meta, |r| {
            let mut unclaimed = Vec::new();
            for build in schedule::active(r)? {
                if !hands.builds.contains(&build) && lease::holder(r, &build.to_string(), me, now)?.is_none()
                {
                    unclaimed.push(build);
                }
            }
            Ok::<_, PortError>(unclaimed)
        })?;
        for build in unclaimed {
            let claimed = port::write(&*self.records.meta, |w| {
                if !lease::claim(w, &build.to_string(), me, now)? {
                    return Ok(false);
                }
                Scheduler::new(w, ids, me, now).resume(build)?;
                Ok::<_, ScheduleError>(true)
            })?;
            if claimed {
                hands.builds.insert(build);
            }
        }
        self.renew(hands)?;
        let still = port::read(&*self.records.meta, schedule::active)?;
        hands.builds.retain(|build| still.contains(build));
        Ok(hands.builds.len())
    }

    /// A build whose lease somebody else took (this process slept too long) is let go, with its jobs.
    fn renew(&self, hands: &mut Hands) -> Result<(), DriveError> {
        if hands.renewed.elapsed() < RENEW {
            return Ok(());
        }
        hands.renewed = Instant::now();
        // What a long run has recorded so far would survive a power cut.
        self.records.meta.sync()?;
        let (now, me) = (self.records.clock.now(), &self.records.owner);
        let mut lost = Vec::new();
        for build in &hands.builds {
            if !lease::renew(&*self.records.meta, &build.to_string(), me, now)? {
                lost.push(*build);
            }
        }
        for build in lost {
            hands.builds.remove(&build);
            if let Some(build) = port::read(&*self.records.meta, |r| schedule::build(r, build))? {
                let ours = build.jobs().iter().filter_map(|job| hands.running.get(&job.id));
                ours.for_each(CancelToken::cancel);
            }
        }
        Ok(())
    }

    /// Jobs of our builds that can run and do not; cancels those that are to stop.
    fn ready(&self, hands: &Hands) -> Result<Vec<(Id, JobIndex, Id)>, DriveError> {
        let (mut ready, mut stopped) = (Vec::new(), Vec::new());
        let now = self.records.clock.now();
        for id in &hands.builds {
            let Some(build) = port::read(&*self.records.meta, |r| schedule::build(r, *id))? else { continue };
            for job in build.jobs() {
                let index = build.index_of(job.id).expect("the job is from this build");
                let running = hands.running.get(&job.id);
                match (job.state(), running) {
                    (JobState::RunPending { not_before, .. }, None)
                        if not_before.is_none_or(|t| t <= now) =>
                    {
                        ready.push((*id, index, job.id));
                    }
                    (JobState::AbortPending { .. }, Some(cancel)) => cancel.cancel(),
                    (JobState::AbortPending { .. }, None) => stopped.push((*id, index)),
                    _ => {}
                }
            }
        }
        for (build, job) in stopped {
            self.tell(build, &Event::Stopped { job })?;
        }
        Ok(ready)
    }

    /// Applies an event to a build in a transaction of its own.
    pub(crate) fn tell(&self, build: Id, event: &Event) -> Result<(), ScheduleError> {
        let (now, me, ids) = (self.records.clock.now(), &self.records.owner, &*self.records.ids);
        port::write(&*self.records.meta, |w| {
            let mut scheduler = Scheduler::new(w, ids, me, now);
            scheduler.on(build, event)?;
            scheduler.advance().map(|_| ())
        })
    }
}

/// Gives a build back for others to take over. Nobody is at its jobs now.
fn let_go(w: &mut dyn MetaWrite, id: Id) -> Result<(), PortError> {
    for job in schedule::build(w.as_read(), id)?.iter().flat_map(quern_builds::Build::jobs) {
        if let Some(mut record) = job::get(w.as_read(), job.id)?.filter(|job| job.state == State::Running) {
            record.state = State::Starting;
            job::put(w, &mut record)?;
        }
    }
    lease::release(w, &id.to_string())
}
