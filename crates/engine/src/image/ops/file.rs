//! `COPY`, `ADD`, `WORKDIR` and files that stand in the Dockerfile: files are put into a layer.

mod owner;
mod unpack;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use quern_core::Digest;
use quern_core::canon::Visitor;
use quern_core::port::{DraftLayer, Layers as _};
use quern_exec::Rights;
use quern_solver::{Blocking, CacheMap, CacheMapInput, MapStep, Op, OpContext, OpError, SharedResult};
use quern_spec::dockerfile::{Chmod, DockerIgnore};
use quern_store::files::{
    Alike, ChangeMode, CopyTo, Draft, FileSource, MakeDir, MakeFile, Marks, PathFilter, Selected, Selection,
    content_digest,
};

use super::{Defined, Tools, digest_of, once, snapshot_of};
use crate::image::context::LocalContext;
use crate::image::ignore::Ignore;
use crate::snapshot::Snapshot;

/// Puts files into a layer above input 0.
pub struct FileOp {
    tools: Arc<Tools>,
    actions: Vec<Action>,
    /// [`FileOp::content_definition`], once it was computed.
    content: OnceLock<Result<Digest, OpError>>,
}

/// One thing that is done to the files of a layer.
pub enum Action {
    /// Copies files.
    Copy(Copy),
    /// Makes a directory with those above it, if it is not there.
    Mkdir {
        /// Absolute path.
        path: String,
        /// `user[:group]`, names or numbers; root if absent.
        owner: Option<String>,
    },
    /// Writes a file, and makes the directories above it.
    Write {
        /// Absolute path; with a `/` at the end, or if it is a directory, `name` goes into it.
        path: String,
        /// Its name in a directory.
        name: String,
        /// Its bytes.
        content: Vec<u8>,
        /// Its permission bits.
        mode: u32,
        /// Permission bits of directories that are made for it.
        dirs: u32,
        /// As for [`Action::Mkdir`].
        owner: Option<String>,
    },
}

/// What is copied, from where and how.
pub struct Copy {
    /// Where the files are.
    pub from: Source,
    /// Which of them.
    pub sources: Sources,
    /// Where they go: absolute; a `/` at the end says that it is a directory.
    pub dest: String,
    /// The owner of everything that is copied; as it was if absent.
    pub owner: Option<String>,
    /// The permission bits.
    pub mode: Option<Chmod>,
    /// Whether archives are unpacked.
    pub unpack: bool,
}

/// Where files are.
pub enum Source {
    /// A directory of the user.
    Context(Arc<LocalContext>),
    /// An input, by number; 0 is what lies below.
    Input(usize),
}

/// Which files.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Paths or patterns.
    pub paths: Vec<PathBuf>,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Keep the directories of the sources.
    pub parents: bool,
}

impl FileOp {
    /// These actions, in order.
    pub fn new(tools: &Arc<Tools>, actions: Vec<Action>) -> Self {
        Self { tools: Arc::clone(tools), actions, content: OnceLock::new() }
    }

    /// Everything in a context, above nothing.
    pub fn whole(tools: &Arc<Tools>, context: Arc<LocalContext>) -> Self {
        Self::part(tools, context, "/")
    }

    /// A file or directory of a context, at the same place.
    pub fn part(tools: &Arc<Tools>, context: Arc<LocalContext>, path: &str) -> Self {
        context.want(Path::new(path));
        let copy = Copy {
            from: Source::Context(context),
            sources: Sources { paths: vec![path.into()], ..Sources::default() },
            dest: path.to_owned(),
            owner: None,
            mode: None,
            unpack: false,
        };
        Self::new(tools, vec![Action::Copy(copy)])
    }

    fn walk(
        &self,
        v: &mut dyn Visitor,
        mut from: impl FnMut(&mut dyn Visitor, &Copy) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        for action in &self.actions {
            match action {
                Action::Copy(copy) => {
                    v.enter("copy");
                    from(v, copy)?;
                    copy.walk(v);
                }
                Action::Mkdir { path, owner } => {
                    v.enter("mkdir");
                    v.text("path", path);
                    walk_owner(v, owner.as_deref());
                }
                Action::Write { path, name, content, mode, dirs, owner } => {
                    v.enter("write");
                    v.text("path", path);
                    v.text("name", name);
                    v.bytes("content", content);
                    v.number("mode", (*mode).into());
                    v.number("dirs", (*dirs).into());
                    walk_owner(v, owner.as_deref());
                }
            }
            v.leave();
        }
        Ok(())
    }

