//! `RUN`: a program changes a file system.

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::event::Stream;
use quern_core::port::{Cancel, Exit, Observer};
use quern_core::step::{Attempt, Mount, Platform};
use quern_core::{Digest, Step};
use quern_solver::{
    Blocking, CacheMap, CacheMapInput, LogStream, MapStep, Op, OpContext, OpError, SharedResult,
};

use super::{Defined, Sources, Tools, digest_of, once, selected, snapshot_of};
use crate::snapshot::Snapshot;

/// A program that runs in input 0, with other inputs mounted.
///
/// Input `n` stands in the step as [`placeholder`]`(n)`: as the image, in snapshot mounts and in seeds of caches. So
/// the step's own key says everything about the operation but the inputs, which the solver knows.
pub struct RunOp {
    /// What runs.
    pub attempt: Attempt,
    /// Variables whose values are secrets, and the names of those; the values travel beside the step.
    pub secret_env: BTreeMap<String, String>,
    /// It runs whatever others run at the same time.
    pub anew: bool,
    /// What it works with.
    pub tools: Arc<Tools>,
}

/// Stands for the identity of input `number` in the step of a [`RunOp`].
pub fn placeholder(number: usize) -> Digest {
    Digest::of(format!("quern.input.{number}").as_bytes())
}

/// A program that did not succeed, in BuildKit's words.
#[derive(Debug, thiserror::Error)]
#[error("process {command:?} did not complete successfully: {end}")]
pub struct RunFailure {
    /// The whole command line.
    pub command: String,
    /// How it ended.
    pub end: String,
}

impl Defined for RunOp {
    fn definition(&self) -> Digest {
        digest_of("quern.run.v1", |v| {
            v.digest("step", &self.attempt.step.key());
            for (variable, secret) in &self.secret_env {
                v.text(variable, secret);
            }
        })
    }
}

impl Op for RunOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        let mut map = CacheMap::new(self.definition()).input(CacheMapInput::plain());
        for number in 1..=self.mounted_inputs() {
            map = map.input(self.mounted(number));
        }
        Ok(MapStep::Last(map))
    }

    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let inputs = inputs.iter().map(snapshot_of).collect::<Result<Vec<_>, _>>()?;
        let layer = if self.anew {
            self.run(ctx, &inputs)?
        } else {
            once(&self.tools, ctx, &self.definition(), &inputs, || self.run(ctx, &inputs))?
        };
        Ok(vec![SharedResult::new(inputs[0].with(&[layer]))])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Exec
    }
}

impl RunOp {
    /// Runs the program and gives the layer of what it changed.
    fn run(&self, ctx: &OpContext<'_>, inputs: &[Snapshot]) -> Result<Digest, OpError> {
        let mut attempt = self.attempt.clone();
        let step = Arc::make_mut(&mut attempt.step);
        let _known: Vec<_> = inputs.iter().map(|input| self.tools.roots.announce(input)).collect();
        fill_in(step, inputs);
        let token = ctx.cancel_token();
        let cancel = Cancel::or_when(move || token.is_cancelled());
        let outcome = self.tools.executor.run(&attempt, &Lines(ctx), &cancel).map_err(OpError::failed)?;
        let end = match outcome.exit {
            Exit::Code(0) => {
                return outcome
                    .layer
                    .ok_or_else(|| OpError::failed("the executor kept no changes of a step that may write"));
            }
            Exit::Cancelled => return Err(OpError::Cancelled),
            Exit::Code(code) => format!("exit code: {code}"),
            Exit::Signal(SIGSYS) if attempt.step.platform.arch != Platform::current().arch => {
                no_calls(&attempt.step.platform)
            }
            Exit::Signal(signal) => format!("ended by signal {signal}"),
            Exit::TimedOut => "it ran longer than allowed".to_owned(),
            Exit::OutOfMemory => "it used more memory than allowed".to_owned(),
        };
        Err(OpError::failed(RunFailure { command: attempt.step.argv.join(" "), end }))
    }

    /// How many inputs there are besides the root.
    fn mounted_inputs(&self) -> usize {
        let shown = self.attempt.step.mounts.iter().filter_map(shown);
        (1..).take_while(|number| shown.clone().any(|(id, _)| id == placeholder(*number))).count()
    }

    /// Of a mounted input only what is shown counts, by content.
    fn mounted(&self, number: usize) -> CacheMapInput {
        let id = placeholder(number);
        let mut paths: Vec<String> = (self.attempt.step.mounts.iter().filter_map(shown))
            .filter(|(of, _)| *of == id)
            .map(|(_, path)| path.to_owned())
            .collect();
        paths.sort();
        paths.dedup();
        selected(&self.tools, Sources::of_paths(paths))
    }
}

/// What ends a program that makes a system call as another architecture does: the sandbox knows only the machine's own.
const SIGSYS: i32 = 31;

fn no_calls(platform: &Platform) -> String {
    let Platform { os, arch, .. } = platform;
    format!(
        "ended by signal {SIGSYS}: the processor executes programs of {os}/{arch}, but the sandbox does not; start the stage with \
         `FROM --platform=$BUILDPLATFORM` and cross-compile"
    )
}

/// The snapshot a mount shows, and which part of it.
fn shown(mount: &Mount) -> Option<(Digest, &str)> {
    match mount {
        Mount::Snapshot { snapshot, path, .. } => Some((*snapshot, path)),
        Mount::Cache { seed: Some((snapshot, path)), .. } => Some((*snapshot, path)),
        _ => None,
    }
}

/// Puts the identities of the inputs in the place of their placeholders.
fn fill_in(step: &mut Step, inputs: &[Snapshot]) {
    let real = |id: &mut Digest| {
        if let Some(number) = (0..inputs.len()).find(|number| placeholder(*number) == *id) {
            *id = inputs[number].id();
        }
    };
    real(&mut step.image);
    for mount in &mut step.mounts {
        match mount {
            Mount::Snapshot { snapshot, .. } | Mount::Cache { seed: Some((snapshot, _)), .. } => {
                real(snapshot);
            }
            _ => {}
        }
    }
}

/// Passes lines on to everyone who watches the vertex.
struct Lines<'a>(&'a OpContext<'a>);

impl Observer for Lines<'_> {
    fn line(&self, stream: Stream, line: &[u8]) {
        let stream = match stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        self.0.log(stream, &[line, b"\n"].concat());
    }
}
