//! The driver: carries out what the core decides. All threads and locks are here and in the pool.
//!
//! There is one lock around the core, and no thread of its own: whoever brings news (a caller, a
//! pool thread with a finished call) lets the core draw its conclusions, then carries out the
//! quick effects itself, outside the lock, and hands the slow ones to the pool.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use crate::cache::{CacheManager, CacheRecord, CombinedCache, Timestamp};
use crate::cancel::{CancelToken, HookGuard};
use crate::decide::{BuildId, Call, ContentCall, Core, Effect, Event, JobId, Owner, VertexId};
use crate::digest_map::DigestMap;
use crate::error::{CacheError, OpError, Phase, SolveError, VertexError};
use crate::few::Few;
use crate::graph::{Edge, Graph, Input, Vertex};
use crate::key::CacheKey;
use crate::op::{Blocking, MapStep, OpContext, Seat};
use crate::pool::Pool;
use crate::progress::{Change, LogStream, ProgressEvent, Status};
use crate::result::{CachedResult, SharedResult};
use crate::solver::SolverOptions;
use crate::sweep::{Swept, sweep};

/// Where the result of a build goes: its number among the caller's edges comes with it.
pub(crate) type BuildSender = Sender<(usize, Result<CachedResult, SolveError>)>;

/// How many effects are carried out before their outcomes are told to the core.
const BATCH: usize = 256;

/// What an [`OpContext`] needs of the solver.
pub(crate) trait Host: Send + Sync {
    fn log(&self, seat: Seat, stream: LogStream, bytes: &[u8]);
    fn status(&self, seat: Seat, status: Status);
    fn sub_build(&self, seat: Seat, edge: &Edge, cancel: &CancelToken) -> Result<CachedResult, SolveError>;
    fn job_values(&self, seat: Seat, key: &str) -> Vec<Arc<dyn Any + Send + Sync>>;
}

pub(crate) struct Driver {
    state: Mutex<State>,
    idle: Condvar,
    pool: Pool,
    last_time: AtomicU64,
    /// Ask for every cache map twice.
    verify: bool,
    /// For tasks that must find their way back.
    this: Weak<Driver>,
}

pub(crate) struct State {
    pub(crate) core: Core,
    /// Tokens of calls on the pool.
    tokens: HashMap<Call, CancelToken>,
    waiting: DigestMap<BuildId, (usize, BuildSender)>,
    pub(crate) watchers: HashMap<JobId, Sender<ProgressEvent>>,
    /// Calls that have not ended.
    running: usize,
    /// A graph is being swept.
    sweeping: bool,
}

impl Driver {
    pub(crate) fn new(options: SolverOptions) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            state: Mutex::new(State {
                core: Core::new(options.cache, options.parallelism),
                tokens: HashMap::new(),
                waiting: DigestMap::default(),
                watchers: HashMap::new(),
                running: 0,
                sweeping: false,
            }),
            idle: Condvar::new(),
            pool: Pool::new(options.threads),
            verify: options.verify_cache_maps,
            last_time: AtomicU64::new(0),
            this: this.clone(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads edges and demands them; results go to `sender` as they come.
    pub(crate) fn start_builds(
        &self,
        owner: Owner,
        graph: &Graph,
        targets: &[(usize, Input)],
        sender: &BuildSender,
    ) -> Result<Vec<BuildId>, SolveError> {
        let inputs: Vec<Input> = targets.iter().map(|(_, input)| *input).collect();
        let mut state = self.when_swept(self.state());
        let mut swept = None;
        if let Some((job, cache)) = state.core.may_sweep(owner) {
            (state, swept) = self.sweep(state, job, graph, &inputs, &cache);
            state.core.is_open(owner)?;
            if let Some(whole) = swept.take_if(|swept| swept.is_whole()) {
                for (result, (number, _)) in whole.results.iter().flatten().zip(targets) {
                    // A receiver that is gone does not want the result.
                    let _ = sender.send((*number, Ok(result.clone())));
                }
                state.core.rest(job, whole);
                return Ok(Vec::new());
            }
        }
        let edges = state.core.load(owner, graph, &inputs, swept.as_ref())?;
        drop(swept);
        loop {
            let mut some = state.core.survey(BATCH);
            if some.is_empty() {
                break;
            }
            some.retain_mut(|effect| state.keeps(effect));
            state = self.perform_all(state, some);
            // The lock was free meanwhile.
            state.core.is_open(owner)?;
        }
        let mut builds = Vec::with_capacity(edges.len());
        for (edge, (number, _)) in edges.into_iter().zip(targets) {
            let build = state.core.build(owner, edge);
            state.waiting.insert(build, (*number, sender.clone()));
            builds.push(build);
        }
        self.settle(state);
        Ok(builds)
    }

    /// Sweeps a graph outside the lock. Whoever wants to load something meanwhile waits.
    fn sweep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        job: JobId,
        graph: &Graph,
        targets: &[Input],
        cache: &Arc<CombinedCache>,
    ) -> (MutexGuard<'a, State>, Option<Swept>) {
        state.sweeping = true;
        drop(state);
        let mut ask = |def: &Arc<Vertex>| self.call_map(Seat::Job(job), def, 0, CancelToken::never(), true);
        // A cache that panics does so again in the ordinary build.
        let swept = no_panic(|| sweep(graph, targets, cache, &mut ask)).ok();
        let mut state = self.state();
        state.sweeping = false;
        self.idle.notify_all();
        (state, swept)
    }

