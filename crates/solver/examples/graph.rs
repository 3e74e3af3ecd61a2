//! Builds a graph of no-op steps with a cache on disk, to measure the solver alone.
//!
//! `graph BUILD.ninja STATE [--null] [--export] [--timings]`: the file is the one ninja reads, as far
//! as `gen_graph.py` uses the format: one rule with a command in which `$out` stands, steps with
//! what they depend on above them, one phony step that names the targets. What no step makes is a
//! source file and becomes a vertex without inputs. With `--null` the run fails unless every target
//! comes from the cache and nothing runs.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use quern_core::Digest;
use quern_solver::{
    Blocking, CacheChains, CacheError, CacheExportMode, CacheExportOptions, CacheKeyStorage, CacheMap,
    CachedResult, CancelToken, Descriptor, FileKeyStorage, Graph, GraphBuilder, InlineResultStorage, Input,
    KeyedCache, MapStep, Op, OpContext, OpError, Remote, ResultCodec, SharedResult, Solver, SolverOptions,
    Vertex, VertexRef, export_keys,
};

/// How many steps have run.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Does nothing; its result is a number.
struct NoOp(Digest);

impl Op for NoOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.0)))
    }

    fn exec(&self, _: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        Ok(vec![SharedResult::new(inputs.len())])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Never
    }
}

/// Files by name, numbered as the vertices that make them. A table of numbers is small enough to stay
/// near the processor, unlike one of names.
struct Files<'a> {
    numbers: HashTable<u32>,
    names: Vec<&'a str>,
}

impl<'a> Files<'a> {
    fn with_capacity(files: usize) -> Self {
        Self { numbers: HashTable::with_capacity(files), names: Vec::with_capacity(files) }
    }

    /// The vertex of a file, and whether the file is new.
    fn get_or_add(&mut self, name: &'a str) -> (VertexRef, bool) {
        let names = &self.names;
        let known = |number: &u32| names[*number as usize] == name;
        match self.numbers.entry(hash(name), known, |number| hash(names[*number as usize])) {
            Entry::Occupied(entry) => (VertexRef(*entry.get()), false),
            Entry::Vacant(entry) => {
                let number = names.len() as u32;
                entry.insert(number);
                self.names.push(name);
                (VertexRef(number), true)
            }
        }
    }
}

/// Good enough for the names in a file of ours.
fn hash(name: &str) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(ODD);
    let bytes = name.as_bytes();
    let mut hash = bytes.len() as u64;
    // The last word may overlap the one before, which spares the copy of a rest.
    if let Some(last) = bytes.last_chunk() {
        let (words, _) = bytes.as_chunks();
        hash = words.iter().chain([last]).fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    } else {
        hash = bytes.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    }
    hash ^ (hash >> 32)
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

/// A line of the file.
enum Line<'a> {
    /// The rule's command before and after `$out`.
    Command(&'a str, &'a str),
    Step {
        out: &'a str,
        inputs: &'a str,
    },
    Targets(&'a str),
    Other,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Result<Self, &'static str> {
        if let Some(step) = line.strip_prefix("build ") {
            let end = step.bytes().position(|byte| byte == b':').ok_or("a step without `:`")?;
            let (out, rest) = (&step[..end], step[end + 1..].trim_start());
            let (rule, inputs) = rest.split_once(' ').unwrap_or((rest, ""));
            return Ok(if rule == "phony" { Self::Targets(inputs) } else { Self::Step { out, inputs } });
        }
        let Some(command) = line.strip_prefix(" command = ") else { return Ok(Self::Other) };
        let (before, after) = command.split_once("$out").ok_or("a command without `$out`")?;
        Ok(Self::Command(before, after))
    }
}

/// Hashes the command of every step, many at once; stops where the reader will find a mistake.
fn hash_commands(text: &str, hashed: &Sender<Vec<Digest>>) {
    let (mut before, mut after) = ("", "");
    let (mut command, mut digests) = (Vec::new(), Vec::new());
    for line in text.lines().map_while(|line| Line::of(line).ok()) {
        match line {
            Line::Command(start, end) => (before, after) = (start, end),
            Line::Step { out, .. } => {
                command.clear();
                [before, out, after].iter().for_each(|part| command.extend_from_slice(part.as_bytes()));
                digests.push(Digest::of(&command));
            }
            Line::Targets(_) | Line::Other => {}
        }
        if digests.len() == 1 << 10 {
            // A reader that is gone has found a mistake.
            let _ = hashed.send(std::mem::take(&mut digests));
        }
    }
    let _ = hashed.send(digests);
}

/// What was read of a graph so far.
struct Reader<'a, D> {
    files: Files<'a>,
    builder: GraphBuilder,
    /// The digests of commands to come.
    commands: D,
    /// What the digest of a vertex covers.
    covered: Vec<u8>,
    /// The inputs of a step.
    inputs: Vec<Input>,
    targets: Vec<Input>,
}

