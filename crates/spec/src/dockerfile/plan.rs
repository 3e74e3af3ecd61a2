//! Which stages a build needs, what they start from, and what they take from each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ast::{Dockerfile, Instruction, Kind, Stage, Word};
use super::expand::{Expansion, expand};
use super::globals::{Globals, global_variables};
use super::ignore::DockerIgnore;
use super::lint::{Check, Lint, rule};
use super::parse::parse_trigger_at;
use super::platform::Platform;
use super::scope::{BaseConfig, Scope};
use crate::decode::closest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::Span;

/// What a build asks of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The stage to build, by name or number; the last one by default.
    pub target: Option<String>,
    /// Values for `ARG`, by name.
    pub build_args: BTreeMap<String, String>,
    /// The names of named contexts (`--build-context name=...`): they stand in for stages and images.
    pub contexts: BTreeSet<String>,
    /// What of the build context stays behind: sources that do are warned of.
    pub ignore: DockerIgnore,
    /// What the image shall run on.
    pub target_platform: Platform,
    /// What the build runs on.
    pub build_platform: Platform,
    /// Plan every stage, not only those the target needs: for checking a file.
    pub all_stages: bool,
}

impl Request {
    /// The last stage, without arguments, for the platform the build runs on.
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            contexts: BTreeSet::new(),
            ignore: DockerIgnore::default(),
            target_platform: platform.clone(),
            build_platform: platform,
            all_stages: false,
        }
    }
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Nothing.
    Scratch,
    /// A stage of the plan, by its number.
    Stage(usize),
    /// A named context of the request, by the name it has there.
    Context(String),
    /// An image, by the reference as the file gives it.
    Image(String),
}

/// A stage of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStage {
    /// What it starts from. A stage whose own name is that of a named context is that context, and its
    /// instructions do not count.
    pub base: Origin,
    /// The platform of the base image.
    pub platform: Platform,
    /// Whether the file names the platform.
    pub platform_given: bool,
    /// The name, or `stage-N`.
    pub name: String,
    /// What is done, in order; `ONBUILD` triggers of the base come first.
    pub instructions: Vec<Instruction>,
    /// How many of the instructions are triggers.
    pub triggers: usize,
    /// The stages it needs, by number.
    pub needs: BTreeSet<usize>,
    /// The images and named contexts its instructions take files from, in order of their first use.
    pub takes: Vec<Origin>,
    /// Where its `FROM` stands.
    pub span: Span,
    /// Options for the checks of its `FROM`.
    check: Check,
}

/// The stages of a file and which of them a build needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Every stage of the file, in order; look only at those in `order`.
    pub stages: Vec<PlannedStage>,
    /// The stages to build, each after those it needs; the target is among them.
    pub order: Vec<usize>,
    /// The stage to build.
    pub target: usize,
    globals: Arc<Globals>,
}

/// Plans a build: resolves bases and platforms, target and dependencies.
///
/// `None` if the diagnostics have errors.
pub fn plan_stages(dockerfile: &Dockerfile, request: &Request) -> (Option<Plan>, Diagnostics) {
    let mut diagnostics = Diagnostics::new();
    let plan = Planner { dockerfile, request, diagnostics: &mut diagnostics }.plan();
    let plan = plan.filter(|_| !diagnostics.has_errors());
    (plan, diagnostics)
}

struct Planner<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    diagnostics: &'a mut Diagnostics,
}