    fn when_swept<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.sweeping {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Cancels builds when a token is cancelled. That may happen inside the lock, when the token is
    /// that of a call, so another thread does it.
    pub(crate) fn cancel_with(&self, token: &CancelToken, builds: Vec<BuildId>) -> HookGuard {
        let this = self.this.clone();
        token.on_cancel(move || {
            if let Some(driver) = this.upgrade() {
                let pool = Arc::clone(&driver);
                pool.pool.run(Box::new(move || driver.cancel_builds(&builds)));
            }
        })
    }

    fn cancel_builds(&self, builds: &[BuildId]) {
        let mut state = self.state();
        for build in builds {
            state.core.on(Event::Cancel { build: *build });
        }
        self.settle(state);
    }

    /// Changes the core and carries out what follows.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let value = change(&mut state);
        self.settle(state);
        value
    }

    /// Waits until no call is under way.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state();
        while state.running > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn deliver(&self, event: Event) {
        let mut state = self.state();
        state.end_of(&event);
        state.core.on(event);
        self.settle(state);
    }

    /// Lets the core settle and performs its effects until there are no more.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        loop {
            let mut effects = state.core.settle();
            effects.retain_mut(|effect| state.keeps(effect));
            if effects.is_empty() {
                if state.running == 0 {
                    self.idle.notify_all();
                }
                return;
            }
            state = self.perform_all(state, effects);
        }
    }

    /// Carries out effects in their order, and tells the core what came of them.
    fn perform_all<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        effects: Vec<Effect>,
    ) -> MutexGuard<'a, State> {
        let mut effects = effects.into_iter().peekable();
        while effects.peek().is_some() {
            drop(state);
            let some = effects.by_ref().take(BATCH);
            let events: Vec<Event> = some.filter_map(|effect| self.perform(effect)).collect();
            state = self.state();
            for event in events {
                state.end_of(&event);
                state.core.on(event);
            }
        }
        state
    }

    /// Carries out one effect: at once if it is quick, which gives an event, else on the pool.
    fn perform(&self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::CallMap { vertex, def, index } => {
                let inline = def.op.blocking() != Blocking::Always;
                self.call(inline, Call::Map(vertex), move |driver, cancel| {
                    let result = driver.call_map(Seat::Vertex(vertex), &def, index, cancel, inline);
                    Event::MapDone { vertex, index, result }
                })
            }
            Effect::CallContent(call) => {
                let inline = call.def.op.blocking() == Blocking::Never;
                self.call(inline, Call::Content(call.vertex, call.input), move |driver, cancel| {
                    driver.call_content(&call, cancel, inline)
                })
            }
            Effect::CallExec { vertex, def, inputs } => {
                let inline = def.op.blocking() == Blocking::Never;
                self.call(inline, Call::Exec(vertex), move |driver, cancel| {
                    driver.call_exec(vertex, &def, &inputs, cancel, inline)
                })
            }
            Effect::Load { edge, cache, record, quick } => self.call(quick, Call::Load(edge), move |_, _| {
                let loaded = no_panic(|| cache.load(&record));
                let result = loaded.unwrap_or_else(|text| Err(CacheError::storage(text)));
                Event::LoadDone { edge, result }
            }),
            Effect::Save { edge, cache, keys, result } => {
                let saved = no_panic(|| self.save(&*cache, &keys, &result));
                Some(Event::SaveDone {
                    edge,
                    result: saved.unwrap_or_else(|text| Err(CacheError::storage(text))),
                })
            }
            Effect::Prepare { cache } => {
                let this = self.this.clone();
                cache.prepare(Box::new(move || {
                    if let Some(driver) = this.upgrade() {
                        driver.deliver(Event::SourceReady);
                    }
                }));
                None
            }
            Effect::Cancel(_) | Effect::Finished { .. } | Effect::Progress(_) => None,
        }
    }

    fn call(
        &self,
        inline: bool,
        call: Call,
        run: impl FnOnce(&Driver, CancelToken) -> Event + Send + 'static,
    ) -> Option<Event> {
        if inline {
            return Some(run(self, CancelToken::never()));
        }
        let this = self.this.upgrade()?;
        let cancel = self.state().tokens.get(&call).cloned().unwrap_or_default();
        self.pool.run(Box::new(move || {
            let event = run(&this, cancel);
            this.deliver(event);
        }));
        None
    }

    fn context(&self, seat: Seat, def: &Vertex, cancel: CancelToken, inline: bool) -> OpContext<'_> {
        OpContext { vertex: def.label(), cancel, host: self, seat, inline }
    }

    fn call_map(
        &self,
        seat: Seat,
        def: &Vertex,
        index: usize,
        cancel: CancelToken,
        inline: bool,
    ) -> Result<MapStep, VertexError> {
        let ctx = self.context(seat, def, cancel, inline);
        let first = call_op(Phase::CacheMap, || def.op.cache_map(&ctx, index))?;
        if self.verify {
            let again = call_op(Phase::CacheMap, || def.op.cache_map(&ctx, index));
            if again.is_ok_and(|again| !first.equals(&again)) {
                return Err(VertexError::UnstableCacheMap { index });
            }
        }
        Ok(first)
    }

    fn call_content(&self, call: &ContentCall, cancel: CancelToken, inline: bool) -> Event {
        let ctx = self.context(Seat::Vertex(call.vertex), &call.def, cancel, inline);
        let run = || {
            if let Some(preprocess) = &call.preprocess {
                preprocess(&ctx, &call.result)?;
            }
            call.content.as_ref().map_or(Ok(None), |content| content(&ctx, &call.result))
        };
        let result = call_op(Phase::Content, run).map_err(|error| match error {
            VertexError::Op { error, .. } => {
                VertexError::Content { input: call.input, error, result: call.result.clone() }
            }
            other => other,
        });
        Event::ContentDone { vertex: call.vertex, input: call.input, result }
    }

    fn call_exec(
        &self,
        vertex: VertexId,
        def: &Vertex,
        inputs: &[SharedResult],
        cancel: CancelToken,
        inline: bool,
    ) -> Event {
        let ctx = self.context(Seat::Vertex(vertex), def, cancel, inline);
        let permit = call_op(Phase::Acquire, || def.op.acquire(&ctx));
        let result = permit.and_then(|permit| {
            let result = call_op(Phase::Exec, || def.op.exec(&ctx, inputs));
            drop(permit);
            result
        });
        Event::ExecDone { vertex, result }
    }

    fn save(
        &self,
        cache: &dyn CacheManager,
        keys: &[CacheKey],
        result: &SharedResult,
    ) -> Result<Few<CacheRecord>, CacheError> {
        let now = self.now();
        keys.iter().map(|key| cache.save(key, result, now)).collect()
    }

    /// The time, never the same twice, so that of two records one is newer.
    fn now(&self) -> Timestamp {
        let now = Timestamp::of(SystemTime::now()).0;
        let last = self.last_time.fetch_max(now, Ordering::Relaxed);
        if last < now {
            Timestamp(now)
        } else {
            Timestamp(self.last_time.fetch_add(1, Ordering::Relaxed) + 1)
        }
    }

    fn tell(&self, seat: Seat, change: &Change) {
        // A vertex that is not live has no watchers.
        let Seat::Vertex(vertex) = seat else { return };
        let state = self.state();
        let (jobs, def) = state.core.watchers(vertex);
        state.send(jobs, def, change);
    }
}

