//! The graph while it is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quern_core::Digest;
use quern_solver::{GraphBuilder, GraphError, Op, Vertex, VertexOptions, VertexRef};

use super::{Lowered, Place, Target};
use crate::image::ops::{self, Defined};
use crate::image::provenance::Materials;

/// A graph in which what is the same is one vertex.
#[derive(Default)]
pub(super) struct Drawing {
    graph: GraphBuilder,
    /// Of each vertex.
    digests: Vec<Digest>,
    known: BTreeMap<Digest, VertexRef>,
    places: BTreeMap<Digest, Place>,
    pub fetched: BTreeMap<VertexRef, Arc<Materials>>,
    pub networked: BTreeSet<VertexRef>,
}

impl Drawing {
    /// Adds a vertex, or finds the one that is the same.
    pub fn add(
        &mut self,
        op: impl Defined + Op + 'static,
        name: &str,
        inputs: &[VertexRef],
        options: VertexOptions,
        place: Place,
    ) -> VertexRef {
        let digest = ops::digest_of("quern.vertex.image.v1", |v| {
            v.digest("operation", &op.definition());
            for input in inputs {
                v.digest("input", &self.digests[input.0 as usize]);
            }
            v.number("no_cache", options.ignore_cache.into());
        });
        if let Some(known) = self.known.get(&digest) {
            return *known;
        }
        let mut vertex = Vertex::new(digest, Arc::new(op)).name(name);
        for input in inputs {
            vertex = vertex.input(*input);
        }
        if options.ignore_cache || !options.cache_sources.is_empty() {
            vertex = vertex.options(options);
        }
        let added = self.graph.add(vertex);
        self.digests.push(digest);
        self.known.insert(digest, added);
        self.places.insert(digest, place);
        added
    }

    /// # Errors
    /// [`GraphError::TooLarge`].
    pub fn finish(self, targets: Vec<Target>) -> Result<Lowered, GraphError> {
        let Self { graph, places, fetched, networked, .. } = self;
        Ok(Lowered { graph: graph.finish()?, targets, places, fetched, networked })
    }
}
