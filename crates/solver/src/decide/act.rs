//! Pass 3: what costs something begins, and its results are committed.

use std::sync::Arc;

use quern_core::Digest;

use crate::cache::{CacheInfoLink, CacheManager as _, CacheRecord};
use crate::error::{CacheError, VertexError};
use crate::explain::{InputFacts, MissReason, explain};
use crate::export::keys_of_result;
use crate::few::Few;
use crate::key::{CacheKey, ExportableCacheKey};
use crate::op::CacheMap;
use crate::progress::{Change, Finish};
use crate::result::{CachedResult, SharedResult};

use super::call::Progress;
use super::edge::{Content, Dep, Level, Work};
use super::facts::has_slow_step;
use super::{Call, ContentCall, Core, EdgeId, Effect, VertexId};

impl Core {
    /// Lets an edge begin something expensive once everything known has been spread.
    pub(super) fn want_start(&mut self, edge: EdgeId) {
        let state = &mut self.edges[edge];
        if !std::mem::replace(&mut state.sharing, true) {
            self.shares.push(edge);
        }
    }

    /// True if the edge has everything to get its result now.
    pub(super) fn is_ready(&mut self, edge: EdgeId) -> bool {
        let state = &self.edges[edge];
        if !matches!(state.work, Work::Idle) || state.wanted() != Level::Complete {
            return false;
        }
        let pending = self.vertices[state.vertex].expects_answers();
        !state.records().is_empty() || (self.inputs_complete(edge) && !pending)
    }

    pub(super) fn start(&mut self, edge: EdgeId) {
        let Some(state) = self.edges.get_mut(edge) else { return };
        state.starting = false;
        if self.is_ready(edge) {
            if self.edges[edge].records().is_empty() {
                self.start_exec(edge);
            } else {
                self.start_load(edge);
            }
        } else if matches!(self.edges[edge].work, Work::Idle)
            && self.edges[edge].wanted() > self.edges[edge].level()
        {
            self.start_content(edge);
        }
    }

    fn start_load(&mut self, edge: EdgeId) {
        for dep in 0..self.edges[edge].deps.len() {
            self.demand(edge, dep, Level::Nothing);
        }
        let state = &mut self.edges[edge];
        let rare = state.rare();
        let best = rare.records.iter().enumerate().min_by(|(_, a), (_, b)| a.preference(b)).map(|(i, _)| i);
        let record = rare.records.swap_remove(best.expect("an edge loads only if it has records"));
        rare.tried.push(Arc::clone(&record.id));
        state.work = Work::Loading { record: Box::new(record.clone()), cancelled: false };
        let vertex = state.vertex;
        self.call_begins(vertex);
        let cache = self.vertices[vertex].cache().clone();
        let quick = cache.loads_quickly(&record);
        self.effects.push(Effect::Load { edge, cache, record: Box::new(record), quick });
    }

    pub(super) fn load_done(&mut self, edge: EdgeId, result: Result<SharedResult, CacheError>) {
        let state = &mut self.edges[edge];
        let vertex = state.vertex;
        let Work::Loading { record, cancelled } = std::mem::replace(&mut state.work, Work::Idle) else {
            return;
        };
        match result {
            Ok(result) => {
                let key = record.key.at(self.vertices[vertex].origin());
                let keys = keys_of_result(Few::One(CacheRecord { key, ..*record }), &[]);
                self.complete(edge, result, keys, Finish::Cached);
            }
            Err(_) if cancelled => {
                let rare = state.rare();
                rare.tried.retain(|id| *id != record.id);
                rare.records.push(*record);
                self.queue(edge);
            }
            // The next record, or exec: a cache that cannot deliver is no reason to fail.
            Err(_) => self.queue(edge),
        }
        self.call_ends(vertex);
    }

