//! The decision core: `(state, event) -> effects`, without threads, clock or I/O of its own.
//!
//! The state is a graph of live vertices shared by all jobs. What is decided about is the *edge*,
//! one output of one vertex. Consumers demand that an edge gets to some [`Level`]; the edge
//! demands what it needs of its own inputs. Nothing is ever asked twice: an edge reads the state of
//! its inputs directly and is looked at again when one of them has news.
//!
//! Right after a graph was loaded, `define.rs` asks the cache maps that cost nothing and looks up
//! every vertex by definition, inputs first, in one sweep. A build with nothing to do ends there.
//!
//! [`Core::settle`] works in three passes, each begun only when the ones before have nothing left:
//!
//! 1. *look* (`look.rs`): spread what is known: keys, cache lookups, demands;
//! 2. *share* (`share.rs`): edges about to do something expensive that equal each other become one;
//! 3. *start* (`act.rs`): load, run, hash; consumers first, because what they load spares the rest.
//!
//! So nothing expensive starts while something known could still make it needless. Cancelling is
//! nothing but withdrawing a demand. The alternative, requests and answers passed between edges as
//! messages, needs rules about who may leave which message unanswered; breaking them is a deadlock.

mod act;
mod arena;
mod call;
mod define;
mod dormant;
mod edge;
mod facts;
mod index;
mod live;
mod load;
mod look;
mod maps;
mod report;
mod share;
#[cfg(test)]
mod simulation;
mod starts;

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use quern_core::Digest;

pub(crate) use arena::{Arena, Id, Ids};
pub(crate) use call::Call;
pub(crate) use edge::{Failure, Level};

use crate::cache::{CacheManager, CacheRecord, CombinedCache};
use crate::digest_map::DigestMap;
use crate::error::{CacheError, SolveError, VertexError};
use crate::few::Few;
use crate::graph::Vertex;
use crate::key::CacheKey;
use crate::op::{ContentFn, MapStep, PreprocessFn};
use crate::progress::Change;
use crate::result::{CachedResult, SharedResult};
use crate::sweep::Swept;

use call::Slots;
use edge::{Dep, EdgeState, Subscriber};
use facts::Facts;
use index::EdgeIndex;
use live::{Live, VertexNames};
use starts::Starts;

pub(crate) type VertexId = Id<Live>;
pub(crate) type EdgeId = Id<EdgeState>;

/// So much room empty queues keep.
const SPARE: usize = 1 << 12;

/// A job; numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(u64);

/// A build; numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BuildId(u64);

/// Something that ended outside.
pub(crate) enum Event {
    MapDone {
        vertex: VertexId,
        index: usize,
        result: Result<MapStep, VertexError>,
    },
    ContentDone {
        vertex: VertexId,
        input: usize,
        result: Result<Option<Digest>, VertexError>,
    },
    ExecDone {
        vertex: VertexId,
        result: Result<Vec<SharedResult>, VertexError>,
    },
    LoadDone {
        edge: EdgeId,
        result: Result<SharedResult, CacheError>,
    },
    SaveDone {
        edge: EdgeId,
        result: Result<Few<CacheRecord>, CacheError>,
    },
    /// The exec of this vertex waits for a sub-build and takes up no room until it ends.
    Waits {
        vertex: VertexId,
    },
    /// A cache that was pending has more answers now, or has none.
    SourceReady,
    Cancel {
        build: BuildId,
    },
}

/// Something to be done outside. Whatever is called ends with the matching [`Event`].
pub(crate) enum Effect {
    CallMap {
        vertex: VertexId,
        def: Arc<Vertex>,
        index: usize,
    },
    CallContent(Box<ContentCall>),
    CallExec {
        vertex: VertexId,
        def: Arc<Vertex>,
        inputs: Vec<SharedResult>,
    },
    Load {
        edge: EdgeId,
        cache: Arc<CombinedCache>,
        record: Box<CacheRecord>,
        quick: bool,
    },
    Save {
        edge: EdgeId,
        cache: Arc<CombinedCache>,
        keys: Few<CacheKey>,
        result: SharedResult,
    },
    /// Tells a running call that nobody wants it any more; it must end all the same.
    Cancel(Call),
    Prepare {
        cache: Arc<CombinedCache>,
    },
    /// As all that is rare, in a box: there are as many effects at once as things can begin.
    Finished {
        build: BuildId,
        result: Box<Result<CachedResult, SolveError>>,
    },
    Progress(Box<News>),
}

