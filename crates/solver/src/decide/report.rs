//! What watchers are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::graph::Vertex;
use crate::progress::{Change, Finish};

use super::call::Progress;
use super::{Core, EdgeId, Effect, JobId, News, VertexId};

impl Core {
    /// Lets a job hear of a vertex and everything below. What it hears of already, it hears of
    /// with everything below.
    pub(super) fn watch(&mut self, vertex: VertexId, job: JobId) {
        let mut open = vec![vertex];
        while let Some(vertex) = open.pop() {
            if self.vertices[vertex].watchers().contains(&job) {
                continue;
            }
            self.vertices[vertex].rare().watchers.push(job);
            self.announce(vertex, job);
            open.extend(self.next_below(vertex));
        }
    }

    fn announce(&mut self, vertex: VertexId, job: JobId) {
        let live = &self.vertices[vertex];
        let digest_of = |edge: &EdgeId| self.vertices[self.edges[*edge].vertex].def.digest;
        let announced = Change::Announced {
            inputs: live.inputs.iter().map(digest_of).collect(),
            description: live.def.options.iter().flat_map(|o| o.description.clone()).collect(),
        };
        let def = Arc::clone(&live.def);
        let running = matches!(live.exec, Progress::Running).then_some(Change::Started);
        let finish = live.finish().map(Change::Finished);
        for change in [Some(announced), running, finish].into_iter().flatten() {
            let news = News { jobs: vec![job], def: Arc::clone(&def), change };
            self.effects.push(Effect::Progress(Box::new(news)));
        }
    }

    pub(super) fn unwatch(&mut self, vertex: VertexId, job: JobId) {
        let mut open = vec![vertex];
        while let Some(vertex) = open.pop() {
            let watchers = &mut self.vertices[vertex].rare().watchers;
            if let Some(place) = watchers.iter().position(|j| *j == job) {
                watchers.swap_remove(place);
                open.extend(self.next_below(vertex));
            }
        }
    }

    /// Once nothing of a job is under way: what became of the vertices that never began.
    pub(super) fn report_rest(&mut self, job: JobId) {
        let mut open = self.jobs.get(&job).map(|job| job.held.clone()).unwrap_or_default();
        let mut seen = BTreeSet::new();
        while let Some(vertex) = open.pop() {
            if !seen.insert(vertex) {
                continue;
            }
            open.extend(self.next_below(vertex));
            let live = &self.vertices[vertex];
            if live.finish.is_none() && !live.exec.is_under_way() {
                let known = self.edges_of(vertex).iter().any(|edge| !self.edges[*edge].keys.is_empty());
                let finish = if known { Finish::Skipped } else { Finish::NotNeeded };
                let def = Arc::clone(&live.def);
                let news = News { jobs: vec![job], def, change: Change::Finished(finish) };
                self.effects.push(Effect::Progress(Box::new(news)));
            }
        }
    }

    /// Who hears of a vertex.
    pub(crate) fn watchers(&self, vertex: VertexId) -> (&[JobId], &Arc<Vertex>) {
        let live = &self.vertices[vertex];
        (live.watchers(), &live.def)
    }

    pub(super) fn report(&mut self, vertex: VertexId, change: Change) {
        let live = &mut self.vertices[vertex];
        if let Change::Finished(finish) = &change {
            live.finish = Some(finish.into());
        }
        if !live.watchers().is_empty() {
            let (jobs, def) = (live.watchers().to_vec(), Arc::clone(&live.def));
            self.effects.push(Effect::Progress(Box::new(News { jobs, def, change })));
        }
    }
}
