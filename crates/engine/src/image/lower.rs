//! From planned stages to a graph: one vertex for each instruction that makes a layer.
//!
//! The front end has expanded every word already ([`quern_spec::dockerfile::Scope`]); what is left is to say which operation an
//! instruction is and what it reads. Configuration is applied on the way, so a stage comes out as a vertex and an image config.
//!
//! The plans of all platforms make one graph: what is the same for several of them is in it once.

mod copy;
mod drawing;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quern_core::Digest;
use quern_oci::document::ImageConfig;
use quern_solver::{CacheManager, Graph, GraphError, Op, VertexOptions, VertexRef};
use quern_spec::diagnostic::{Diagnostic, Diagnostics};
use quern_spec::dockerfile::{
    Action, BaseConfig, Instruction, Origin, Plan, PlannedStage, Platform, Scope, Step,
};
use quern_spec::source::Span;

use super::config;
use super::context::LocalContext;
use super::ops::{self, Defined, FileOp, ImageOp, MergeOp, ScratchOp, Tools};
use super::provenance::Materials;
use super::request::Request;
use crate::images::{ImageStore, KnownImage};
use drawing::Drawing;

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
    /// Caches to ask besides the solver's own.
    pub caches: Vec<Arc<dyn CacheManager>>,
}

/// The plan of one platform's image.
pub struct Part<'a> {
    /// The platform.
    pub platform: &'a Platform,
    /// The stages.
    pub plan: Plan,
    /// Images and named contexts, with the platform they were resolved for.
    pub outside: BTreeMap<(Origin, String), Outside>,
}

/// A build as a graph.
pub struct Lowered {
    /// The operations.
    pub graph: Graph,
    /// The target stage of each part, in their order.
    pub targets: Vec<Target>,
    /// Where in the Dockerfile a vertex comes from.
    pub places: BTreeMap<Digest, Place>,
    /// What vertices read from elsewhere, known once they ran or were found in the cache.
    pub fetched: BTreeMap<VertexRef, Arc<Materials>>,
    /// Vertices whose commands see the machine's network.
    pub networked: BTreeSet<VertexRef>,
}

/// A target stage.
pub struct Target {
    /// Its file system.
    pub root: VertexRef,
    /// Its config, without layers and times.
    pub config: ImageConfig,
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

/// Lowers the plans of all platforms. None if the diagnostics have errors.
///
/// # Errors
/// [`GraphError::TooLarge`].
pub fn lower(
    parts: &[Part<'_>],
    around: &Surroundings<'_>,
    diagnostics: &mut Diagnostics,
) -> Result<Option<Lowered>, GraphError> {
    let mut drawing = Drawing::default();
    let mut targets = Vec::with_capacity(parts.len());
    for part in parts {
        let mut own = Diagnostics::new();
        let drawing = &mut drawing;
        let (stages, at) = (BTreeMap::new(), Numbered::default());
        let mut lowering = Lowering { part, around, drawing, stages, at };
        for index in &part.plan.order {
            lowering.stage(*index, &mut own);
        }
        let target = lowering.stages.remove(&part.plan.target);
        targets.extend(target.map(|State { root, config, .. }| Target { root, config }));
        diagnostics.join(own);
    }
    if diagnostics.has_errors() || targets.len() < parts.len() {
        return Ok(None);
    }
    Ok(Some(drawing.finish(targets)?))
}

struct Lowering<'a> {
    part: &'a Part<'a>,
    around: &'a Surroundings<'a>,
    drawing: &'a mut Drawing,
    stages: BTreeMap<usize, State>,
    at: Numbered,
}

/// Where lowering is: the stage, and which of its layers comes next.
#[derive(Default)]
struct Numbered {
    stage: String,
    /// What people see of the platform where there are several, with a space behind.
    platforms: String,
    number: usize,
    total: usize,
    span: Span,
    no_cache: bool,
}

impl Lowering<'_> {
    fn stage(&mut self, index: usize, diagnostics: &mut Diagnostics) {
        let stage = &self.part.plan.stages[index];
        let layers = stage.instructions.iter().filter(|instruction| may_make_layer(instruction)).count();
        self.at = Numbered {
            stage: stage.name.clone(),
            platforms: self.platforms(index),
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
        let scope = self.part.plan.scope(&BaseConfig {
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
        self.part.outside.get(&(origin.clone(), platform.to_owned())).cloned()
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

    /// `[stage 2/5] text`; with several platforms `[linux/amd64 stage 2/5] text`.
    fn named(&mut self, text: &str) -> String {
        self.at.number += 1;
        let Numbered { stage, platforms, number, total, .. } = &self.at;
        format!("[{platforms}{stage} {number}/{total}] {text}")
    }

    /// What a stage runs on, and what for if that is something else, as BuildKit shows it: `linux/amd64->arm64`.
    fn platforms(&self, stage: usize) -> String {
        if self.around.request.platforms.len() < 2 {
            return String::new();
        }
        let mut stage = &self.part.plan.stages[stage];
        while let Origin::Stage(base) = stage.base {
            stage = &self.part.plan.stages[base];
        }
        let (on, wanted) = (&stage.platform, self.part.platform);
        if on == wanted {
            return format!("{on} ");
        }
        let wanted = wanted.to_string();
        let same_system = wanted.strip_prefix(&format!("{}/", on.os));
        format!("{on}->{} ", same_system.unwrap_or(&wanted))
    }

    /// Adds a vertex, or finds the one that is the same.
    fn add(&mut self, op: impl Defined + Op + 'static, name: &str, inputs: &[VertexRef]) -> VertexRef {
        let place = Place { span: self.at.span, stage: self.at.stage.clone() };
        let options = VertexOptions {
            ignore_cache: self.at.no_cache,
            cache_sources: self.around.caches.clone(),
            ..VertexOptions::default()
        };
        self.drawing.add(op, name, inputs, options, place)
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
