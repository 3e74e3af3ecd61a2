//! `COPY` and `ADD`.

use std::path::PathBuf;
use std::sync::Arc;

use quern_solver::VertexRef;
use quern_spec::diagnostic::Diagnostics;
use quern_spec::dockerfile::{Chmod, CopyStep, SourcePath, Unpack};

use super::{Lowering, Outside, State};
use crate::image::ops::{Action, Copy, FileOp, GitOp, HttpOp, Source, Sources};
use crate::image::provenance::Materials;

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &State,
        copy: &CopyStep,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<VertexRef> {
        let below = if copy.link { self.scratch() } else { state.root };
        let mut inputs = vec![below];
        let mut actions = self.local(copy, name, &mut inputs, diagnostics)?;
        for source in &copy.sources {
            actions.extend(self.remote(copy, source, name, &mut inputs));
        }
        for file in &copy.files {
            let (path, name) = (copy.dest.clone(), file.path.clone());
            let mode = copy.chmod.as_ref().map_or(0o644, |chmod| chmod.apply(0o644, false));
            let (content, owner) = (file.content.clone().into_bytes(), copy.chown.clone());
            let dirs = copy.chmod.as_ref().map_or(0o755, Chmod::of_made_directories);
            actions.push(Action::Write { path, name, content, mode, dirs, owner });
        }
        let copied = self.add(FileOp::new(&self.around.tools, actions), name, &inputs);
        Some(if copy.link { self.merge(state.root, copied, name) } else { copied })
    }

    /// Sources of the context, of a stage or of an image: one action for all of them.
    fn local(
        &mut self,
        copy: &CopyStep,
        name: &str,
        inputs: &mut Vec<VertexRef>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<Action>> {
        let paths: Vec<PathBuf> = (copy.sources.iter())
            .filter_map(|source| match source {
                SourcePath::Local(path) => Some(PathBuf::from(path)),
                _ => None,
            })
            .collect();
        if paths.is_empty() {
            return Some(Vec::new());
        }
        let platform = self.part.platform.to_string();
        let context = match &copy.from {
            None => Some(Arc::clone(&self.around.context)),
            Some(from) => match self.outside(from, &platform) {
                Some(Outside::Local(context)) => Some(context),
                _ => None,
            },
        };
        let from = match (context, &copy.from) {
            (Some(context), _) => {
                paths.iter().for_each(|path| context.want(path));
                Source::Context(context)
            }
            (None, Some(from)) => {
                let vertex = self.origin(from, &platform, &format!("{name} (source)"), diagnostics)?;
                inputs.push(vertex);
                Source::Input(inputs.len() - 1)
            }
            (None, None) => unreachable!("the build context is a directory"),
        };
        let sources = Sources { paths, exclude: copy.exclude.clone(), parents: copy.parents };
        Some(vec![Action::Copy(Copy {
            from,
            sources,
            dest: copy.dest.clone(),
            owner: copy.chown.clone(),
            mode: copy.chmod.clone(),
            unpack: copy.unpack != Unpack::Never,
        })])
    }

    /// A source of the network, fetched by a vertex of its own.
    fn remote(
        &mut self,
        copy: &CopyStep,
        source: &SourcePath,
        name: &str,
        inputs: &mut Vec<VertexRef>,
    ) -> Option<Action> {
        let (tools, materials) = (Arc::clone(&self.around.tools), Arc::new(Materials::default()));
        let (vertex, path, unpack) = match source {
            SourcePath::Local(_) => return None,
            SourcePath::Http(address) => {
                let op = HttpOp::new(&tools, &materials, address, copy.checksum.as_deref());
                let path = PathBuf::from(op.file_name());
                (self.add(op, &format!("{name} (fetch)"), &[]), path, copy.unpack == Unpack::All)
            }
            SourcePath::Git(git) => {
                let keep = copy.keep_git_dir.unwrap_or(false);
                let op = GitOp::new(&tools, &materials, git, copy.checksum.as_deref(), keep);
                (self.add(op, &format!("{name} (clone)"), &[]), PathBuf::from("/"), false)
            }
        };
        self.drawing.fetched.entry(vertex).or_insert(materials);
        inputs.push(vertex);
        Some(Action::Copy(Copy {
            from: Source::Input(inputs.len() - 1),
            sources: Sources { paths: vec![path], exclude: copy.exclude.clone(), parents: false },
            dest: copy.dest.clone(),
            owner: copy.chown.clone(),
            mode: copy.chmod.clone(),
            unpack,
        }))
    }
}