impl<'a, D: Iterator<Item = Digest>> Reader<'a, D> {
    fn line(&mut self, line: &'a str) -> Result<(), Box<dyn Error>> {
        match Line::of(line)? {
            Line::Step { out, inputs } => self.step(out, inputs)?,
            Line::Targets(names) => self.targets = words(names).map(|name| self.file(name)).collect(),
            Line::Command(..) | Line::Other => {}
        }
        Ok(())
    }

    /// A step: its vertex digest covers its command and everything below it.
    fn step(&mut self, out: &'a str, inputs: &'a str) -> Result<(), Box<dyn Error>> {
        let op = self.commands.next().ok_or("a step whose command was not hashed")?;
        let mut inputs_of = std::mem::take(&mut self.inputs);
        inputs_of.clear();
        inputs_of.extend(words(inputs).map(|name| self.file(name)));
        self.covered.clear();
        self.covered.extend_from_slice(op.as_bytes());
        for input in &inputs_of {
            let below = self.builder.vertex(input.vertex).ok_or("an input that was not added")?;
            self.covered.extend_from_slice(below.digest.as_bytes());
        }
        let mut vertex = Vertex::new(Digest::of(&self.covered), Arc::new(NoOp(op)));
        // As long as needed, and no longer.
        vertex.inputs = inputs_of.clone();
        self.inputs = inputs_of;
        if !self.files.get_or_add(out).1 {
            return Err(format!("{out} is made twice, or used before it is made").into());
        }
        self.builder.add(vertex);
        Ok(())
    }

    /// What makes a file; a source, if nothing was said to make it.
    fn file(&mut self, name: &'a str) -> Input {
        let (vertex, is_new) = self.files.get_or_add(name);
        if is_new {
            let digest = Digest::of(name.as_bytes());
            self.builder.add(Vertex::new(digest, Arc::new(NoOp(digest))));
        }
        vertex.into()
    }
}

/// The words of a line; they are short, so bytes are looked at one by one.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let end = rest.bytes().position(|byte| byte == b' ').unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or("");
        (!word.is_empty()).then_some(word)
    })
}

/// A graph and its targets.
type Read = (Graph, Vec<Input>);

/// The graph of a file; the digests of its commands come from elsewhere.
fn read_graph(text: &str, commands: impl Iterator<Item = Digest>) -> Result<Read, Box<dyn Error>> {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count();
    let mut reader = Reader {
        files: Files::with_capacity(lines),
        builder: GraphBuilder::with_capacity(lines),
        commands,
        covered: Vec::new(),
        inputs: Vec::new(),
        targets: Vec::new(),
    };
    text.lines().try_for_each(|line| reader.line(line))?;
    Ok((reader.builder.finish()?, reader.targets))
}

/// Reads the graph of a text; meanwhile its commands are hashed, and then the cache is opened.
fn read_and_open(text: &str, state: &str) -> Result<(Read, Arc<FileKeyStorage>), Box<dyn Error>> {
    let (sender, hashed) = channel();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            hash_commands(text, &sender);
            drop(sender);
            FileKeyStorage::open(PathBuf::from(state))
        });
        let read = read_graph(text, hashed.into_iter().flatten())?;
        let opened = opening.join().map_err(|_| "opening the cache panicked")?;
        Ok((read, Arc::new(opened?)))
    })
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
        return Err("usage: graph BUILD.ninja STATE [--null] [--export] [--timings]".into());
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
    let ((graph, targets), keys) = read_and_open(&text, state)?;
    drop(text);
    lap("graph");
    let cache = KeyedCache::new("disk", keys.clone(), Arc::new(InlineResultStorage::new(Numbers)))?;
    let solver = Solver::new(SolverOptions { cache: Arc::new(cache), ..SolverOptions::default() });
    let job = solver.job("build")?;
    let mut failed = None;
    let mut results: Vec<CachedResult> = Vec::with_capacity(targets.len());
    job.build_all(&graph, &targets, &CancelToken::never(), |_, result| match result {
        Ok(result) => results.push(result),
        Err(error) => failed = failed.take().or(Some(error)),
    });
    lap("build");
    if RUNS.load(Ordering::Relaxed) > 0 {
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
    let (ran, all) = (RUNS.load(Ordering::Relaxed), graph.len());
    let mut text = format!("{all} vertices, {} targets, {ran} ran, {:?}\n", targets.len(), start.elapsed());
    if flag("--timings") {
        timings.iter().for_each(|(name, time)| text += &format!("  {name}_us {}\n", time.as_micros()));
    }
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if results.len() != targets.len() || results.iter().any(|result| result.get::<usize>().is_none()) {
        return Err("a target without a result".into());
    }
    if flag("--null") && ran > 0 {
        return Err("not a null build".into());
    }
    // The process ends here; taking the graph apart piece by piece would only cost time.
    std::process::exit(0);
}
