//! Pass 1: an edge takes in what is new, draws conclusions, and says what it needs next.
//!
//! The rules of this file are the heart of the solver. An edge may be found in a cache by what its
//! inputs were made from (their *definition keys*) or by what they contain (their *content keys*,
//! which need the input's result and are therefore slow). The rules never have an input loaded or
//! hashed while its definition key has matched already and other inputs have not.

use std::sync::Arc;

use quern_core::Digest;

use crate::cache::{CacheManager, Query, QueryKey};
use crate::error::{CacheError, VertexError};
use crate::export::KeyExporter;
use crate::key::{CacheKey, CacheKeyWithSelector, ExportableCacheKey, KeyId};
use crate::op::KeyScope;

use super::call::Progress;
use super::edge::{Content, Dep, Failure, Level, Work};
use super::facts::{Facts, selector};
use super::live::Live;
use super::{Call, Core, EdgeId, Effect, VertexId};

impl Core {
    /// Looks at an edge after something changed for it.
    pub(super) fn look(&mut self, edge: EdgeId) {
        let Some(state) = self.edges.get_mut(edge) else { return };
        state.queued = false;
        match state.work {
            Work::Idle | Work::Loading { .. } | Work::Executing => {}
            Work::Saving { .. } | Work::Done(_) | Work::Failed(_) | Work::Merged(_) => return,
        }
        let wanted = state.wanted();
        if wanted == Level::Nothing {
            self.let_go(edge);
            return;
        }
        if matches!(state.work, Work::Loading { .. } | Work::Executing) {
            return;
        }
        if state.deps.is_empty() {
            let inputs = &self.vertices[state.vertex].inputs;
            state.deps = inputs.iter().map(|input| Dep::on(*input)).collect::<Vec<_>>();
        }
        let (keys, level) = (state.keys.len(), state.looked_up);
        if let Err(failure) = self.take_in(edge) {
            self.fail(edge, failure);
            return;
        }
        if self.only_waits(edge) {
            return;
        }
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        self.gather(edge, &mut facts);
        let next = self.draw(edge, (keys, level), &facts);
        self.facts = facts;
        if let Err(failure) = next {
            self.fail(edge, failure);
        }
    }

    /// True if an edge can do nothing but wait for results that it has asked for: then drawing
    /// conclusions would change nothing. In a build of new things that is so whenever one of
    /// several inputs completes.
    fn only_waits(&self, edge: EdgeId) -> bool {
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        let nothing_known = state.hopeless
            && state.looked_up == Level::Compared
            && state.keys.is_empty()
            && state.records().is_empty()
            && state.wanted() == Level::Complete;
        let plain = live.maps_done && live.maps[0].inputs.is_empty() && !live.expects_answers();
        if !nothing_known || !plain || state.deps.iter().all(|dep| !dep.matched.is_empty()) {
            return false;
        }
        let mut waits = false;
        for dep in &state.deps {
            if self.edges[self.find(dep.edge)].outcome().is_none() {
                if dep.demand != Level::Complete {
                    return false;
                }
                waits = true;
            }
        }
        waits
    }

    /// Concludes what follows, tells the consumers, and goes on from there.
    fn draw(&mut self, edge: EdgeId, before: (usize, Level), facts: &[Facts]) -> Result<(), Arc<Failure>> {
        let (keys, level) = before;
        self.conclude(edge, facts)?;
        let state = &self.edges[edge];
        let (news, reached) = (state.keys.len() != keys || state.looked_up != level, state.looked_up);
        if news {
            self.notify(edge);
        }
        let wanted = self.edges[edge].wanted();
        if reached < wanted {
            return self.plan(edge, wanted, facts);
        }
        self.relax(edge);
        Ok(())
    }

    /// The edge is as far as anybody wants it: nothing expensive is needed of its inputs. What
    /// follows from definitions they may go on to find out, since they will be asked for it.
    fn relax(&mut self, edge: EdgeId) {
        for dep in 0..self.edges[edge].deps.len() {
            let demand = self.edges[edge].deps[dep].demand.min(Level::Defined);
            self.demand(edge, dep, demand);
        }
    }