    fn start_exec(&mut self, edge: EdgeId) {
        let vertex = self.edges[edge].vertex;
        match &self.vertices[vertex].exec {
            Progress::Done(_) => {
                self.commit(edge);
                return;
            }
            Progress::Failed(failure) => {
                let failure = Arc::clone(failure);
                self.fail(edge, failure);
                return;
            }
            Progress::Idle => {
                if !self.vertices[vertex].watchers().is_empty() {
                    let reason = self.miss_reason(edge);
                    self.report(vertex, Change::Missed(reason));
                }
                self.call_begins(vertex);
                self.vertices[vertex].exec = Progress::Waiting;
                self.slots.waiting.push_back(vertex);
            }
            Progress::Waiting | Progress::Running | Progress::Cancelling => {}
        }
        self.edges[edge].work = Work::Executing;
        self.fill_slots();
    }

    /// Why nothing could be loaded for an edge.
    fn miss_reason(&self, edge: EdgeId) -> MissReason {
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        if live.ignores_cache() {
            return MissReason::Ignored;
        }
        if let tried @ 1.. = state.tried() {
            return MissReason::SourceFailed { tried };
        }
        if !state.keys.is_empty() {
            return MissReason::Evicted;
        }
        let of_dep = |(i, dep): (usize, &Dep)| InputFacts {
            vertex: self.vertices[self.edges[live.inputs[i]].vertex].label(),
            matched: !dep.matched.is_empty(),
            compared: dep.content_key().is_some(),
        };
        let inputs = state.deps.iter().enumerate().map(of_dep).collect();
        let (digest, output) = (live.maps[0].digest, i64::from(state.output));
        let link = CacheInfoLink { input: 0, output, digest, selector: None };
        let names = if state.deps.is_empty() { Vec::new() } else { self.names(edge) };
        // A cache that cannot even answer this is a cache without a record.
        explain(&**live.cache(), link, &names, inputs).unwrap_or(MissReason::NoRecord)
    }

    /// Starts execs as long as there is room.
    fn fill_slots(&mut self) {
        while let Some(&vertex) = self.slots.waiting.front() {
            let weight = self.vertices[vertex].def.op.weight();
            if !self.slots.take(weight) {
                return;
            }
            self.slots.waiting.pop_front();
            let live = &self.vertices[vertex];
            let result_of = |edge: &EdgeId| self.edges[self.find(*edge)].result().map(|r| r.result.clone());
            let inputs: Option<Vec<SharedResult>> = live.inputs.iter().map(result_of).collect();
            let def = Arc::clone(&live.def);
            let live = &mut self.vertices[vertex];
            live.has_slot = true;
            live.exec = Progress::Running;
            self.report(vertex, Change::Started);
            let inputs = inputs.expect("inputs of a ready vertex are complete and stay so");
            self.effects.push(Effect::CallExec { vertex, def, inputs });
        }
    }

    pub(super) fn give_back_slot(&mut self, vertex: VertexId) {
        if std::mem::take(&mut self.vertices[vertex].has_slot) {
            self.slots.give_back(self.vertices[vertex].def.op.weight());
            self.fill_slots();
        }
    }

    pub(super) fn cancel_exec(&mut self, vertex: VertexId) {
        let executing = |edge: &EdgeId| matches!(self.edges[*edge].work, Work::Executing);
        if self.edges_of(vertex).iter().any(executing) {
            return;
        }
        match self.vertices[vertex].exec {
            Progress::Waiting => {
                self.slots.waiting.retain(|v| *v != vertex);
                self.vertices[vertex].exec = Progress::Idle;
                self.call_ends(vertex);
            }
            Progress::Running => {
                self.vertices[vertex].exec = Progress::Cancelling;
                self.effects.push(Effect::Cancel(Call::Exec(vertex)));
            }
            _ => {}
        }
    }

