//! Builds that had nothing to do: results without live vertices.
//!
//! What a sweep has found whole is kept as it is until somebody wants more of the live graph than
//! there is. Then the graph is loaded after all, with the cache maps and results of the sweep, and
//! stands as if it had been live all the time.

use std::sync::Arc;

use crate::cache::{CacheManager as _, CombinedCache, Readiness};
use crate::progress::Finish;
use crate::sweep::Swept;

use super::call::Progress;
use super::edge::Work;
use super::load::Load;
use super::{Core, EdgeId, JobId, Owner};

impl Core {
    /// The job and the cache to sweep for, if nothing is live that a build would have to join and
    /// nobody watches.
    pub(crate) fn may_sweep(&self, owner: Owner) -> Option<(JobId, Arc<CombinedCache>)> {
        let Owner::Job(job) = owner else { return None };
        let alone = self.vertices.len() == 0 && self.dormant.is_none();
        let ready = self.cache.readiness() == Readiness::Ready && self.cache.numbered_keys().is_some();
        let unwatched = self.jobs.get(&job).is_some_and(|job| !job.watched && !job.cancelled);
        (alone && ready && unwatched).then(|| (job, Arc::clone(&self.cache)))
    }

    /// Keeps a build that had nothing to do until its job is discarded.
    pub(crate) fn rest(&mut self, job: JobId, swept: Swept) {
        self.dormant = Some((job, swept));
    }

    /// Makes live what a sweep has found.
    pub(crate) fn wake(&mut self) {
        let Some((job, swept)) = self.dormant.take() else { return };
        let (sweep, owner) = (Arc::clone(&swept.sweep), Owner::Job(job));
        let mut load = self.loading(owner, sweep.graph());
        load.watcher = None;
        self.load_targets(load, owner, &sweep.targets, Some(&swept));
    }

    /// Takes over what a sweep has found out about a graph that was loaded just now.
    pub(super) fn take_over(&mut self, swept: &Swept, load: &Load<'_>, targets: &[EdgeId]) {
        for (number, answer) in swept.sweep.answers() {
            if let Some(vertex) = load.vertex(number)
                && self.vertices[vertex].maps.is_empty()
                && matches!(self.vertices[vertex].map, Progress::Idle)
            {
                self.take_map(vertex, answer);
            }
        }
        for (edge, result) in targets.iter().zip(&swept.results) {
            if let Some(result) = result
                && matches!(self.edges[*edge].work, Work::Idle)
            {
                self.stand_for_equal_work(*edge);
                self.settle_edge(*edge, result.clone(), Finish::Cached);
            }
        }
        for (number, record) in &swept.tried {
            self.edges[targets[*number]].rare().tried.push(Arc::clone(record));
        }
    }
}
