//! A step as an operation of the graph: tried, timed, its log kept, its result a tree.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use quern_catalog::{LinkError, resolve_links, tree};
use quern_core::canon::{DigestVisitor, Visitor};
use quern_core::event::Stream;
use quern_core::port::{Blobs, Cancel, Executor, Exit, Held, Observer, Outcome, PortError};
use quern_core::{Attempt, ContentRef, Digest, Id, Step};
use quern_solver::{
    Blocking, CacheError, CacheMap, CacheResult, CacheResultStorage, MapStep, Op, OpContext, OpError, Remote,
    SharedResult, Timestamp,
};
use quern_store::Root;

/// Hears of each try of a step while it runs.
pub trait Watcher: Send + Sync {
    /// The step begins to run; it was in no cache.
    fn started(&self);
    /// It wrote a line.
    fn line(&self, stream: Stream, line: &[u8]);
}

/// A step to be run at most once per key, however many want it.
pub struct StepOp {
    /// The identity of its result: [`vertex_digest`].
    pub digest: Digest,
    /// What to run. `attempt.number` is the number of the first try.
    pub attempt: Attempt,
    /// Run in place of the step when its last try has failed; success makes the failure a recovered one.
    pub on_error: Option<Attempt>,
    /// How often to try, at least 1.
    pub tries: u32,
    /// Who runs it.
    pub executor: Arc<dyn Executor>,
    /// Where its log is kept.
    pub blobs: Arc<dyn Blobs>,
    /// Who hears of it.
    pub watcher: Arc<dyn Watcher>,
    /// What keeps its inputs, if they are not in the store.
    pub held: Vec<Held>,
}

/// What a step that succeeded left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// The tree of its first output.
    pub output: ContentRef,
    /// What it printed, if anything.
    pub log: Option<Digest>,
    /// How long the successful try ran.
    pub millis: u64,
    /// How often it was tried.
    pub tries: u32,
    /// It ran in this process; it was not found in a cache.
    pub ran: bool,
}

/// How a step that did not succeed ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StepFailure {
    /// In words.
    pub reason: String,
    /// What it printed, all tries together, if anything.
    pub log: Option<Digest>,
    /// How long all tries took.
    pub millis: u64,
    /// How often it was tried.
    pub tries: u32,
    /// Its error handler succeeded.
    pub recovered: bool,
}

/// The identity of a step's result: the key of the step, and a salt that sets results apart that were asked to be made anew.
pub fn vertex_digest(step: &Step, salt: Option<Id>) -> Digest {
    let mut visitor = DigestVisitor::new("quern.vertex.step.v1");
    visitor.digest("step", &step.key());
    if let Some(salt) = salt {
        visitor.bytes("salt", salt.as_bytes());
    }
    visitor.finish()
}

impl Op for StepOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.digest)))
    }

    fn exec(&self, ctx: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let token = ctx.cancel_token();
        let cancel = Cancel::or_when(move || token.is_cancelled());
        self.watcher.started();
        self.run(&cancel).map(|result| vec![SharedResult::new(result)])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Exec
    }
}

impl StepOp {
    fn run(&self, cancel: &Cancel) -> Result<StepResult, OpError> {
        let started = Instant::now();
        let log = LogKeeper { watcher: Arc::clone(&self.watcher), text: Mutex::default() };
        let mut reason = String::new();
        for number in 1..=self.tries.max(1) {
            let mut attempt = self.attempt.clone();
            attempt.number = number;
            match self.executor.run(&attempt, &log, cancel) {
                Ok(outcome) if succeeded(&attempt.step, &outcome) => {
                    let log = log.keep(&*self.blobs).map_err(OpError::failed)?;
                    let output = outcome.outputs.first().copied().ok_or_else(|| {
                        OpError::failed("the executor gave no output for a step that succeeded")
                    })?;
                    let output = self.without_links(&output).map_err(OpError::failed)?;
                    return Ok(StepResult {
                        output,
                        log,
                        millis: outcome.usage.wall_micros / 1000,
                        tries: number,
                        ran: true,
                    });
                }
                Ok(outcome) if outcome.exit == Exit::Cancelled => return Err(OpError::Cancelled),
                Ok(outcome) => reason = exit_text(&attempt.step, outcome.exit),
                Err(error) => reason = error.to_string(),
            }
        }
        let recovered = self.on_error.as_ref().is_some_and(|handler| {
            let outcome = self.executor.run(handler, &log, cancel);
            outcome.is_ok_and(|outcome| succeeded(&handler.step, &outcome))
        });
        if cancel.is_set() {
            return Err(OpError::Cancelled);
        }
        let log = log.keep(&*self.blobs).map_err(OpError::failed)?;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Err(OpError::failed(StepFailure { reason, log, millis, tries: self.tries.max(1), recovered }))
    }
}

