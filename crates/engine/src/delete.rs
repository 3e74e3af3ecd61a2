//! Deleting what jobs stand on: what follows from it goes with it.

use std::collections::BTreeSet;

use quern_catalog::{Change, Ref};
use quern_core::Id;
use quern_core::port;

use crate::schedule::Scheduler;
use crate::submit::SubmitError;
use crate::{Records, job, journal};

/// Deletes a user's commit, every commit made from it and the jobs that made those; jobs that wait to read one of them
/// are stopped.
///
/// # Errors
/// [`SubmitError`]; nothing is deleted then.
pub fn commit(records: &Records, commit: &Ref) -> Result<(), SubmitError> {
    let (now, ids) = (records.clock.now(), &*records.ids);
    port::write(&*records.meta, |w| {
        let mut change = Change::new(w, now, ids);
        let id = change.view().resolve(commit)?.id;
        let gone: BTreeSet<Id> = change.delete_commit(id)?.into_iter().map(|commit| commit.id).collect();
        for mut job in job::list(w.as_read(), None, None)? {
            let reads = job.inputs.values().any(|head| gone.contains(&head.commit));
            if job.state.has_ended() {
                if job.output.is_some_and(|output| gone.contains(&output)) {
                    journal::delete(w, job.id)?;
                    job::delete(w, &job)?;
                }
            } else if reads {
                "an input commit was deleted".clone_into(&mut job.reason);
                job::put(w, &mut job)?;
                Scheduler::new(w, ids, &records.owner, now).stop(&job)?;
            }
        }
        Scheduler::new(w, ids, &records.owner, now).advance()?;
        Ok(())
    })
}
