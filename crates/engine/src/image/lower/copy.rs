//! `COPY` and `ADD`.

use std::path::PathBuf;
use std::sync::Arc;

use quern_solver::VertexRef;
use quern_spec::diagnostic::Diagnostics;
use quern_spec::dockerfile::{CopyStep, SourcePath, Unpack};

use super::{Lowering, Outside, State};
use crate::image::ops::{Action, Copy, FileOp, Source, Sources};

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
        for file in &copy.files {
            let (path, name) = (copy.dest.clone(), file.path.clone());
            let mode = copy.chmod.as_ref().map_or(0o644, |chmod| chmod.apply(0o644, false));
            let (content, owner) = (file.content.clone().into_bytes(), copy.chown.clone());
            actions.push(Action::Write { path, name, content, mode, owner });
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
        let platform = self.around.request.platform.to_string();
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
}