impl Planner<'_> {
    fn plan(mut self) -> Option<Plan> {
        let target = self.target()?;
        let names = self.dockerfile.stages.iter().map(|stage| stage.name.as_ref());
        // As in the original the last of two stages of one name wins, except in `FROM`.
        let names: BTreeMap<String, usize> =
            names.enumerate().filter_map(|(index, name)| Some((name?.value.clone(), index))).collect();
        let variables = global_variables(self.dockerfile, self.request, self.diagnostics)?;
        let globals = Globals {
            escape: self.dockerfile.escape,
            check: self.dockerfile.check.clone(),
            variables,
            build_args: self.request.build_args.clone(),
            declared: self.dockerfile.global_args.iter().map(|arg| arg.name.value.clone()).collect(),
            contexts: self.request.contexts.clone(),
            ignore: self.request.ignore.clone(),
            names,
        };
        let mut stages: Vec<PlannedStage> = Vec::new();
        let mut before: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            let planned = self.stage(index, stage, &before, &globals);
            stages.extend(planned);
            if let Some(name) = &stage.name {
                before.insert(name, index);
            }
        }
        if self.diagnostics.has_errors() {
            return None;
        }
        inherit_triggers(&mut stages);
        let mut plan = Plan { stages, order: Vec::new(), target, globals: Arc::new(globals) };
        plan.connect(self.request.all_stages, self.diagnostics);
        Some(plan)
    }

    fn target(&mut self) -> Option<usize> {
        let stages = &self.dockerfile.stages;
        let Some(target) = &self.request.target else { return stages.len().checked_sub(1) };
        let wanted = target.to_lowercase();
        let named = |stage: &Stage| stage.name.as_ref().is_some_and(|name| name.value == wanted);
        let number = || target.parse().ok().filter(|number| *number < stages.len());
        if let Some(index) = stages.iter().rposition(named).or_else(number) {
            return Some(index);
        }
        let names: Vec<&str> =
            stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.as_str()).collect();
        let problem = Diagnostic::global("unknown-target", format!("there is no stage `{target}`"));
        self.diagnostics.push(match closest(&wanted, &names) {
            Some(close) => problem.help(format!("did you mean `{close}`?")),
            None if names.is_empty() => problem.help("no stage has a name; use its number, from 0"),
            None => problem.help(format!("the stages are {}", names.join(", "))),
        });
        None
    }

    /// A stage before triggers and dependencies.
    fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        before: &BTreeMap<&str, usize>,
        globals: &Globals,
    ) -> Option<PlannedStage> {
        let base = self.word(&stage.base, stage, globals)?.text;
        if base.is_empty() {
            let message = format!("`{}` gives no image", stage.base.value);
            let problem = Diagnostic::error("empty-base", stage.base.span, message);
            self.diagnostics.push(problem.help("give its ARG a default, or a value with --build-arg"));
            return None;
        }
        let platform = match &stage.platform {
            None => None,
            Some(word) => Some(self.platform(word, stage, globals)?),
        };
        let replaced = stage.name.as_ref().and_then(|name| globals.context(name));
        let instructions = if replaced.is_some() { Vec::new() } else { stage.instructions.clone() };
        let base = match (replaced, before.get(base.to_lowercase().as_str())) {
            (Some(context), _) => Origin::Context(context.to_owned()),
            (None, Some(earlier)) => Origin::Stage(*earlier),
            (None, None) => globals.outside(&base),
        };
        let name = stage.name.as_ref().map_or_else(|| format!("stage-{index}"), |name| name.value.clone());
        Some(PlannedStage {
            base,
            platform_given: platform.is_some(),
            platform: platform.unwrap_or_else(|| self.request.target_platform.clone()),
            name,
            instructions,
            triggers: 0,
            needs: BTreeSet::new(),
            takes: Vec::new(),
            span: stage.span,
            check: stage.check.clone(),
        })
    }

    /// Expands a word of a `FROM` line with the global variables.
    fn word(&mut self, word: &Word, stage: &Stage, globals: &Globals) -> Option<Expansion> {
        let expansion = match expand(word, &globals.variables, self.dockerfile.escape) {
            Ok(expansion) => expansion,
            Err(error) => {
                self.diagnostics.push(Diagnostic::error("invalid-word", word.span, error.to_string()));
                return None;
            }
        };
        let known: Vec<&str> =
            globals.variables.names().chain(globals.declared.iter().map(String::as_str)).collect();
        for name in expansion.unmatched.iter().filter(|name| !globals.declared.contains(*name)) {
            let hint = closest(name, &known).map(|close| format!(" (did you mean `{close}`?)"));
            let message =
                format!("`{name}` is not declared before the first FROM{}", hint.unwrap_or_default());
            self.lint().report(rule::UNDEFINED_ARG_IN_FROM, &stage.check, word.span, message);
        }
        Some(expansion)
    }

    fn platform(&mut self, word: &Word, stage: &Stage, globals: &Globals) -> Option<Platform> {
        let found = self.word(word, stage, globals)?;
        let platform = match Platform::parse(&found.text, &self.request.build_platform) {
            Ok(platform) => platform,
            Err(error) => {
                let problem = Diagnostic::error("invalid-platform", word.span, error.to_string());
                self.diagnostics.push(problem.help("write os/architecture, such as linux/amd64"));
                return None;
            }
        };
        let variables = found.matched.iter().chain(&found.unmatched);
        let redundant = variables.clone().eq(["TARGETPLATFORM"])
            && globals.variables.get("TARGETPLATFORM") == Some(found.text.as_str());
        if redundant {
            let message = format!("`{}` is what FROM takes anyway", word.value);
            self.lint().report(rule::REDUNDANT_TARGET_PLATFORM, &stage.check, word.span, message);
        }
        let name = stage.name.as_ref().map_or("", |name| name.as_str());
        if variables.count() == 0 && !name.contains(&platform.os) && !name.contains(&platform.arch) {
            let message = format!("`{}` is a constant", found.text);
            self.lint().report(rule::FROM_PLATFORM_FLAG_CONST_DISALLOWED, &stage.check, word.span, message);
        }
        Some(platform)
    }

    fn lint(&mut self) -> Lint<'_> {
        Lint { file: &self.dockerfile.check, diagnostics: self.diagnostics }
    }
}

