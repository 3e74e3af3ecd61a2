//! From planned stages to a graph: one vertex for each instruction that makes a layer.
//!
//! The front end has expanded every word already ([`quern_spec::dockerfile::Scope`]); what is left is to say which operation an
//! instruction is and what it reads. Configuration is applied on the way, so a stage comes out as a vertex and an image config.

mod copy;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::Digest;
use quern_oci::document::ImageConfig;
use quern_solver::{CacheManager, Graph, GraphBuilder, GraphError, Op, Vertex, VertexOptions, VertexRef};
use quern_spec::diagnostic::{Diagnostic, Diagnostics};
use quern_spec::dockerfile::{Action, BaseConfig, Instruction, Origin, Plan, PlannedStage, Scope, Step};
use quern_spec::source::Span;

use super::config;
use super::context::LocalContext;
use super::ops::{self, Defined, FileOp, ImageOp, MergeOp, ScratchOp, Tools};
use super::provenance::Materials;
use super::request::Request;
use crate::images::{ImageStore, KnownImage};

/// What a name outside the Dockerfile stands for.
#[derive(Clone)]
pub enum Outside {
    /// An image.
    Image(Arc<KnownImage>),
    /// A directory.
    Local(Arc<LocalContext>),
}

/// What lowering needs besides the plan.
pub struct Surroundings<'a> {
    /// What was asked for.
    pub request: &'a Request,
    /// What operations work with.
    pub tools: Arc<Tools>,
    /// Where images are.
    pub images: Arc<ImageStore>,
    /// The build context.
    pub context: Arc<LocalContext>,
    /// Images and named contexts, with the platform they were resolved for.
    pub outside: BTreeMap<(Origin, String), Outside>,
    /// Caches to ask besides the solver's own.
    pub caches: Vec<Arc<dyn CacheManager>>,
    /// Hears what was read from elsewhere.
    pub materials: Arc<Materials>,
}

/// A build as a graph.
pub struct Lowered {
    /// The operations.
    pub graph: Graph,
    /// The target stage's file system.
    pub target: VertexRef,
    /// The target's config, without layers and times.
    pub config: ImageConfig,
    /// Where in the Dockerfile a vertex comes from.
    pub places: BTreeMap<Digest, Place>,
}

/// Where a vertex comes from.
#[derive(Debug, Clone)]
pub struct Place {
    /// The instruction.
    pub span: Span,
    /// The stage.
    pub stage: String,
}

/// A stage, lowered so far.
struct State {
    root: VertexRef,
    scope: Scope,
    config: ImageConfig,
}

/// Lowers a plan. None if the diagnostics have errors.
///
/// # Errors
/// [`GraphError::TooLarge`].
pub fn lower(
    plan: &Plan,
    around: &Surroundings<'_>,
    diagnostics: &mut Diagnostics,
) -> Result<Option<Lowered>, GraphError> {
    let mut lowering = Lowering {
        plan,
        around,
        graph: GraphBuilder::new(),
        digests: Vec::new(),
        known: BTreeMap::new(),
        places: BTreeMap::new(),
        stages: BTreeMap::new(),
        at: Numbered::default(),
    };
    for index in &plan.order {
        lowering.stage(*index, diagnostics);
    }
    let Lowering { graph, places, mut stages, .. } = lowering;
    let target = stages.remove(&plan.target).filter(|_| !diagnostics.has_errors());
    let Some(State { root, config, .. }) = target else { return Ok(None) };
    Ok(Some(Lowered { graph: graph.finish()?, target: root, config, places }))
}

struct Lowering<'a> {
    plan: &'a Plan,
    around: &'a Surroundings<'a>,
    graph: GraphBuilder,
    /// Of each vertex.
    digests: Vec<Digest>,
    /// Vertices by digest: what is the same is one vertex.
    known: BTreeMap<Digest, VertexRef>,
    places: BTreeMap<Digest, Place>,
    stages: BTreeMap<usize, State>,
    at: Numbered,
}

/// Where lowering is: the stage, and which of its layers comes next.
#[derive(Default)]
struct Numbered {
    stage: String,
    number: usize,
    total: usize,
    span: Span,
    no_cache: bool,
}