    fn copies(&self) -> impl Iterator<Item = &Copy> {
        self.actions.iter().filter_map(|action| match action {
            Action::Copy(copy) => Some(copy),
            _ => None,
        })
    }
}

impl Copy {
    /// Everything but the sources: where they lie counts less than what is there.
    fn walk(&self, v: &mut dyn Visitor) {
        v.text("dest", &self.dest);
        walk_owner(v, self.owner.as_deref());
        if let Some(mode) = &self.mode {
            v.text("mode", mode.text());
        }
        v.number("unpack", self.unpack.into());
    }
}

impl Sources {
    /// What of a whole path counts, with everything below it.
    pub fn of_paths(paths: Vec<String>) -> Self {
        Self { paths: paths.into_iter().map(PathBuf::from).collect(), ..Self::default() }
    }

    /// Identifies the selection.
    pub fn digest(&self) -> Digest {
        digest_of("quern.sources.v1", |v| self.walk(v))
    }

    fn walk(&self, v: &mut dyn Visitor) {
        for path in &self.paths {
            v.bytes("source", path.as_os_str().as_bytes());
        }
        for pattern in &self.exclude {
            v.text("exclude", pattern);
        }
        v.number("parents", self.parents.into());
    }

    /// The files they are in a tree.
    pub fn find(&self, source: &dyn FileSource) -> Result<Selected, OpError> {
        let rules = DockerIgnore::of_patterns(&self.exclude).map_err(OpError::failed)?;
        let exclude = Ignore(&rules);
        let selection = Selection {
            sources: &self.paths,
            exclude: (!rules.is_empty()).then_some(&exclude as &dyn PathFilter),
            parents: self.parents,
        };
        selection.find(source).map_err(OpError::failed)
    }

    /// A digest of the files they are in a tree: equal if copying them gives the same.
    pub fn content(&self, source: &dyn FileSource) -> Result<Digest, OpError> {
        content_digest(source, &self.find(source)?).map_err(OpError::failed)
    }
}

fn walk_owner(v: &mut dyn Visitor, owner: Option<&str>) {
    if let Some(owner) = owner {
        v.text("owner", owner);
    }
}

impl Defined for FileOp {
    fn definition(&self) -> Digest {
        digest_of("quern.files.definition.v1", |v| {
            let walked = self.walk(v, |v, copy| {
                copy.sources.walk(v);
                match &copy.from {
                    Source::Context(context) => v.bytes("context", context.id().as_bytes()),
                    Source::Input(number) => v.number("input", *number as u64),
                }
                Ok(())
            });
            walked.expect("names alone cannot fail");
        })
    }
}

impl Op for FileOp {
    /// Files of a context count by their content, so that an unchanged context is found again whenever it is looked at. Files of
    /// an input count by content, too, once its definition is not enough.
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        let mut map = CacheMap::new(self.content_definition()?).input(CacheMapInput::plain());
        for copy in self.copies() {
            if matches!(copy.from, Source::Input(number) if number > 0) {
                map = map.input(super::selected(&self.tools, copy.sources.clone()));
            }
        }
        Ok(MapStep::Last(map))
    }

    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let inputs = inputs.iter().map(snapshot_of).collect::<Result<Vec<_>, _>>()?;
        let content = self.content_definition()?;
        let definition = digest_of("quern.files.work.v1", |v| {
            v.digest("content", &content);
            // Of an input it has to be said which files are meant; those of a context are known by content.
            let inputs = self.copies().filter(|copy| matches!(copy.from, Source::Input(_)));
            inputs.for_each(|copy| copy.sources.walk(v));
        });
        let layer = once(&self.tools, ctx, &definition, &inputs, || self.make(ctx, &inputs))?;
        Ok(vec![SharedResult::new(inputs[0].with(&[layer]))])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Always
    }
}

impl FileOp {
    /// Digest of what it does, with the content of what it copies from contexts.
    fn content_definition(&self) -> Result<Digest, OpError> {
        self.content.get_or_init(|| self.compute_definition()).clone()
    }

    fn compute_definition(&self) -> Result<Digest, OpError> {
        let mut visitor = quern_core::canon::DigestVisitor::new("quern.files.v1");
        self.walk(&mut visitor, |v, copy| {
            match &copy.from {
                Source::Context(context) => {
                    let files = context.files().map_err(OpError::failed)?;
                    v.digest("content", &copy.sources.content(files)?);
                }
                Source::Input(number) => v.number("input", *number as u64),
            }
            Ok(())
        })?;
        Ok(visitor.finish())
    }