/// What jobs are told of a vertex.
pub(crate) struct News {
    pub(crate) jobs: Vec<JobId>,
    pub(crate) def: Arc<Vertex>,
    pub(crate) change: Change,
}

pub(crate) struct ContentCall {
    pub(crate) vertex: VertexId,
    pub(crate) def: Arc<Vertex>,
    pub(crate) input: usize,
    pub(crate) preprocess: Option<PreprocessFn>,
    pub(crate) content: Option<ContentFn>,
    pub(crate) result: SharedResult,
}

/// A wish for one edge.
pub(crate) struct Build {
    edge: EdgeId,
    owner: Owner,
}

/// Who keeps what a build loaded alive.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    Job(JobId),
    /// A sub-build of this vertex.
    Vertex(VertexId),
}

pub(crate) struct JobState {
    pub(crate) name: Arc<str>,
    /// What it holds; everything below is held by these.
    held: Vec<VertexId>,
    /// Builds that have not ended.
    open: usize,
    cancelled: bool,
    pub(crate) watched: bool,
    pub(crate) values: HashMap<String, Arc<dyn Any + Send + Sync>>,
}

/// The whole state.
pub(crate) struct Core {
    cache: Arc<CombinedCache>,
    vertices: Arena<Live>,
    names: VertexNames,
    /// Caches combined for vertices with sources, by id.
    combined: HashMap<String, Arc<CombinedCache>>,
    edges: Arena<EdgeState>,
    builds: DigestMap<BuildId, Build>,
    next_build: u64,
    jobs: BTreeMap<JobId, JobState>,
    next_job: u64,
    index: EdgeIndex,
    slots: Slots,
    looks: VecDeque<EdgeId>,
    shares: Vec<EdgeId>,
    starts: Starts,
    effects: Vec<Effect>,
    /// Reused by every look.
    facts: Vec<Facts>,
    /// Reused by every definition.
    deps: Vec<Dep>,
    /// Vertices added by the last load that can be defined at once, inputs before consumers.
    fresh: VecDeque<VertexId>,
    /// Live vertices that stand apart from their digest because they ignore the cache.
    apart: usize,
    /// A build that had nothing to do, and the job that holds it.
    dormant: Option<(JobId, Swept)>,
    /// Some edge does the work of another, so that references may form rings.
    tangled: bool,
    /// Some vertices live only because of calls under way.
    stranded: bool,
}

impl Core {
    /// An empty core with a main cache and room for so much weight of execs at once.
    pub(crate) fn new(cache: Arc<dyn CacheManager>, parallelism: Option<u32>) -> Self {
        Self {
            cache: Arc::new(CombinedCache::new(cache, &[])),
            vertices: Arena::default(),
            names: VertexNames::default(),
            combined: HashMap::new(),
            edges: Arena::default(),
            builds: DigestMap::default(),
            next_build: 0,
            jobs: BTreeMap::new(),
            next_job: 0,
            index: EdgeIndex::default(),
            slots: Slots::new(parallelism),
            looks: VecDeque::new(),
            shares: Vec::new(),
            starts: Starts::default(),
            effects: Vec::new(),
            facts: Vec::new(),
            deps: Vec::new(),
            fresh: VecDeque::new(),
            apart: 0,
            dormant: None,
            tangled: false,
            stranded: false,
        }
    }

    /// Takes in what happened; the consequences come with the next [`settle`](Core::settle).
    pub(crate) fn on(&mut self, event: Event) {
        match event {
            Event::MapDone { vertex, index, result } => self.map_done(vertex, index, result),
            Event::ContentDone { vertex, input, result } => self.content_done(vertex, input, result),
            Event::ExecDone { vertex, result } => self.exec_done(vertex, result),
            Event::LoadDone { edge, result } => self.load_done(edge, result),
            Event::SaveDone { edge, result } => self.save_done(edge, result),
            Event::Waits { vertex } => self.give_back_slot(vertex),
            Event::SourceReady => self.ask_sources_again(),
            Event::Cancel { build } => self.cancel(build),
        }
    }

