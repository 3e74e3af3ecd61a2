//! Builds a graph of no-op steps with a cache on disk, to measure the solver alone.
//!
//! `graph GRAPH.json STATE [--null] [--export] [--timings]`: the file is a list of `{out, deps, cmd}`; deps that no step makes are
//! source files and become vertices without inputs. With `--null` the run fails unless every target
//! comes from the cache and nothing runs.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use quern_core::{Digest, DigestWriter};
use quern_solver::{
    Blocking, CacheChains, CacheError, CacheExportMode, CacheExportOptions, CacheKeyStorage, CacheMap,
    CancelToken, Descriptor, FileKeyStorage, Graph, GraphBuilder, InlineResultStorage, Input, KeyedCache,
    MapStep, Op, OpContext, OpError, Remote, ResultCodec, SharedResult, Solver, SolverOptions, Vertex,
    VertexRef, export_keys,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Step<'a> {
    out: &'a str,
    #[serde(borrow)]
    deps: Vec<&'a str>,
    #[serde(borrow)]
    cmd: Vec<&'a str>,
}

/// Does nothing; its result is a number.
struct NoOp {
    digest: Digest,
    runs: Arc<AtomicUsize>,
}

impl Op for NoOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.digest)))
    }

    fn exec(&self, _: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(vec![SharedResult::new(inputs.len())])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Never
    }
}

type Names<'a> = HashMap<&'a str, (VertexRef, Digest), BuildHasherDefault<NameHasher>>;

/// Good enough for the names in a file of ours.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

struct Numbers;

impl ResultCodec for Numbers {
    fn encode(&self, result: &SharedResult) -> Result<String, CacheError> {
        result.get::<usize>().map(usize::to_string).ok_or_else(|| CacheError::storage("not a number"))
    }

    fn decode(&self, text: &str) -> Result<SharedResult, CacheError> {
        text.parse::<usize>().map(SharedResult::new).map_err(CacheError::storage)
    }
}

/// Digests of a step's command and of the step with everything below it.
fn identities(step: &Step<'_>, inputs: &[Digest]) -> (Digest, Digest) {
    let mut command = Vec::with_capacity(128);
    for word in &step.cmd {
        command.extend_from_slice(&(word.len() as u64).to_le_bytes());
        command.extend_from_slice(word.as_bytes());
    }
    let op = Digest::of(&command);
    let mut vertex = DigestWriter::new();
    vertex.update(op.as_bytes());
    inputs.iter().for_each(|input| vertex.update(input.as_bytes()));
    (op, vertex.finish())
}

/// The graph of a file, and the steps nothing depends on.
fn read_graph(text: &str, runs: &Arc<AtomicUsize>) -> Result<(Graph, Vec<Input>), Box<dyn Error>> {
    let steps: Vec<Step<'_>> = serde_json::from_str(text)?;
    let mut numbers: Names<'_> =
        HashMap::with_capacity_and_hasher(steps.len() + 1, BuildHasherDefault::default());
    let mut builder = GraphBuilder::with_capacity(steps.len() + 1);
    let mut used = Vec::new();
    for step in &steps {
        let mut inputs = Vec::with_capacity(step.deps.len());
        let mut digests = Vec::with_capacity(step.deps.len());
        for dep in &step.deps {
            let (vertex, digest) = *numbers.entry(dep).or_insert_with(|| {
                let digest = Digest::of(dep.as_bytes());
                let op = NoOp { digest, runs: Arc::clone(runs) };
                used.push(false);
                (builder.add(Vertex::new(digest, Arc::new(op))), digest)
            });
            used[vertex.0 as usize] = true;
            inputs.push(Input::from(vertex));
            digests.push(digest);
        }
        let (op, digest) = identities(step, &digests);
        let mut vertex = Vertex::new(digest, Arc::new(NoOp { digest: op, runs: Arc::clone(runs) }));
        vertex.inputs = inputs;
        used.push(false);
        numbers.insert(step.out, (builder.add(vertex), digest));
    }
    let unused = (0u32..).zip(&used).filter(|(_, used)| !**used);
    let targets = unused.map(|(number, _)| Input::from(VertexRef(number))).collect();
    Ok((builder.finish()?, targets))
}

/// Something transferable for any result.
fn remote(result: &SharedResult) -> Result<Vec<Remote>, CacheError> {
    let text = Numbers.encode(result)?;
    let (media_type, digest, size) =
        ("text/plain".to_owned(), Digest::of(text.as_bytes()), text.len() as u64);
    Ok(vec![Remote {
        descriptors: vec![Descriptor { media_type, digest, size, annotations: BTreeMap::new() }],
    }])
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, state, flags @ ..] = &args[..] else {
        return Err("usage: graph GRAPH.json STATE [--null] [--export] [--timings]".into());
    };
    let flag = |name: &str| flags.iter().any(|f| f == name);
    let start = Instant::now();
    let mut last = start;
    let mut timings = Vec::new();
    let mut lap = |name: &'static str| {
        timings.push((name, last.elapsed()));
        last = Instant::now();
    };
    let text = std::fs::read_to_string(file)?;
    lap("read");
    let runs = Arc::new(AtomicUsize::new(0));
    let (graph, targets) = read_graph(&text, &runs)?;
    drop(text);
    lap("graph");
    let keys = Arc::new(FileKeyStorage::open(PathBuf::from(state))?);
    let cache = KeyedCache::new("disk", keys.clone(), Arc::new(InlineResultStorage::new(Numbers)))?;
    lap("open");
    let solver = Solver::new(SolverOptions { cache: Arc::new(cache), ..SolverOptions::default() });
    let job = solver.job("build")?;
    let mut failed = None;
    let mut results = Vec::new();
    job.build_all(&graph, &targets, &CancelToken::never(), |_, result| match result {
        Ok(result) if flag("--export") => results.push(result),
        Ok(_) => {}
        Err(error) => failed = failed.take().or(Some(error)),
    });
    lap("build");
    if runs.load(Ordering::Relaxed) > 0 {
        keys.sync()?;
        lap("sync");
    }
    let mut chains = CacheChains::new();
    if flag("--export") {
        let options =
            CacheExportOptions { mode: CacheExportMode::Max, convert: Some(&remote), ..Default::default() };
        let keys: Vec<_> = results.iter().filter_map(|result| result.keys().first()).collect();
        export_keys(&keys, &mut chains, &options)?;
        lap("export");
        let (config, _) = chains.marshal();
        lap("marshal");
        std::fs::write(format!("{state}.json"), config)?;
    }
    let (ran, all) = (runs.load(Ordering::Relaxed), graph.len());
    let mut text = format!("{all} vertices, {} targets, {ran} ran, {:?}\n", targets.len(), start.elapsed());
    if flag("--timings") {
        timings.iter().for_each(|(name, time)| text += &format!("  {name} {time:?}\n"));
    }
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if flag("--null") && ran > 0 {
        return Err("not a null build".into());
    }
    // The process ends here; taking the graph apart piece by piece would only cost time.
    std::process::exit(0);
}
