//! From a pipeline's inputs at given commits to its datums, and from a datum to the step that processes it.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quern_builds::{DatasetBranch, Head};
use quern_catalog::tree::{TreesError, place_many};
use quern_catalog::{
    ChangedDatums, Datum, DatumDifference, DatumError, DatumInput, Datums, PathPattern, PfsInput, View,
    choose, difference, difference_of, enumerate, enumerate_changed,
};
use quern_core::canon::{Canon, DigestVisitor, Visitor};
use quern_core::port::{Blobs, Held, Image, MetaRead, PortError};
use quern_core::step::{Input as StepInput, Mount, Network, Platform, Resources, RootAccess};
use quern_core::{Attempt, ContentRef, Digest, Entry, Id, Step, TreePath};
use quern_spec::glob::{Compat, Glob, InvalidGlob};

use crate::commits;
use crate::known::{Base, FoundIn};
use crate::pipeline::{Input, Pipeline};

/// Where a build step finds what it fetched or compiled before.
const CACHE: &str = "/cache";

/// Why a job has no datums.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A pattern that was accepted once is not understood now.
    #[error(transparent)]
    Glob(#[from] InvalidGlob),
    /// The input cannot be turned into datums.
    #[error(transparent)]
    Datums(#[from] DatumError),
    /// A commit's files cannot be read.
    #[error(transparent)]
    Trees(#[from] TreesError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// A pattern of the spec as the catalog wants it.
pub struct Pattern(pub Glob);

impl PathPattern for Pattern {
    fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }

    fn may_descend(&self, dir: &str) -> bool {
        self.0.may_descend(dir)
    }

    fn literal(&self) -> Option<&str> {
        self.0.literal()
    }
}

/// The trees of the commits a job reads.
pub type Trees = BTreeMap<DatasetBranch, (Id, ContentRef)>;

/// The trees of commits, by branch.
///
/// # Errors
/// [`PortError`] if a commit is gone.
pub fn trees(r: &dyn MetaRead, inputs: &BTreeMap<DatasetBranch, Head>) -> Result<Trees, PortError> {
    let mut trees = Trees::new();
    for (branch, head) in inputs {
        let commit = View::new(r).commit(head.commit).map_err(commits::port_error)?;
        trees.insert(branch.clone(), (head.commit, commit.tree));
    }
    Ok(trees)
}

/// What all datums of a job have in common.
pub struct Common {
    /// The step without inputs.
    template: Step,
    /// The error handler's, if there is one.
    handler: Option<Step>,
    /// Inputs that every datum sees whole, filtered: name and tree.
    constants: Vec<(String, ContentRef)>,
    /// Variables beside the step.
    attempt_env: BTreeMap<String, String>,
    /// What is done with each datum: results are shared by jobs that agree in it.
    pub logic: Digest,
    /// The same in words.
    pub lines: Vec<(String, String)>,
}

/// Finds the datums of a pipeline. Inputs that show only part of a tree are not datums but common to all.
///
/// # Errors
/// [`PlanError`].
pub fn find(blobs: &dyn Blobs, pipeline: &Pipeline, trees: &Trees) -> Result<Datums, PlanError> {
    let mut patterns = Vec::new();
    compile(&pipeline.input, &mut patterns)?;
    let mut patterns = patterns.iter();
    let input = datum_input(&pipeline.input, trees, &mut patterns);
    Ok(enumerate(blobs, &input)?)
}

/// The datums a job has to look at, and what has to be done.
pub struct Plan {
    /// The datums found; only the changed ones if what they are found in was known.
    pub datums: Datums,
    /// How many the job has in all.
    pub total: u64,
    /// What runs, is skipped, or is no more.
    pub difference: DatumDifference,
    /// What the datums are found in, if that is one tree.
    pub found_in: Option<FoundIn>,
}

/// Finds what has to be done beside what is known. If the known datums were found in another state of the same input,
/// only what differs between the two is looked at.
///
/// # Errors
/// [`PlanError`].
pub fn plan(blobs: &dyn Blobs, pipeline: &Pipeline, trees: &Trees, base: &Base) -> Result<Plan, PlanError> {
    let found_in = found_in(&pipeline.input, trees);
    if let (Some(before), Some(now)) = (&base.found_in, &found_in)
        && (&before.input, &before.glob) == (&now.input, &now.glob)
    {
        let pattern = Pattern(Glob::compile(&now.glob, Compat::Documented)?);
        let [old, new] = [before, now].map(|found| ContentRef { digest: found.tree.0, size: found.tree.1 });
        let input = PfsInput { name: now.input.clone(), tree: Some(new), pattern: &pattern };
        // The earlier tree may be pruned with its commit; then everything is looked at, which also tells what else is wrong.
        if let Ok(ChangedDatums { datums, gone }) = enumerate_changed(blobs, &input, &old)
            && let Some(difference) = difference_of(&datums.planned(), &gone, &base.current, &base.older)
        {
            let total = difference.kept + datums.len();
            return Ok(Plan { datums, total, difference, found_in });
        }
    }
    let datums = find(blobs, pipeline, trees)?;
    let difference = difference(&datums.planned(), &base.current, &base.older);
    Ok(Plan { total: datums.len(), datums, difference, found_in })
}

/// The one tree that an input has datums of.
fn found_in(input: &Input, trees: &Trees) -> Option<FoundIn> {
    let Input::Pfs { name, repo, branch, glob, only: None, .. } = input else { return None };
    let (_, tree) = trees.get(&DatasetBranch::new(repo, branch))?;
    Some(FoundIn { input: name.clone(), glob: glob.clone(), tree: (tree.digest, tree.size) })
}

fn compile(input: &Input, patterns: &mut Vec<Pattern>) -> Result<(), InvalidGlob> {
    match input {
        Input::Pfs { only: Some(_), .. } => Ok(()),
        Input::Pfs { glob, .. } => {
            patterns.push(Pattern(Glob::compile(glob, Compat::Documented)?));
            Ok(())
        }
        Input::Cross(members) | Input::Union(members) => {
            members.iter().try_for_each(|member| compile(member, patterns))
        }
    }
}

fn datum_input<'p>(
    input: &Input,
    trees: &Trees,
    patterns: &mut impl Iterator<Item = &'p Pattern>,
) -> DatumInput<'p> {
    let mut below = |members: &[Input]| {
        let shown = members.iter().filter(|member| !matches!(member, Input::Pfs { only: Some(_), .. }));
        shown.map(|member| datum_input(member, trees, patterns)).collect()
    };
    match input {
        Input::Pfs { name, repo, branch, .. } => DatumInput::Pfs(PfsInput {
            name: name.clone(),
            tree: trees.get(&DatasetBranch::new(repo, branch)).map(|(_, tree)| *tree),
            pattern: patterns.next().expect("one pattern was compiled for each of these"),
        }),
        Input::Cross(members) => DatumInput::Cross(below(members)),
        Input::Union(members) => DatumInput::Union(below(members)),
    }
}

