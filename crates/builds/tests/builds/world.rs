//! A world in which builds run: heads, memories and queues, a driver that makes every choice from a list of random
//! numbers, and a log of what was executed.

use std::collections::{BTreeMap, BTreeSet};

use quern_builds::{
    Build, BuildPlan, BuildPolicy, BuildStatus, DatasetBranch, Effect, Event, Facts, Head, JobFailure,
    JobIndex, JobSpecId, JobSpecs, JobState, LastBuilt, OutputQueues, Request, plan,
};
use quern_core::{Digest, Id, Timestamp};

use crate::words::id;

/// How much may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    pub failures: bool,
    pub crashes: bool,
    pub aborts: bool,
}

pub const NONE: Trouble = Trouble { failures: false, crashes: false, aborts: false };
pub const ALL: Trouble = Trouble { failures: true, crashes: true, aborts: true };

pub struct World {
    pub specs: JobSpecs,
    pub heads: BTreeMap<DatasetBranch, Head>,
    pub last: BTreeMap<JobSpecId, LastBuilt>,
    queues: OutputQueues,
    next_id: u64,
    now: u64,
    /// Every execution as (spec, attempt), in the order in which they began.
    pub executed: Vec<(JobSpecId, u32)>,
}

/// A build that goes on.
pub struct Progress {
    pub build: Build,
    /// Jobs a worker could take, with the attempt.
    ready: BTreeMap<JobIndex, u32>,
    running: BTreeSet<JobIndex>,
    cancelled: BTreeSet<JobIndex>,
}

impl World {
    pub fn new(specs: JobSpecs) -> Self {
        Self {
            specs,
            heads: BTreeMap::new(),
            last: BTreeMap::new(),
            queues: OutputQueues::default(),
            next_id: 1,
            now: 0,
            executed: Vec::new(),
        }
    }

    fn fresh_id(&mut self) -> Id {
        self.next_id += 1;
        id(self.next_id)
    }

    /// A commit from outside.
    pub fn commit(&mut self, branch: &DatasetBranch, content: &str) {
        let head = Head { commit: self.fresh_id(), content: Digest::of(content.as_bytes()) };
        self.heads.insert(branch.clone(), head);
    }

    pub fn plan(&self, request: &Request) -> BuildPlan {
        plan(request, &Facts { specs: &self.specs, heads: &self.heads, last_built: &self.last }).unwrap()
    }

    pub fn open(&mut self, plan: BuildPlan, policy: BuildPolicy) -> Progress {
        let build_id = self.fresh_id();
        let mut next = self.next_id;
        let ids = || {
            next += 1;
            id(next)
        };
        let (build, effects) = Build::open(build_id, plan, policy, ids, Timestamp(self.now));
        self.next_id = next;
        let (ready, running, cancelled) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut progress = Progress { build, ready, running, cancelled };
        self.carry_out(&mut progress, effects);
        progress
    }

    /// Applies an event to the build and, every few times, to a copy that was stored and read again.
    fn apply(&mut self, progress: &mut Progress, event: &Event) {
        self.now += 1;
        if !self.now.is_multiple_of(4) {
            let effects = progress.build.on(Timestamp(self.now), event).unwrap();
            return self.carry_out(progress, effects);
        }
        let stored = serde_json::to_string(&progress.build).unwrap();
        let mut copy: Build = serde_json::from_str(&stored).unwrap();
        let effects = progress.build.on(Timestamp(self.now), event).unwrap();
        assert_eq!(copy.on(Timestamp(self.now), event).unwrap(), effects);
        assert_eq!(copy, progress.build);
        self.carry_out(progress, effects);
    }

    fn carry_out(&mut self, progress: &mut Progress, effects: Vec<Effect>) {
        // Locks first and together, as the effect asks for; what they grant comes after.
        let mut turns: Vec<Id> = Vec::new();
        for effect in effects {
            match effect {
                Effect::LockOutputs { job } => {
                    let job = progress.build.job(job).unwrap();
                    if self.queues.enter(job.id, &job.plan.outputs) {
                        turns.push(job.id);
                    }
                }
                Effect::Run { job, attempt, inputs, .. } => {
                    for input in &progress.build.job(job).unwrap().plan.inputs {
                        let producer = input.producer.map(|p| progress.build.job(p).unwrap());
                        assert!(producer.is_none_or(|p| p.state().has_ended()), "ran before its inputs");
                    }
                    assert_eq!(inputs, progress.build.job(job).unwrap().reads);
                    progress.ready.insert(job, attempt);
                }
                Effect::Cancel { job } => {
                    progress.ready.remove(&job);
                    progress.cancelled.insert(job);
                }
                Effect::FinishOutputs { job } | Effect::KeepOutputs { job } => {
                    let job = progress.build.job(job).unwrap();
                    let remembered = job.remembered().unwrap();
                    self.heads.extend(remembered.outputs.clone());
                    self.last.insert(job.plan.spec.clone(), remembered);
                    turns.extend(self.queues.leave(job.id));
                }
                Effect::DropOutputs { job } => {
                    turns.extend(self.queues.leave(progress.build.job(job).unwrap().id));
                }
                Effect::Close { status } => assert_eq!(status, progress.build.status()),
            }
        }
        for id in turns {
            self.give_turn(progress, id);
        }
    }