impl State {
    /// Does what must happen in the order of the core's decisions; true if more is to be done
    /// outside the lock.
    fn keeps(&mut self, effect: &mut Effect) -> bool {
        match effect {
            Effect::CallMap { vertex, def, .. } => {
                self.begin(Call::Map(*vertex), def.op.blocking() == Blocking::Always);
            }
            Effect::CallContent(call) => {
                let pooled = call.def.op.blocking() != Blocking::Never;
                self.begin(Call::Content(call.vertex, call.input), pooled);
            }
            Effect::CallExec { vertex, def, .. } => {
                self.begin(Call::Exec(*vertex), def.op.blocking() != Blocking::Never);
            }
            Effect::Load { edge, quick, .. } => self.begin(Call::Load(*edge), !*quick),
            Effect::Save { .. } => self.running += 1,
            Effect::Prepare { .. } => {}
            Effect::Cancel(call) => {
                if let Some(token) = self.tokens.get(call) {
                    token.cancel();
                }
                return false;
            }
            Effect::Finished { build, result } => {
                if let Some((number, sender)) = self.waiting.remove(build) {
                    // A receiver that is gone does not want the result.
                    let _ =
                        sender.send((number, std::mem::replace(&mut **result, Err(SolveError::Cancelled))));
                }
                return false;
            }
            Effect::Progress(news) => {
                self.send(&news.jobs, &news.def, &news.change);
                return false;
            }
        }
        true
    }