    pub(super) fn exec_done(&mut self, vertex: VertexId, result: Result<Vec<SharedResult>, VertexError>) {
        self.give_back_slot(vertex);
        let cancelled = matches!(self.vertices[vertex].exec, Progress::Cancelling);
        let edges = self.edges_of(vertex);
        let waiting = |core: &Self, edge: &EdgeId| matches!(core.edges[*edge].work, Work::Executing);
        match result {
            Ok(results) => {
                self.vertices[vertex].exec = Progress::Done(results.into());
                for edge in edges.into_iter().filter(|edge| waiting(self, edge)).collect::<Few<_>>() {
                    self.commit(edge);
                }
            }
            Err(error) if cancelled && error.is_cancelled() => {
                self.vertices[vertex].exec = Progress::Idle;
                self.report(vertex, Change::Finished(Finish::Cancelled));
                for edge in edges.into_iter().filter(|edge| waiting(self, edge)).collect::<Few<_>>() {
                    self.edges[edge].work = Work::Idle;
                    self.queue(edge);
                }
            }
            Err(error) => {
                let failure = self.failure(vertex, error);
                self.report(vertex, Change::Finished(Finish::Failed(failure.cause.to_string())));
                self.vertices[vertex].exec = Progress::Failed(Arc::clone(&failure));
                for edge in edges.into_iter().filter(|edge| waiting(self, edge)).collect::<Few<_>>() {
                    self.edges[edge].work = Work::Idle;
                    self.fail(edge, Arc::clone(&failure));
                }
            }
        }
        self.call_ends(vertex);
    }

    /// Stores the result of an edge after exec.
    fn commit(&mut self, edge: EdgeId) {
        let state = &self.edges[edge];
        let (vertex, wanted) = (state.vertex, state.output);
        let Progress::Done(results) = &self.vertices[vertex].exec else { return };
        let Some(result) = results.get(wanted as usize).cloned() else {
            let returned = results.len();
            let failure = self.failure(vertex, VertexError::MissingOutput { wanted, returned });
            self.edges[edge].work = Work::Idle;
            self.fail(edge, failure);
            return;
        };
        // Its inputs are complete, so there is no demand to withdraw from them.
        let keys = self.commit_keys(edge);
        self.edges[edge].work = Work::Saving { result: result.clone() };
        self.call_begins(vertex);
        let cache = self.vertices[vertex].cache().clone();
        self.effects.push(Effect::Save { edge, cache, keys, result });
    }

    /// The keys under which a result of exec is found again: one per cache map of a root, else
    /// one with everything that is known of the inputs.
    fn commit_keys(&self, edge: EdgeId) -> Few<CacheKey> {
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        let output = i64::from(state.output);
        if live.inputs.is_empty() {
            let root = |map: &CacheMap| CacheKey::root(map.digest, output, map.scope).at(live.origin());
            live.maps.iter().map(root).collect()
        } else {
            let (digest, names) = (live.maps[0].digest, self.names(edge).into());
            Few::One(CacheKey::made_at(digest, output, live.inputs.len(), names, live.origin()))
        }
    }

    pub(super) fn save_done(&mut self, edge: EdgeId, saved: Result<Few<CacheRecord>, CacheError>) {
        let state = &mut self.edges[edge];
        let vertex = state.vertex;
        let Work::Saving { result } = std::mem::replace(&mut state.work, Work::Idle) else { return };
        match saved {
            Ok(records) => {
                let live = &self.vertices[vertex];
                // The vertex may have got more caches meanwhile.
                let is_up_to_date =
                    |key: &CacheKey| key.cache().is_some_and(|cache| Arc::ptr_eq(cache, live.cache()));
                let known = |record: CacheRecord| {
                    let key =
                        if is_up_to_date(&record.key) { record.key } else { record.key.at(live.origin()) };
                    CacheRecord { key: key.with_learned(self.edges[edge].learned()), ..record }
                };
                let records: Few<CacheRecord> = records.into_iter().map(known).collect();
                if !live.ignores_cache() {
                    let state = &mut self.edges[edge];
                    for record in records.iter() {
                        if !state.keys.contains(&record.key) {
                            state.keys.push(record.key.clone());
                        }
                    }
                }
                let keys = keys_of_result(records, self.vertices[vertex].sub_builds());
                self.complete(edge, result, keys, Finish::Ran);
            }
            Err(error) => {
                let failure = self.failure(vertex, VertexError::Cache(error));
                self.fail(edge, failure);
            }
        }
        self.call_ends(vertex);
    }