    /// Draws all consequences and returns what is to be done outside.
    pub(crate) fn settle(&mut self) -> Vec<Effect> {
        loop {
            if let Some(edge) = self.looks.pop_front() {
                self.look(edge);
            } else if let Some(edge) = self.shares.pop() {
                self.share(edge);
            } else if let Some(edge) = self.starts.pop() {
                self.start(edge);
            } else {
                self.shrink();
                return std::mem::take(&mut self.effects);
            }
        }
    }

    /// Gives back the room that many edges at once took up in queues.
    fn shrink(&mut self) {
        self.looks.shrink_to(SPARE);
        self.shares.shrink_to(SPARE);
        self.starts.shrink();
        if self.slots.waiting.is_empty() {
            self.slots.waiting.shrink_to(SPARE);
        }
    }

    /// Makes a job.
    pub(crate) fn open_job(&mut self, name: Arc<str>) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        let (held, values) = (Vec::new(), HashMap::new());
        self.jobs.insert(id, JobState { name, held, open: 0, cancelled: false, watched: false, values });
        id
    }

    pub(crate) fn job(&self, job: JobId) -> Option<&JobState> {
        self.jobs.get(&job)
    }

    pub(crate) fn job_mut(&mut self, job: JobId) -> Option<&mut JobState> {
        self.jobs.get_mut(&job)
    }

    /// Ends the builds of a job, and all it may start later.
    pub(crate) fn cancel_job(&mut self, job: JobId) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.cancelled = true;
        }
        let of_job = |b: &Build| matches!(b.owner, Owner::Job(owner) if owner == job);
        let open = self.builds.iter().filter(|(_, b)| of_job(b));
        let open: Vec<BuildId> = open.map(|(id, _)| *id).collect();
        for build in open {
            self.cancel(build);
        }
    }

    /// Ends a job: its builds are cancelled, and what only it needed is dropped.
    pub(crate) fn discard(&mut self, job: JobId) {
        self.cancel_job(job);
        self.dormant.take_if(|(holder, _)| *holder == job);
        if let Some(state) = self.jobs.remove(&job) {
            for vertex in &state.held {
                self.unwatch(*vertex, job);
            }
            for vertex in state.held {
                self.release(vertex);
            }
            self.untangle();
            self.combined.retain(|_, cache| Arc::strong_count(cache) > 1);
        }
    }

    /// Demands the result of an edge that was loaded before.
    pub(crate) fn build(&mut self, owner: Owner, edge: EdgeId) -> BuildId {
        let build = BuildId(self.next_build);
        self.next_build += 1;
        if let Owner::Job(job) = owner
            && let Some(job) = self.jobs.get_mut(&job)
        {
            job.open += 1;
        }
        let target = self.find(edge);
        self.builds.insert(build, Build { edge: target, owner });
        if self.edges[target].outcome().is_some() {
            self.finish(build);
        } else {
            self.edges[target].subscribe(Subscriber::Build(build), Level::Complete);
            self.queue(target);
        }
        build
    }

    fn cancel(&mut self, build: BuildId) {
        if self.builds.contains_key(&build) {
            self.drop_build(build);
            self.effects.push(Effect::Finished { build, result: Box::new(Err(SolveError::Cancelled)) });
        }
    }

    /// Ends a build whose edge has an outcome.
    fn finish(&mut self, build: BuildId) {
        let Some(&Build { edge, owner }) = self.builds.get(&build) else { return };
        let result = match self.edges[edge].outcome() {
            Some(Ok(result)) => Ok(result.clone()),
            Some(Err(failure)) => Err(self.explain_failure(edge, failure)),
            None => return,
        };
        if let (Owner::Vertex(vertex), Ok(result)) = (owner, &result) {
            let first = result.keys().first().cloned();
            self.vertices[vertex].rare().sub_builds.extend(first);
        }
        self.drop_build(build);
        self.effects.push(Effect::Finished { build, result: Box::new(result) });
    }

    fn drop_build(&mut self, build: BuildId) {
        let Some(Build { edge, owner }) = self.builds.remove(&build) else { return };
        if let Owner::Job(id) = owner
            && let Some(job) = self.jobs.get_mut(&id)
        {
            job.open -= 1;
            if job.open == 0 && job.watched {
                self.report_rest(id);
            }
        }
        let place = self.edges[edge].subscribers.iter().position(|s| *s == Subscriber::Build(build));
        if let Some(place) = place {
            self.unsubscribe(edge, place, Level::Complete);
        }
    }

    /// The error of a build: the failed vertex and the way from the target down to it.
    fn explain_failure(&self, target: EdgeId, failure: &Arc<Failure>) -> SolveError {
        let mut chain = Vec::new();
        let mut at = target;
        loop {
            chain.push(self.vertices[self.edges[at].vertex].def.label());
            let failed_the_same = |edge: &EdgeId| matches!(self.edges[*edge].outcome(), Some(Err(f)) if Arc::ptr_eq(f, failure));
            let next = self.edges[at].deps.iter().map(|dep| self.find(dep.edge)).find(failed_the_same);
            match next {
                Some(edge) => at = edge,
                None => break,
            }
        }
        SolveError::Vertex { vertex: failure.vertex.clone(), chain, cause: Arc::clone(&failure.cause) }
    }

    /// The edge that does the work of this one.
    fn find(&self, mut edge: EdgeId) -> EdgeId {
        while let Some(into) = self.edges[edge].merged_into() {
            edge = into;
        }
        edge
    }

    /// Has an edge looked at. With an outcome there is nothing left to look for.
    fn queue(&mut self, edge: EdgeId) {
        let state = &mut self.edges[edge];
        if !state.queued && state.outcome().is_none() {
            state.queued = true;
            self.looks.push_back(edge);
        }
    }

    /// Lets everybody who wants an edge look at it. A finished edge lets go of them: it will have no
    /// more news.
    fn notify(&mut self, edge: EdgeId) {
        let subscribers = std::mem::take(&mut self.edges[edge].subscribers);
        for subscriber in subscribers.iter() {
            if let Subscriber::Edge { edge, .. } = subscriber {
                self.queue(*edge);
            }
        }
        let state = &mut self.edges[edge];
        if state.outcome().is_none() {
            state.subscribers = subscribers;
            return;
        }
        state.forget_demands();
        for subscriber in subscribers.iter() {
            if let Subscriber::Build(build) = subscriber {
                self.finish(*build);
            }
        }
    }

    /// Withdraws a demand; `place` is where the subscriber stands in the edge's list.
    fn unsubscribe(&mut self, edge: EdgeId, place: usize, level: Level) {
        let state = &mut self.edges[edge];
        if state.outcome().is_some() {
            return;
        }
        let before = state.wanted();
        state.wants(level, -1);
        state.subscribers.swap_remove(place);
        let moved = state.subscribers.get(place).copied();
        let changed = state.wanted() != before;
        if let Some(Subscriber::Edge { edge: other, dep }) = moved {
            self.edges[other].deps[dep as usize].place = u32::try_from(place).expect("few subscribers");
        }
        if changed {
            self.queue(edge);
        }
    }

    /// Sets what an edge demands of one of its inputs.
    fn demand(&mut self, edge: EdgeId, dep: usize, level: Level) {
        let entry = &self.edges[edge].deps[dep];
        let (before, place) = (entry.demand, entry.place as usize);
        let source = entry.edge;
        if before == level {
            return;
        }
        if before != Level::Nothing {
            self.unsubscribe(source, place, before);
        }
        self.edges[edge].deps[dep].demand = level;
        if level == Level::Nothing {
            return;
        }
        let source = self.find(source);
        let target = &mut self.edges[source];
        if target.outcome().is_some() {
            self.edges[edge].deps[dep].follow(source);
            return;
        }
        let was = target.wanted();
        let subscriber = Subscriber::Edge { edge, dep: u32::try_from(dep).expect("few inputs") };
        let place = target.subscribe(subscriber, level);
        if target.wanted() != was {
            self.queue(source);
        }
        let entry = &mut self.edges[edge].deps[dep];
        entry.follow(source);
        entry.place = place;
    }

    /// Sizes of everything, for tests of leaks and for diagnostics.
    pub(crate) fn census(&self) -> Census {
        Census {
            vertices: self.vertices.len(),
            edges: self.edges.len(),
            builds: self.builds.len(),
            jobs: self.jobs.len(),
            indexed: self.index.len(),
            slots: self.slots.used(),
        }
    }
}

/// How much is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Live vertices.
    pub vertices: usize,
    /// Outputs of live vertices that somebody refers to.
    pub edges: usize,
    /// Builds that have not ended.
    pub builds: usize,
    /// Jobs that were not discarded.
    pub jobs: usize,
    /// Entries by which equal work is found.
    pub indexed: usize,
    /// Weight of the execs running.
    pub slots: u64,
}