    /// Makes the layer.
    fn make(&self, ctx: &OpContext<'_>, inputs: &[Snapshot]) -> Result<Digest, OpError> {
        let layers = &self.tools.layers;
        let draft = layers.begin().map_err(OpError::failed)?;
        let place = self.place();
        let alike = place.map(|place| Alike::to(layers.noted(&place)));
        if let Err(error) = self.write(ctx, &draft, inputs, alike.as_ref()) {
            layers.discard(draft);
            return Err(error);
        }
        if let Some(alike) = &alike {
            alike.save(&draft);
        }
        let layer = layers.commit(draft).map_err(OpError::failed)?;
        if let Some(place) = place {
            layers.note(&place, &layer);
        }
        Ok(layer)
    }

    /// What the same copy of the same directories has in common whatever they hold; none if it reads no directory.
    fn place(&self) -> Option<Digest> {
        self.copies().find(|copy| matches!(copy.from, Source::Context(_)))?;
        Some(digest_of("quern.files.place.v1", |v| {
            let walked = self.walk(v, |v, copy| {
                copy.sources.walk(v);
                match &copy.from {
                    Source::Context(context) => v.bytes("context", context.dir().as_os_str().as_bytes()),
                    Source::Input(number) => v.number("input", *number as u64),
                }
                Ok(())
            });
            walked.expect("names alone cannot fail");
        }))
    }

    fn write(
        &self,
        ctx: &OpContext<'_>,
        layer: &DraftLayer,
        inputs: &[Snapshot],
        alike: Option<&Alike>,
    ) -> Result<(), OpError> {
        let below = self.tools.view(&inputs[0]).map_err(OpError::failed)?;
        let marks = if Rights::current().is_machine_root() { Marks::Trusted } else { Marks::User };
        let mut draft = Draft::open(layer, &below, marks).map_err(OpError::failed)?;
        for action in &self.actions {
            if ctx.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            match action {
                Action::Copy(copy) => self.copy(&mut draft, &below, copy, inputs, alike)?,
                Action::Mkdir { path, owner } => {
                    let owner = owner::find(&below, owner.as_deref())?.unwrap_or((0, 0));
                    let make = MakeDir { mode: 0o755, owner, parents: true, modified: None };
                    draft.make_dir(Path::new(path), &make).map_err(OpError::failed)?;
                }
                Action::Write { path, name, content, mode, dirs, owner } => {
                    let owner = owner::find(&below, owner.as_deref())?.unwrap_or((0, 0));
                    let is_dir = path.ends_with('/') || is_directory(&draft, path)?;
                    let path = if is_dir { Path::new(path).join(name) } else { PathBuf::from(path) };
                    let make = MakeDir { mode: *dirs, owner, parents: true, modified: None };
                    let parent = path.parent().unwrap_or(Path::new("/"));
                    draft.make_dir(parent, &make).map_err(OpError::failed)?;
                    let make = MakeFile { mode: *mode, owner, modified: None };
                    draft.make_file(&path, content, &make).map_err(OpError::failed)?;
                }
            }
        }
        Ok(())
    }

    fn copy(
        &self,
        draft: &mut Draft<'_>,
        below: &dyn FileSource,
        copy: &Copy,
        inputs: &[Snapshot],
        alike: Option<&Alike>,
    ) -> Result<(), OpError> {
        let owner = owner::find(below, copy.owner.as_deref())?;
        let mode = copy.mode.as_ref().map(|mode| move |bits, is_dir| mode.apply(bits, is_dir));
        let to = CopyTo {
            dest: Path::new(&copy.dest),
            owner,
            mode: mode.as_ref().map(|mode| mode as &ChangeMode<'_>),
            dirs: copy.mode.as_ref().map_or(0o755, Chmod::of_made_directories),
            modified: None,
            unpack: copy.unpack.then_some(&unpack::unpack),
        };
        match &copy.from {
            Source::Context(context) => {
                let files = context.files().map_err(OpError::failed)?;
                draft.copy_again(files, &copy.sources.find(files)?, &to, alike)
            }
            Source::Input(number) => {
                let view = self.tools.view(&inputs[*number]).map_err(OpError::failed)?;
                draft.copy(&view, &copy.sources.find(&view)?, &to)
            }
        }
        .map_err(OpError::failed)
    }
}

fn is_directory(draft: &Draft<'_>, path: &str) -> Result<bool, OpError> {
    use quern_store::files::{FileKind, Last, resolve};
    let path = resolve(draft, Path::new(path), Last::Follow).map_err(OpError::failed)?;
    let stat = draft.stat(&path).map_err(OpError::failed)?;
    Ok(stat.is_some_and(|stat| stat.kind == FileKind::Dir))
}