impl Common {
    /// What the datums of a job have in common.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(
        blobs: &dyn Blobs,
        pipeline: &Pipeline,
        image: &Image,
        trees: &Trees,
        job: Id,
    ) -> Result<Self, PlanError> {
        let template = template(pipeline, image);
        let handler = (!pipeline.run.err_cmd.is_empty()).then(|| Step {
            argv: pipeline.run.err_cmd.clone(),
            stdin: pipeline.run.err_stdin.clone().into_bytes(),
            ..template.clone()
        });
        let mut constants = Vec::new();
        collect_constants(blobs, &pipeline.input, trees, &mut constants)?;
        let mut common = Self {
            template,
            handler,
            constants,
            attempt_env: attempt_env(pipeline, trees, job),
            logic: Digest::of(b""),
            lines: Vec::new(),
        };
        common.lines = common.explain(pipeline, image);
        common.logic = common.digest(pipeline, image);
        Ok(common)
    }

    /// The step that processes a datum, and its error handler; their inputs are there while what comes with them lives.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn attempts(
        &self,
        blobs: &dyn Blobs,
        datum: &Datum<'_>,
    ) -> Result<(Attempt, Option<Attempt>, Vec<Held>), PlanError> {
        let holding = Holding { blobs, held: Mutex::default() };
        let own = datum.trees(&holding)?.into_iter().map(|(name, tree)| (name.to_string(), tree));
        let mut inputs: Vec<StepInput> = own
            .chain(self.constants.iter().cloned())
            .map(|(name, tree)| StepInput { target: format!("/pfs/{name}"), tree: tree.digest })
            .collect();
        inputs.sort();
        let mut env: BTreeMap<String, String> = datum
            .leaves
            .iter()
            .map(|leaf| {
                (leaf.input.to_string(), format!("/pfs/{}{}", leaf.input, leaf.path.trim_end_matches('/')))
            })
            .collect();
        env.extend(self.constants.iter().map(|(name, _)| (name.clone(), format!("/pfs/{name}"))));
        let attempt = |step: &Step| {
            let mut step = step.clone();
            step.inputs.extend(inputs.iter().cloned());
            step.inputs.sort();
            step.env.extend(env.clone());
            Attempt {
                step: Arc::new(step),
                number: 1,
                env: self.attempt_env.clone(),
                secrets: BTreeMap::new(),
                sockets: BTreeMap::new(),
            }
        };
        let held = holding.held.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((attempt(&self.template), self.handler.as_ref().map(attempt), held))
    }

    /// Key of what is done with each datum.
    fn digest(&self, pipeline: &Pipeline, image: &Image) -> Digest {
        let mut visitor = DigestVisitor::new("quern.logic.v1");
        visitor.digest("run", &pipeline.run.digest());
        visitor.digest("image", &image.id);
        for (name, tree) in &self.constants {
            visitor.digest(name, &tree.digest);
        }
        if let Some(salt) = &pipeline.salt {
            visitor.bytes("reprocess", salt.as_bytes());
        }
        visitor.finish()
    }

    fn explain(&self, pipeline: &Pipeline, image: &Image) -> Vec<(String, String)> {
        let mut lines = pipeline.run.explain();
        lines.push(("image.content".into(), image.id.to_string()));
        lines.extend(
            self.constants.iter().map(|(name, tree)| (format!("/pfs/{name}"), tree.digest.to_string())),
        );
        if let Some(salt) = &pipeline.salt {
            lines.push(("reprocess".into(), salt.to_string()));
        }
        lines
    }
}