impl Lowering<'_> {
    fn stage(&mut self, index: usize, diagnostics: &mut Diagnostics) {
        let stage = &self.plan.stages[index];
        let layers = stage.instructions.iter().filter(|instruction| may_make_layer(instruction)).count();
        self.at = Numbered {
            stage: stage.name.clone(),
            number: 0,
            total: layers + 1,
            span: stage.span,
            no_cache: self.around.request.runs_anew(&stage.name),
        };
        let Some(mut state) = self.base(stage, diagnostics) else { return };
        for instruction in &stage.instructions {
            self.at.span = instruction.span;
            if let Some(step) = state.scope.apply(instruction, diagnostics) {
                self.step(&mut state, instruction, step, diagnostics);
            }
        }
        self.stages.insert(index, state);
    }

    /// What a stage starts from.
    fn base(&mut self, stage: &PlannedStage, diagnostics: &mut Diagnostics) -> Option<State> {
        if let Origin::Stage(base) = stage.base {
            // A base that could not be lowered has been reported.
            let base = self.stages.get(&base)?;
            let mut config = base.config.clone();
            // They have become instructions of this stage.
            config.config.on_build.clear();
            self.at.number += 1;
            return Some(State { root: base.root, scope: base.scope.child(), config });
        }
        let name = match &stage.base {
            Origin::Scratch => "scratch",
            Origin::Context(name) | Origin::Image(name) => name,
            Origin::Stage(_) => unreachable!("handled above"),
        };
        let name = self.named(&format!("FROM {name}"));
        let root = self.origin(&stage.base, &stage.platform.to_string(), &name, diagnostics)?;
        let mut config = match self.outside(&stage.base, &stage.platform.to_string()) {
            Some(Outside::Image(image)) => image.config.clone(),
            _ => config::scratch(&stage.platform),
        };
        let scope = self.plan.scope(&BaseConfig {
            env: config::env(&config),
            working_dir: config.config.working_dir.clone(),
            user: config.config.user.clone(),
            shell: config.config.shell.clone(),
        });
        config::start(&mut config, &scope);
        Some(State { root, scope, config })
    }

    /// The vertex of something that files come from, which is not the build context.
    fn origin(
        &mut self,
        origin: &Origin,
        platform: &str,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<VertexRef> {
        match (origin, self.outside(origin, platform)) {
            (Origin::Stage(index), _) => self.stages.get(index).map(|stage| stage.root),
            (Origin::Scratch, _) => Some(self.add(ScratchOp, name, &[])),
            (_, Some(Outside::Image(image))) => {
                let op = ImageOp { image: image.record.clone(), store: Arc::clone(&self.around.images) };
                Some(self.add(op, name, &[]))
            }
            (_, Some(Outside::Local(context))) => {
                let op = FileOp::whole(&self.around.tools, context);
                let scratch = self.scratch();
                Some(self.add(op, name, &[scratch]))
            }
            (Origin::Context(name) | Origin::Image(name), None) => {
                let message = format!("`{name}` was not resolved");
                diagnostics.push(Diagnostic::error("unresolved", self.at.span, message));
                None
            }
        }
    }

    fn outside(&self, origin: &Origin, platform: &str) -> Option<Outside> {
        self.around.outside.get(&(origin.clone(), platform.to_owned())).cloned()
    }

    fn step(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
        step: Step,
        diagnostics: &mut Diagnostics,
    ) {
        if step.layer {
            let name = self.named(&instruction.source);
            let root = match &step.action {
                Action::Run(run) => self.run(state, run, &name, diagnostics),
                Action::Copy(copy) => self.copy(state, copy, &name, diagnostics),
                Action::Workdir(dir) => Some(self.workdir(state, dir, &name)),
                other => unreachable!("{other:?} makes no layer"),
            };
            let Some(root) = root else { return };
            state.root = root;
        }
        config::apply(&mut state.config, step, &state.scope);
    }

    fn workdir(&mut self, state: &State, dir: &str, name: &str) -> VertexRef {
        let user = Some(state.config.config.user.clone()).filter(|user| !user.is_empty());
        let op =
            FileOp::new(&self.around.tools, vec![ops::Action::Mkdir { path: dir.to_owned(), owner: user }]);
        self.add(op, name, &[state.root])
    }

    /// `[stage 2/5] text`.
    fn named(&mut self, text: &str) -> String {
        self.at.number += 1;
        let Numbered { stage, number, total, .. } = &self.at;
        format!("[{stage} {number}/{total}] {text}")
    }

    /// Adds a vertex, or finds the one that is the same.
    fn add(&mut self, op: impl Defined + Op + 'static, name: &str, inputs: &[VertexRef]) -> VertexRef {
        let digest = ops::digest_of("quern.vertex.image.v1", |v| {
            v.digest("operation", &op.definition());
            for input in inputs {
                v.digest("input", &self.digests[input.0 as usize]);
            }
            v.number("no_cache", self.at.no_cache.into());
        });
        if let Some(known) = self.known.get(&digest) {
            return *known;
        }
        let mut vertex = Vertex::new(digest, Arc::new(op)).name(name);
        for input in inputs {
            vertex = vertex.input(*input);
        }
        if self.at.no_cache || !self.around.caches.is_empty() {
            vertex = vertex.options(VertexOptions {
                ignore_cache: self.at.no_cache,
                cache_sources: self.around.caches.clone(),
                ..VertexOptions::default()
            });
        }
        let added = self.graph.add(vertex);
        self.digests.push(digest);
        self.known.insert(digest, added);
        self.places.insert(digest, Place { span: self.at.span, stage: self.at.stage.clone() });
        added
    }

    /// Nothing.
    fn scratch(&mut self) -> VertexRef {
        self.add(ScratchOp, "scratch", &[])
    }

    /// One stack on the other.
    fn merge(&mut self, lower: VertexRef, upper: VertexRef, name: &str) -> VertexRef {
        self.add(MergeOp, &format!("{name} (merge)"), &[lower, upper])
    }
}

/// Whether an instruction counts in the numbers that people see.
fn may_make_layer(instruction: &Instruction) -> bool {
    use quern_spec::dockerfile::Kind;
    matches!(instruction.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_))
}