    /// Withdraws everything an edge has asked for.
    pub(super) fn let_go(&mut self, edge: EdgeId) {
        for dep in 0..self.edges[edge].deps.len() {
            self.demand(edge, dep, Level::Nothing);
            if matches!(self.edges[edge].deps[dep].content, Content::Computing) {
                self.edges[edge].deps[dep].content = Content::Unknown;
                self.cancel_content(edge, dep);
            }
        }
        let state = &mut self.edges[edge];
        let vertex = state.vertex;
        if std::mem::take(&mut state.awaits_map) {
            self.cancel_map(vertex);
        }
        match &mut self.edges[edge].work {
            Work::Executing => {
                self.edges[edge].work = Work::Idle;
                self.cancel_exec(vertex);
            }
            Work::Loading { cancelled, .. } if !*cancelled => {
                *cancelled = true;
                self.effects.push(Effect::Cancel(Call::Load(edge)));
            }
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, edge: EdgeId, failure: Arc<Failure>) {
        self.let_go(edge);
        self.edges[edge].work = Work::Failed(failure);
        self.notify(edge);
    }

    /// The failure of a vertex by itself.
    pub(super) fn failure(&self, vertex: VertexId, cause: VertexError) -> Arc<Failure> {
        Arc::new(Failure { vertex: self.vertices[vertex].label(), cause: Arc::new(cause) })
    }

    /// Reads cache maps, input keys and content digests that are new, and looks them up.
    pub(super) fn take_in(&mut self, edge: EdgeId) -> Result<(), Arc<Failure>> {
        let vertex = self.edges[edge].vertex;
        if let Progress::Failed(failure) = &self.vertices[vertex].map {
            return Err(Arc::clone(failure));
        }
        let cache_error = |core: &Self, error| core.failure(vertex, VertexError::Cache(error));
        if self.vertices[vertex].inputs.is_empty() {
            return self.look_up_root(edge).map_err(|error| cache_error(self, error));
        }
        let mut answers = None;
        for dep in 0..self.edges[edge].deps.len() {
            let source = self.find(self.edges[edge].deps[dep].edge);
            self.edges[edge].deps[dep].follow(source);
            if let Some(Err(failure)) = self.edges[source].outcome() {
                return Err(Arc::clone(failure));
            }
            if self.vertices[vertex].maps.is_empty() {
                continue;
            }
            let known = self.look_up_definitions(edge, dep, source, &mut answers);
            known.map_err(|error| cache_error(self, error))?;
            self.take_in_content(edge, dep, source)?;
        }
        Ok(())
    }

    fn look_up_root(&mut self, edge: EdgeId) -> Result<(), CacheError> {
        let state = &mut self.edges[edge];
        let live = &self.vertices[state.vertex];
        let cache = live.cache();
        let mut found = Vec::new();
        for map in &live.maps[state.maps_seen as usize..] {
            state.looked_up = Level::Compared;
            if live.ignores_cache() {
                continue;
            }
            let output = i64::from(state.output);
            let query = Query { deps: &[], input: 0, digest: map.digest, output, scope: map.scope };
            found.clear();
            cache.query(&query, &mut found)?;
            for id in &found {
                if state.keys.iter().any(|key| key.id() == *id) {
                    continue;
                }
                state.keys.push(CacheKey::found(*id, map, output, 0, Box::default(), live.origin()));
            }
        }
        state.maps_seen = u32::try_from(live.maps.len()).expect("few cache maps");
        Ok(())
    }

    /// Looks up the definition keys an input has got since the last time. That the cache knows
    /// nothing of the operation is found out once for all inputs.
    fn look_up_definitions(
        &mut self,
        edge: EdgeId,
        dep: usize,
        source: EdgeId,
        answers: &mut Option<bool>,
    ) -> Result<(), CacheError> {
        let (state, input) = self.edges.pair_mut(edge, source);
        let live = &self.vertices[state.vertex];
        let entry = &mut state.deps[dep];
        let new = &input.keys[(entry.seen as usize).min(input.keys.len())..];
        if new.is_empty() {
            return Ok(());
        }
        entry.seen = u32::try_from(input.keys.len()).expect("few keys");
        let map = &live.maps[0];
        if !*answers.get_or_insert_with(|| live.cache().may_answer(&map.digest)) {
            return Ok(());
        }
        let selector = selector(map, dep);
        match new {
            [key] => look_up(live, state.output, dep, &[QueryKey { key, selector }], &mut entry.matched)?,
            _ => {
                let keys: Vec<_> = new.iter().map(|key| QueryKey { key, selector }).collect();
                look_up(live, state.output, dep, &keys, &mut entry.matched)?
            }
        };
        Ok(())
    }

    /// Takes in the content digest of an input that was computed meanwhile.
    fn take_in_content(&mut self, edge: EdgeId, dep: usize, source: EdgeId) -> Result<(), Arc<Failure>> {
        if !matches!(self.edges[edge].deps[dep].content, Content::Computing) {
            return Ok(());
        }
        let vertex = self.edges[edge].vertex;
        let digest = match self.vertices[vertex].content().iter().find(|(input, _)| *input == dep) {
            Some((_, Progress::Done(digest))) => *digest,
            Some((_, Progress::Failed(failure))) => return Err(Arc::clone(failure)),
            _ => return Ok(()),
        };
        let known = self.look_up_content(edge, dep, source, digest);
        let content = known.map_err(|error| self.failure(vertex, VertexError::Cache(error)))?;
        self.edges[edge].deps[dep].content = content;
        Ok(())
    }

    fn look_up_content(
        &mut self,
        edge: EdgeId,
        dep: usize,
        source: EdgeId,
        digest: Option<Digest>,
    ) -> Result<Content, CacheError> {
        let Some(digest) = digest else { return Ok(Content::Known { key: None, matched: false }) };
        let (state, input) = self.edges.pair_mut(edge, source);
        let live = &self.vertices[state.vertex];
        let key = CacheKey::content(digest).at(live.origin());
        let mut keys = vec![QueryKey { key: &key, selector: None }];
        let matched = look_up(live, state.output, dep, &keys, &mut state.deps[dep].matched)?;
        // Asking with the definition keys as well lets these lead to whatever the content leads
        // to: the next build finds it by definition.
        let selector = selector(&live.maps[0], dep);
        let definitions = input.result().map_or(&[][..], |result| result.keys());
        keys.extend(definitions.iter().map(|name| QueryKey { key: &name.key, selector }));
        if keys.len() > 1 {
            let mut found = Vec::new();
            live.cache().query(&query(live, state.output, dep, &keys), &mut found)?;
        }
        Ok(Content::Known { key: Some(key), matched })
    }

    /// Finds the keys this edge has by now, and the level it has reached.
    pub(super) fn conclude(&mut self, edge: EdgeId, facts: &[Facts]) -> Result<(), Arc<Failure>> {
        let vertex = self.edges[edge].vertex;
        let live = &self.vertices[vertex];
        if live.inputs.is_empty() || live.maps.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.add_matching_keys(edge) {
            return Err(self.failure(vertex, VertexError::Cache(error)));
        }
        // A cache that is still fetching may turn a miss into a hit: no conclusions yet.
        let final_answers = !self.vertices[vertex].expects_answers();
        let state = &mut self.edges[edge];
        if final_answers && facts.iter().any(Facts::is_hopeless) {
            state.hopeless = true;
        }
        let capped = |level: Level| level.min(Level::Compared);
        let known = |f: &Facts| if f.content_due() { Level::Defined } else { f.level };
        let at_least = facts.iter().filter(|f| !f.matched && !f.slow_due()).map(|f| capped(f.level)).max();
        let all_have = facts.iter().map(known).map(capped).min();
        let level = at_least.max(all_have).unwrap_or(Level::Nothing);
        state.looked_up = state.looked_up.max(level);
        let state = &self.edges[edge];
        if state.looked_up == Level::Defined
            && state.wanted() > Level::Defined
            && facts.iter().all(|f| f.level >= Level::Compared || f.matched)
            && no_more_keys(&state.deps, facts, &state.keys)
        {
            self.ask_records(edge)?;
            if !self.edges[edge].records().is_empty() {
                self.edges[edge].looked_up = Level::Compared;
            }
        }
        Ok(())
    }

    /// A node that every input leads to is a key of this edge.
    fn add_matching_keys(&mut self, edge: EdgeId) -> Result<(), CacheError> {
        let state = &self.edges[edge];
        let mut new: Vec<KeyId> = Vec::new();
        for id in &state.deps[0].matched {
            let everywhere = state.deps[1..].iter().all(|dep| dep.matched.contains(id));
            if everywhere && !state.keys.iter().any(|key| key.id() == *id) {
                new.push(*id);
            }
        }
        for id in new {
            let names = self.names(edge).into();
            let live = &self.vertices[self.edges[edge].vertex];
            let output = i64::from(self.edges[edge].output);
            let key = CacheKey::found(id, &live.maps[0], output, live.inputs.len(), names, live.origin());
            self.edges[edge].keys.push(key);
        }
        Ok(())
    }

    /// Asks for the records of keys that were not asked for yet. Most edges are only passed
    /// through on the way to a key further up and are never asked.
    fn ask_records(&mut self, edge: EdgeId) -> Result<(), Arc<Failure>> {
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        let mut found = Vec::new();
        for key in &state.keys[state.keys_asked as usize..] {
            match live.cache().records(key) {
                Ok(records) => found.extend(records),
                Err(error) => return Err(self.failure(state.vertex, VertexError::Cache(error))),
            }
        }
        let state = &mut self.edges[edge];
        state.keys_asked = u32::try_from(state.keys.len()).expect("few keys");
        state.offer(found);
        Ok(())
    }

    /// All names by which the inputs of an edge are known, with the number of the input.
    pub(super) fn names(&self, edge: EdgeId) -> Vec<(u32, CacheKeyWithSelector)> {
        let mut names = Vec::with_capacity(self.edges[edge].deps.len());
        self.each_name(edge, |input, key, exporter, selector| {
            let key = ExportableCacheKey { key: key.clone(), exporter: exporter.cloned() };
            names.push((input, CacheKeyWithSelector::new(key, selector)));
        });
        names
    }

    /// Visits the names by which the inputs of an edge are known: the number of the input, a key
    /// with what exports it, and the part of the input.
    pub(super) fn each_name(
        &self,
        edge: EdgeId,
        mut visit: impl FnMut(u32, &CacheKey, Option<&Arc<KeyExporter>>, Option<Digest>),
    ) {
        let state = &self.edges[edge];
        let map = &self.vertices[state.vertex].maps[0];
        for (input, dep) in (0u32..).zip(&state.deps) {
            let selector = selector(map, input as usize);
            let source = &self.edges[self.find(dep.edge)];
            let Some(result) = source.result() else {
                source.keys.iter().for_each(|key| visit(input, key, None, selector));
                continue;
            };
            for ExportableCacheKey { key, exporter } in result.keys() {
                visit(input, key, exporter.as_ref(), selector);
            }
            if let Some(key) = dep.content_key() {
                visit(input, key, None, None);
            }
        }
    }

    /// Says what the edge needs next to get where it is wanted.
    fn plan(&mut self, edge: EdgeId, wanted: Level, facts: &[Facts]) -> Result<(), Arc<Failure>> {
        if wanted == Level::Complete {
            self.ask_records(edge)?;
        }
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        let map_known = !live.maps.is_empty();
        let map_due = !map_known || (!live.maps_done && state.records().is_empty());
        let waits_for_source = state.records().is_empty() && map_known && live.expects_answers();
        if map_due && !waits_for_source {
            self.want_map(edge);
        }
        let complete =
            self.vertices[self.edges[edge].vertex].maps_done && facts.iter().all(Facts::is_complete);
        let ready = !self.edges[edge].records().is_empty() || (!waits_for_source && complete);
        if wanted == Level::Complete && ready {
            self.want_start(edge);
            return Ok(());
        }
        let mut active = self.edges[edge].awaits_map || waits_for_source;
        for (dep, fact) in facts.iter().enumerate() {
            let limit = if waits_for_source { Level::Compared } else { Level::Complete };
            let needed = self.needed_of(edge, facts, dep, wanted).min(limit);
            if needed > fact.level && needed > self.edges[edge].deps[dep].demand {
                self.demand(edge, dep, needed);
            }
            active |= self.edges[edge].deps[dep].demand > fact.level;
            if map_known && fact.level == Level::Complete && fact.has_slow && !fact.content_known {
                self.want_start(edge);
                active = true;
            }
        }
        if active { Ok(()) } else { self.force(edge, facts) }
    }

    /// The rules asked for nothing although the edge is wanted further: then it needs everything.
    fn force(&mut self, edge: EdgeId, facts: &[Facts]) -> Result<(), Arc<Failure>> {
        let open: Vec<usize> = (0..facts.len()).filter(|i| facts[*i].level < Level::Complete).collect();
        if open.is_empty() {
            return Err(self.failure(self.edges[edge].vertex, VertexError::Stalled));
        }
        for dep in open {
            self.demand(edge, dep, Level::Complete);
        }
        Ok(())
    }

    /// How far one input must get next.
    fn needed_of(&self, edge: EdgeId, facts: &[Facts], dep: usize, wanted: Level) -> Level {
        let state = &self.edges[edge];
        let map_known = !self.vertices[state.vertex].maps.is_empty();
        let fact = facts[dep];
        if state.hopeless {
            return Level::Complete;
        }
        match fact.level {
            Level::Nothing => Level::Defined,
            // Without the cache map nothing was looked up, so nothing can be said to miss.
            _ if !map_known => fact.level,
            Level::Defined if wanted > Level::Defined => {
                let all_defined = facts.iter().all(|f| f.level >= Level::Defined);
                let all_known = facts.iter().all(Facts::is_known);
                let useful = (all_defined && state.keys.is_empty()) || !fact.matched || all_known;
                let others_first = fact.matched && facts.iter().any(unmatched_and_unfinished);
                if useful && !others_first { Level::Compared } else { fact.level }
            }
            Level::Compared if wanted == Level::Complete => {
                let all_compared = facts.iter().all(|f| f.level >= Level::Compared && !f.content_due());
                let others_open = facts.iter().any(unmatched_and_unfinished);
                let by_content = fact.has_content && !(others_open && fact.matched);
                let due = !fact.matched || all_compared || by_content;
                let others_first = fact.content_missing() && others_unfinished_before_content(facts);
                let needed = due && state.records().is_empty() && (!fact.matched || !others_first);
                if needed { Level::Complete } else { fact.level }
            }
            Level::Compared if wanted == Level::Compared && fact.has_content => {
                let others_first = fact.content_missing() && others_unfinished_before_content(facts);
                if !fact.matched || !others_first { Level::Complete } else { fact.level }
            }
            level => level,
        }
    }
}

/// Some other input has matched nothing and could still get further by itself.
fn unmatched_and_unfinished(f: &Facts) -> bool {
    !f.matched && (f.content_missing() || (f.level < Level::Complete && !f.has_content))
}

/// Some input that has matched nothing can still match before this one must be hashed.
fn others_unfinished_before_content(facts: &[Facts]) -> bool {
    facts.iter().any(|f| !f.matched && (f.content_missing() || f.level < Level::Compared))
}

/// True if the lookups of the inputs leave no node that could still become a key of the edge.
fn no_more_keys(deps: &[Dep], facts: &[Facts], keys: &[CacheKey]) -> bool {
    let mut common: Vec<KeyId> = Vec::new();
    for (dep, _) in deps.iter().zip(facts).filter(|(_, f)| !f.content_due()) {
        let open = dep.matched.iter().filter(|id| !keys.iter().any(|key| key.id() == **id));
        if common.is_empty() {
            common = open.copied().collect();
        } else {
            let open: Vec<&KeyId> = open.collect();
            common.retain(|id| open.contains(&id));
        }
        if common.is_empty() {
            return true;
        }
    }
    false
}

fn query<'a>(live: &Live, output: u32, dep: usize, keys: &'a [QueryKey<'a>]) -> Query<'a> {
    Query {
        deps: keys,
        input: u32::try_from(dep).expect("few inputs"),
        digest: live.maps[0].digest,
        output: i64::from(output),
        scope: KeyScope::Shared,
    }
}

/// Adds the nodes that keys of an input lead to; true if there are any.
fn look_up(
    live: &Live,
    output: u32,
    dep: usize,
    keys: &[QueryKey<'_>],
    matched: &mut Vec<KeyId>,
) -> Result<bool, CacheError> {
    if live.ignores_cache() {
        return Ok(false);
    }
    let mut found = Vec::new();
    live.cache().query(&query(live, output, dep, keys), &mut found)?;
    for id in &found {
        if !matched.contains(id) {
            matched.push(*id);
        }
    }
    Ok(!found.is_empty())
}