/// Blobs of which new ones are only held: trees that show a datum its inputs are of no use to anybody else.
struct Holding<'a> {
    blobs: &'a dyn Blobs,
    held: Mutex<Vec<Held>>,
}

impl Blobs for Holding<'_> {
    fn contains(&self, digest: &Digest) -> Result<bool, PortError> {
        self.blobs.contains(digest)
    }
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, PortError> {
        self.blobs.get(digest)
    }
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, PortError> {
        self.blobs.open(digest)
    }
    fn put(&self, bytes: &[u8]) -> Result<ContentRef, PortError> {
        let (content, held) = self.blobs.hold(bytes)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        Ok(content)
    }
    fn put_stream(&self, reader: &mut dyn Read) -> Result<ContentRef, PortError> {
        self.blobs.put_stream(reader)
    }
    fn sync(&self) -> Result<(), PortError> {
        self.blobs.sync()
    }
}

/// The step of a pipeline without a datum. Precedence of variables: image, pipeline's name, spec, datum, attempt.
fn template(pipeline: &Pipeline, image: &Image) -> Step {
    let run = &pipeline.run;
    let mut env: BTreeMap<String, String> = image.env.iter().cloned().collect();
    env.insert("PPS_PIPELINE_NAME".into(), pipeline.name.clone());
    env.extend(run.env.clone());
    let mut mounts = Vec::new();
    if run.cache {
        env.insert("QUERN_CACHE".into(), CACHE.into());
        mounts.push(Mount::cache(CACHE, format!("pipeline-{}", pipeline.name)));
    }
    Step {
        argv: run.cmd.clone(),
        env,
        cwd: run.working_dir.clone().unwrap_or_else(|| image.workdir.clone()),
        user: run.user.clone().or_else(|| image.user.clone()),
        stdin: run.stdin.clone().into_bytes(),
        image: image.id,
        root: RootAccess::ReadOnly,
        inputs: run.app.map(|tree| StepInput { target: "/app".into(), tree }).into_iter().collect(),
        mounts,
        network: if run.network { Network::Host } else { Network::None },
        hosts: Vec::new(),
        platform: Platform::current(),
        outputs: vec!["/pfs/out".into()],
        accept: run.accept.clone(),
        resources: Resources { cpu_milli: run.cpu_milli, memory: run.memory, ..Resources::default() },
        timeout: run.datum_timeout.map(Duration::from_millis),
    }
}

/// Variables that differ from job to job and are therefore no part of any key.
fn attempt_env(pipeline: &Pipeline, trees: &Trees, job: Id) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PACH_JOB_ID".to_owned(), job.to_string())]);
    for (name, repo, branch) in pipeline.input.leaves() {
        if let Some((commit, _)) = trees.get(&DatasetBranch::new(repo, branch)) {
            env.insert(format!("{name}_COMMIT"), commit.to_string());
        }
    }
    env
}

fn collect_constants(
    blobs: &dyn Blobs,
    input: &Input,
    trees: &Trees,
    constants: &mut Vec<(String, ContentRef)>,
) -> Result<(), PlanError> {
    match input {
        Input::Cross(members) | Input::Union(members) => {
            members.iter().try_for_each(|member| collect_constants(blobs, member, trees, constants))
        }
        Input::Pfs { name, repo, branch, only: Some(only), .. } => {
            if let Some((_, tree)) = trees.get(&DatasetBranch::new(repo, branch)) {
                constants.push((name.clone(), filtered(blobs, tree, only)?));
            }
            Ok(())
        }
        Input::Pfs { only: None, .. } => Ok(()),
    }
}

/// The files of a tree that one of the patterns matches.
fn filtered(blobs: &dyn Blobs, tree: &ContentRef, only: &[String]) -> Result<ContentRef, PlanError> {
    let mut kept: Vec<(TreePath, Entry)> = Vec::new();
    for glob in only {
        let pattern = Pattern(Glob::compile(glob, Compat::Documented)?);
        choose(blobs, tree, &pattern, &mut |path, entry| -> Result<(), TreesError> {
            if !matches!(entry, Entry::Dir(_)) {
                kept.push((TreePath::parse(path)?, entry.clone()));
            }
            Ok(())
        })?;
    }
    Ok(place_many(blobs, &kept)?)
}

/// A datum as people read it: the paths that tell it from the others.
pub fn label(datum: &Datum<'_>) -> String {
    let parts = datum.leaves.iter().filter(|leaf| &*leaf.path != "/");
    let text = parts.map(|leaf| format!("{}:{}", leaf.input, leaf.path)).collect::<Vec<_>>().join(" ");
    if text.is_empty() { "everything".to_owned() } else { text }
}