/// Puts the `ONBUILD` instructions of stages before the instructions of the stages that start from them.
fn inherit_triggers(stages: &mut [PlannedStage]) {
    for index in 0..stages.len() {
        let Origin::Stage(base) = stages[index].base else { continue };
        let triggers: Vec<Instruction> = stages[base].instructions.iter().filter_map(trigger_of).collect();
        stages[index].triggers = triggers.len();
        stages[index].instructions.splice(0..0, triggers);
    }
}

fn trigger_of(instruction: &Instruction) -> Option<Instruction> {
    match &instruction.kind {
        Kind::Onbuild(onbuild) => Some((*onbuild.trigger).clone()),
        _ => None,
    }
}

impl Plan {
    /// Adds the `ONBUILD` triggers of a stage's base image, which only the image's configuration tells.
    /// Do this for every stage in `order` that starts from an image; if `order` grows, look at the new
    /// stages too.
    pub fn add_triggers(&mut self, stage: usize, triggers: &[String]) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        let mut instructions = Vec::new();
        for text in triggers {
            let (instruction, problems) = parse_trigger_at(text, self.stages[stage].span);
            diagnostics.extend(problems);
            instructions.extend(instruction);
        }
        if !instructions.is_empty() {
            self.stages[stage].triggers += instructions.len();
            self.stages[stage].instructions.splice(0..0, instructions);
            let all = self.order.len() == self.stages.len();
            self.connect(all, &mut diagnostics);
        }
        diagnostics
    }

    /// The scope of a stage that starts from an image, a named context or nothing, before its first
    /// instruction.
    pub fn scope(&self, base: &BaseConfig) -> Scope {
        Scope::new(Arc::clone(&self.globals), base)
    }

    /// Build arguments that no `ARG` of the file or of a needed stage declares.
    pub fn unused_build_args(&self) -> Vec<&str> {
        let mut declared: BTreeSet<&str> = self.globals.declared.iter().map(String::as_str).collect();
        for index in &self.order {
            for instruction in &self.stages[*index].instructions {
                if let Kind::Arg(args) = &instruction.kind {
                    declared.extend(args.iter().map(|arg| arg.name.as_str()));
                }
            }
        }
        let given = self.globals.build_args.keys().map(String::as_str);
        given.filter(|name| !declared.contains(name) && !super::globals::is_predefined(name)).collect()
    }

    /// What `--from` means: a stage of the file, a named context, an image or nothing.
    pub fn origin(&self, from: &str) -> Origin {
        self.globals.origin(from)
    }

    /// Finds what each stage takes from others, refuses what cannot be, and orders the needed ones.
    fn connect(&mut self, all: bool, diagnostics: &mut Diagnostics) {
        for index in 0..self.stages.len() {
            let mut needs = BTreeSet::new();
            let mut takes: Vec<Origin> = Vec::new();
            if let Origin::Stage(base) = self.stages[index].base {
                needs.insert(base);
            }
            for instruction in &self.stages[index].instructions {
                for from in taken(instruction) {
                    match self.globals.origin(from) {
                        Origin::Stage(other) => {
                            needs.insert(other);
                        }
                        Origin::Scratch => {}
                        origin if takes.contains(&origin) => {}
                        origin => takes.push(origin),
                    }
                }
            }
            self.stages[index].needs = needs;
            self.stages[index].takes = takes;
        }
        let mut wanted = vec![self.target];
        if all {
            wanted.extend(0..self.stages.len());
        }
        let mut reachable = BTreeSet::new();
        while let Some(index) = wanted.pop() {
            if reachable.insert(index) {
                wanted.extend(self.stages[index].needs.iter().filter(|other| **other < self.stages.len()));
            }
        }
        for index in 0..self.stages.len() {
            self.refuse_later_stages(index, reachable.contains(&index), diagnostics);
        }
        // Every stage needs earlier ones only, so the order of the file is one to build in.
        self.order = reachable.into_iter().collect();
    }

    /// A stage takes files from earlier stages only, so there are no cycles. In stages that are not needed
    /// only what goes in a circle is refused.
    fn refuse_later_stages(&self, index: usize, needed: bool, diagnostics: &mut Diagnostics) {
        for instruction in &self.stages[index].instructions {
            for from in taken(instruction) {
                let Origin::Stage(other) = self.globals.origin(from) else { continue };
                let problem = |message: String| Diagnostic::error("unknown-stage", instruction.span, message);
                if other >= self.stages.len() && needed {
                    let message = format!("there is no stage number {from}");
                    diagnostics.push(problem(message).help("stages are numbered from 0"));
                } else if other == index {
                    let message = format!("the stage takes files from itself (`{from}`)");
                    diagnostics.push(problem(message));
                } else if other > index && needed {
                    let problem = problem(format!("the stage `{from}` comes later"));
                    let problem = problem.label(self.stages[other].span, "it begins here");
                    diagnostics.push(problem.help("move it before the stage that takes files from it"));
                }
            }
        }
    }

    /// Warns if the base image of a stage turned out to be for another platform than was asked for.
    pub fn check_base_platform(&self, stage: usize, found: &Platform) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        let PlannedStage { platform, span, check, .. } = &self.stages[stage];
        if (&found.os, &found.arch) != (&platform.os, &platform.arch) {
            let message = format!("the base image is for {found}, not for {platform}");
            let mut lint = Lint { file: &self.globals.check, diagnostics: &mut diagnostics };
            lint.report(rule::INVALID_BASE_IMAGE_PLATFORM, check, *span, message);
        }
        diagnostics
    }
}

/// The values of `from` in an instruction.
fn taken(instruction: &Instruction) -> Vec<&str> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().map(|from| from.as_str()).collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|mount| mount.from()).collect(),
        _ => Vec::new(),
    }
}