    fn give_turn(&mut self, progress: &mut Progress, id: Id) {
        let job = progress.build.index_of(id).unwrap();
        let found = progress.build.job(job).unwrap();
        if matches!(found.state(), JobState::Waiting { locked: false }) {
            let last = self.last.get(&found.plan.spec).cloned();
            self.apply(progress, &Event::OutputsLocked { job, last });
        }
    }

    /// One choice of what happens next; whether anything could.
    pub fn step(&mut self, progress: &mut Progress, choice: u32, trouble: Trouble) -> bool {
        let pick = |n: usize| choice as usize / 16 % n;
        if trouble.crashes && choice % 16 == 15 {
            self.crash(progress);
            return true;
        }
        if trouble.aborts && choice % 64 == 14 {
            self.apply(progress, &Event::Abort);
            return true;
        }
        if let Some(job) = progress.cancelled.pop_first() {
            progress.running.remove(&job);
            self.apply(progress, &Event::Stopped { job });
            return true;
        }
        let begin = !progress.ready.is_empty() && (progress.running.is_empty() || choice.is_multiple_of(2));
        if begin {
            let job = *progress.ready.keys().nth(pick(progress.ready.len())).unwrap();
            let attempt = progress.ready.remove(&job).unwrap();
            self.executed.push((progress.build.job(job).unwrap().plan.spec.clone(), attempt));
            progress.running.insert(job);
            self.apply(progress, &Event::Started { job });
        } else if !progress.running.is_empty() {
            let job = *progress.running.iter().nth(pick(progress.running.len())).unwrap();
            progress.running.remove(&job);
            let event = self.end_of(progress, job, choice, trouble);
            self.apply(progress, &event);
        } else {
            return false;
        }
        true
    }

    fn end_of(&mut self, progress: &Progress, job: JobIndex, choice: u32, trouble: Trouble) -> Event {
        if trouble.failures && choice % 5 == 1 {
            let failure = JobFailure { message: "chance".into(), retryable: choice % 10 == 1 };
            return Event::Failed { job, failure };
        }
        let running = progress.build.job(job).unwrap();
        // The content of an output depends on the content of the inputs, often not on all of it.
        let mut seen = String::new();
        for head in running.reads.values() {
            seen.push_str(&head.content.hex()[..1]);
        }
        let outputs = running.plan.outputs.clone();
        let outputs = outputs.into_iter().map(|branch| {
            let content = Digest::of(format!("{branch}{seen}").as_bytes());
            (branch, Head { commit: self.fresh_id(), content })
        });
        Event::Completed { job, outputs: outputs.collect() }
    }

    /// The driver dies; another one reads what was stored.
    fn crash(&mut self, progress: &mut Progress) {
        self.now += 1;
        let stored = serde_json::to_string(&progress.build).unwrap();
        progress.build = serde_json::from_str(&stored).unwrap();
        progress.ready.clear();
        progress.running.clear();
        progress.cancelled.clear();
        let effects = progress.build.resume(Timestamp(self.now)).unwrap();
        self.carry_out(progress, effects);
    }

    /// Runs a build to its end.
    pub fn run(&mut self, mut progress: Progress, choices: &[u32], trouble: Trouble) -> Build {
        let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
        for _ in 0..100_000 {
            let choice = choices.next().unwrap();
            if progress.build.closed().is_some() {
                assert_ne!(progress.build.status(), BuildStatus::Running);
                for job in progress.build.jobs() {
                    assert!(!self.queues.has_turn(job.id), "a lock was left behind");
                }
                return progress.build;
            }
            assert!(self.step(&mut progress, choice, trouble), "stuck: {:?}", progress.build);
        }
        panic!("a build without end");
    }
}