    fn begin(&mut self, call: Call, pooled: bool) {
        self.running += 1;
        if pooled {
            self.tokens.insert(call, CancelToken::new());
        }
    }

    /// Forgets what was remembered of a call that has ended.
    fn end_of(&mut self, event: &Event) {
        let call = match event {
            Event::MapDone { vertex, .. } => Call::Map(*vertex),
            Event::ContentDone { vertex, input, .. } => Call::Content(*vertex, *input),
            Event::ExecDone { vertex, .. } => Call::Exec(*vertex),
            Event::LoadDone { edge, .. } => Call::Load(*edge),
            Event::SaveDone { .. } => {
                self.running -= 1;
                return;
            }
            Event::Waits { .. } | Event::SourceReady | Event::Cancel { .. } => return,
        };
        self.running -= 1;
        if !self.tokens.is_empty() {
            self.tokens.remove(&call);
        }
    }

    fn send(&self, jobs: &[JobId], def: &Vertex, change: &Change) {
        for sender in jobs.iter().filter_map(|job| self.watchers.get(job)) {
            let event = ProgressEvent { vertex: def.label(), at: SystemTime::now(), change: change.clone() };
            // A watcher that is gone does not want to know.
            let _ = sender.send(event);
        }
    }
}

impl Host for Driver {
    fn log(&self, seat: Seat, stream: LogStream, bytes: &[u8]) {
        self.tell(seat, &Change::Log { stream, bytes: bytes.into() });
    }

    fn status(&self, seat: Seat, status: Status) {
        self.tell(seat, &Change::Status(status));
    }

    fn sub_build(&self, seat: Seat, edge: &Edge, cancel: &CancelToken) -> Result<CachedResult, SolveError> {
        let Seat::Vertex(vertex) = seat else { return Err(SolveError::Cancelled) };
        self.deliver(Event::Waits { vertex });
        let (sender, receiver) = std::sync::mpsc::channel();
        let builds = self.start_builds(Owner::Vertex(vertex), &edge.graph, &[(0, edge.at)], &sender)?;
        drop(sender);
        let _hook = self.cancel_with(cancel, builds);
        let received = self.pool.waiting(|| receiver.recv());
        received.map_or(Err(SolveError::Cancelled), |(_, result)| result)
    }

    fn job_values(&self, seat: Seat, key: &str) -> Vec<Arc<dyn Any + Send + Sync>> {
        let state = self.state();
        let jobs = match seat {
            Seat::Vertex(vertex) => state.core.holders(vertex),
            Seat::Job(job) => vec![job],
        };
        jobs.iter().filter_map(|job| state.core.job(*job)?.values.get(key).cloned()).collect()
    }
}

/// Runs a call of an op; a panic becomes an error.
fn call_op<T>(phase: Phase, run: impl FnOnce() -> Result<T, OpError>) -> Result<T, VertexError> {
    match no_panic(run) {
        Ok(result) => result.map_err(|error| VertexError::Op { phase, error }),
        Err(message) => Err(VertexError::Panicked { phase, message }),
    }
}

fn no_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}