    fn complete(
        &mut self,
        edge: EdgeId,
        result: SharedResult,
        keys: Few<ExportableCacheKey>,
        finish: Finish,
    ) {
        self.settle_edge(edge, CachedResult::new(result, keys), finish);
    }

    /// Gives an edge its result.
    pub(super) fn settle_edge(&mut self, edge: EdgeId, result: CachedResult, finish: Finish) {
        let state = &mut self.edges[edge];
        state.work = Work::Done(result);
        // Nothing is asked of the inputs any more.
        state.deps = Vec::new();
        state.forget_records();
        let vertex = state.vertex;
        self.report(vertex, Change::Finished(finish));
        self.notify(edge);
    }

    /// Computes the content digests that are due.
    fn start_content(&mut self, edge: EdgeId) {
        let vertex = self.edges[edge].vertex;
        for dep in 0..self.edges[edge].deps.len() {
            let entry = &self.edges[edge].deps[dep];
            let source = self.find(entry.edge);
            let live = &self.vertices[vertex];
            if !matches!(entry.content, Content::Unknown) || !has_slow_step(live.maps.first(), dep) {
                continue;
            }
            let Some(result) = self.edges[source].result().map(|r| r.result.clone()) else { continue };
            self.edges[edge].deps[dep].content = Content::Computing;
            match live.content().iter().find(|(input, _)| *input == dep).map(|(_, call)| call) {
                None | Some(Progress::Idle) => self.call_content(vertex, dep, result),
                Some(Progress::Done(_) | Progress::Failed(_)) => self.queue(edge),
                Some(_) => {}
            }
        }
    }

    fn call_content(&mut self, vertex: VertexId, input: usize, result: SharedResult) {
        self.call_begins(vertex);
        let live = &mut self.vertices[vertex];
        live.rare().content.retain(|(i, _)| *i != input);
        live.rare().content.push((input, Progress::Running));
        let about = &live.maps[0].inputs[input];
        let (preprocess, content) = (about.preprocess.clone(), about.content.clone());
        let def = Arc::clone(&live.def);
        let call = ContentCall { vertex, def, input, preprocess, content, result };
        self.effects.push(Effect::CallContent(Box::new(call)));
    }

    pub(super) fn cancel_content(&mut self, edge: EdgeId, input: usize) {
        let vertex = self.edges[edge].vertex;
        let computing = |edge: &EdgeId| {
            let dep = self.edges[*edge].deps.get(input);
            dep.is_some_and(|dep| matches!(dep.content, Content::Computing))
        };
        if self.edges_of(vertex).iter().any(computing) {
            return;
        }
        let call = self.vertices[vertex].rare().content.iter_mut().find(|(i, _)| *i == input);
        if let Some((_, progress @ Progress::Running)) = call {
            *progress = Progress::Cancelling;
            self.effects.push(Effect::Cancel(Call::Content(vertex, input)));
        }
    }

    pub(super) fn content_done(
        &mut self,
        vertex: VertexId,
        input: usize,
        result: Result<Option<Digest>, VertexError>,
    ) {
        let place = self.vertices[vertex].content().iter().position(|(i, _)| *i == input);
        let place = place.expect("a content call stays listed while it runs");
        let cancelled = matches!(self.vertices[vertex].content()[place].1, Progress::Cancelling);
        let outcome = match result {
            Ok(digest) => Progress::Done(digest),
            Err(error) if cancelled && error.is_cancelled() => Progress::Idle,
            Err(error) => Progress::Failed(self.failure(vertex, error)),
        };
        let again = matches!(outcome, Progress::Idle);
        self.vertices[vertex].rare().content[place].1 = outcome;
        for edge in self.edges_of(vertex) {
            if let Some(dep) = self.edges[edge].deps.get_mut(input)
                && matches!(dep.content, Content::Computing)
            {
                if again {
                    dep.content = Content::Unknown;
                }
                self.queue(edge);
            }
        }
        self.call_ends(vertex);
    }
}