impl StepOp {
    /// The output with links into inputs replaced by what they point to, so that it means the same everywhere.
    fn without_links(&self, output: &ContentRef) -> Result<ContentRef, LinkError> {
        let blobs = &*self.blobs;
        resolve_links(blobs, output, &|target| {
            let place = format!("/pfs/{}", target.input);
            let Some(input) = self.attempt.step.inputs.iter().find(|input| input.target == place) else {
                return Ok(None);
            };
            let size = blobs.get(&input.tree).map_err(LinkError::from)?.len() as u64;
            let tree = ContentRef { digest: input.tree, size };
            Ok(tree::find(blobs, &tree, target.path)?)
        })
    }
}

fn succeeded(step: &Step, outcome: &Outcome) -> bool {
    matches!(outcome.exit, Exit::Code(code) if code == 0 || step.accept.contains(&code))
}

fn exit_text(step: &Step, exit: Exit) -> String {
    let program = step.argv.first().map_or("", String::as_str);
    match exit {
        Exit::Code(code) => format!("`{program}` exited with code {code}"),
        Exit::Signal(signal) => format!("`{program}` was ended by signal {signal}"),
        Exit::TimedOut => format!("`{program}` ran longer than {:?}", step.timeout.unwrap_or_default()),
        Exit::OutOfMemory => format!("`{program}` used more memory than allowed"),
        Exit::Cancelled => format!("`{program}` was cancelled"),
    }
}

/// Passes lines on and keeps them.
struct LogKeeper {
    watcher: Arc<dyn Watcher>,
    text: Mutex<Vec<u8>>,
}

impl Observer for LogKeeper {
    fn line(&self, stream: Stream, line: &[u8]) {
        self.watcher.line(stream, line);
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(line);
        text.push(b'\n');
    }
}

impl LogKeeper {
    fn keep(&self, blobs: &dyn Blobs) -> Result<Option<Digest>, PortError> {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() { Ok(None) } else { blobs.put(&text).map(|content| Some(content.digest)) }
    }
}

/// Step results in the solver's cache. A result's id says everything about it, so there is nothing to store
/// besides the tree and the log, which are blobs.
pub struct StepResults {
    blobs: Arc<dyn Blobs>,
}

impl StepResults {
    /// Results whose trees are in these blobs.
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs }
    }
}

impl CacheResultStorage for StepResults {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        let result = result
            .get::<StepResult>()
            .ok_or_else(|| CacheError::storage("a result that is not a step's was given to the cache"))?;
        Ok(CacheResult { id: encode(result).into(), created_at })
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        if !self.exists(&result.id)? {
            return Err(CacheError::NotFound);
        }
        decode(&result.id).map(SharedResult::new).ok_or(CacheError::NotFound)
    }

    fn load_remotes(&self, _: &CacheResult) -> Vec<Remote> {
        Vec::new()
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        let Some(result) = decode(result) else { return Ok(false) };
        self.blobs.contains(&result.output.digest).map_err(CacheError::storage)
    }

    /// What was pruned is noticed when it is loaded, and made again; to ask for each of a hundred thousand results
    /// whenever the cache is opened would cost more than all of them are worth.
    fn may_lose(&self) -> bool {
        false
    }

    fn size(&self, result: &CacheResult) -> u64 {
        decode(&result.id).map_or(0, |result| result.output.size)
    }
}

/// What a cached result needs to stay usable.
pub fn content_of(result: &str) -> Vec<Root> {
    let Some(result) = decode(result) else { return Vec::new() };
    std::iter::once(Root::Tree(result.output.digest)).chain(result.log.map(Root::Blob)).collect()
}

/// `step TREE SIZE LOG|- MILLIS TRIES`.
fn encode(result: &StepResult) -> String {
    let log = result.log.map_or_else(|| "-".to_owned(), |log| log.hex());
    let StepResult { output, millis, tries, .. } = result;
    format!("step {} {} {log} {millis} {tries}", output.digest.hex(), output.size)
}

fn decode(id: &str) -> Option<StepResult> {
    let mut words = id.strip_prefix("step ")?.split(' ');
    let mut word = || words.next();
    let digest = Digest::from_hex(word()?).ok()?;
    let size = word()?.parse().ok()?;
    let log = match word()? {
        "-" => None,
        hex => Some(Digest::from_hex(hex).ok()?),
    };
    let (millis, tries) = (word()?.parse().ok()?, word()?.parse().ok()?);
    Some(StepResult { output: ContentRef { digest, size }, log, millis, tries, ran: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_results_id_says_everything() {
        for log in [None, Some(Digest::of(b"log"))] {
            let output = ContentRef { digest: Digest::of(b"tree"), size: 7 };
            let result = StepResult { output, log, millis: 12, tries: 2, ran: false };
            assert_eq!(decode(&encode(&result)), Some(result));
        }
        for text in ["", "step", "step x 1 - 1 1", "other"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
