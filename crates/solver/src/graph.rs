//! The input of a build: vertices and the edges between them, checked once, then immutable.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use quern_core::Digest;

use crate::cache::CacheManager;
use crate::error::VertexLabel;
use crate::op::Op;

/// A vertex of one [`Graph`], counted from 0 in the order of [`GraphBuilder::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexRef(pub u32);

/// One output of a vertex of the same graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Input {
    /// The vertex depended on.
    pub vertex: VertexRef,
    /// Which of its outputs.
    pub output: u32,
}

impl From<VertexRef> for Input {
    /// Output 0.
    fn from(vertex: VertexRef) -> Self {
        Self { vertex, output: 0 }
    }
}

/// One step of a build.
pub struct Vertex {
    /// Identity among live builds: covers the definition including the inputs, not the options.
    /// Two vertices of equal digest are one vertex while one of them is live.
    pub digest: Digest,
    /// For people.
    pub name: Arc<str>,
    /// What it does.
    pub op: Arc<dyn Op>,
    /// What it depends on, in the order exec gets the results.
    pub inputs: Vec<Input>,
    /// What does not belong to its identity; none is the usual case.
    pub options: Option<Box<VertexOptions>>,
}

/// Options of a vertex that its digest does not cover.
#[derive(Clone, Default)]
pub struct VertexOptions {
    /// Run it whatever the caches hold; the result is saved all the same.
    pub ignore_cache: bool,
    /// Caches to ask besides the solver's own.
    pub cache_sources: Vec<Arc<dyn CacheManager>>,
    /// Text values without meaning for the solver; passed on with progress.
    pub description: BTreeMap<String, String>,
    /// Overrides whether the vertex's result is part of a cache export.
    pub export: Option<bool>,
}

impl fmt::Debug for VertexOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VertexOptions")
            .field("ignore_cache", &self.ignore_cache)
            .field("cache_sources", &self.cache_sources.len())
            .field("description", &self.description)
            .field("export", &self.export)
            .finish()
    }
}

impl Vertex {
    /// A vertex without inputs, name or options.
    pub fn new(digest: Digest, op: Arc<dyn Op>) -> Self {
        Self { digest, name: Arc::default(), op, inputs: Vec::new(), options: None }
    }

    /// Names it for people.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds the next input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Input>) -> Self {
        self.inputs.push(input.into());
        self
    }

    /// Sets its options.
    #[must_use]
    pub fn options(mut self, options: VertexOptions) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// As messages name it.
    pub fn label(&self) -> VertexLabel {
        VertexLabel { digest: self.digest, name: Arc::clone(&self.name) }
    }

    pub(crate) fn ignores_cache(&self) -> bool {
        self.options.as_ref().is_some_and(|o| o.ignore_cache)
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vertex({}, {:?})", self.label(), self.inputs)
    }
}

/// Why vertices do not make a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An input names a vertex that was never added.
    #[error("input {input} of {vertex} is vertex number {missing}, which the graph does not have")]
    DanglingInput {
        /// The vertex with the bad input.
        vertex: VertexLabel,
        /// Which input.
        input: usize,
        /// What it names.
        missing: u32,
    },
    /// Vertices depend on each other in a ring.
    #[error("the vertices depend on each other in a ring: {}", ring(.chain))]
    Cycle {
        /// The ring; each depends on the next, the last on the first.
        chain: Vec<VertexLabel>,
    },
    /// More vertices than a number of 32 bits counts.
    #[error("a graph holds at most {} vertices", u32::MAX - 1)]
    TooLarge,
}

fn ring(chain: &[VertexLabel]) -> String {
    let mut text: String = chain.iter().map(|label| format!("{label} > ")).collect();
    if let Some(first) = chain.first() {
        text.push_str(&first.to_string());
    }
    text
}

/// Collects vertices. Inputs may name vertices that are added later.
#[derive(Default)]
pub struct GraphBuilder {
    vertices: Vec<Arc<Vertex>>,
}

impl GraphBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty builder with room for `vertices`.
    pub fn with_capacity(vertices: usize) -> Self {
        Self { vertices: Vec::with_capacity(vertices) }
    }

    /// Adds a vertex; vertices are counted from 0 in this order.
    pub fn add(&mut self, vertex: Vertex) -> VertexRef {
        let number = u32::try_from(self.vertices.len()).unwrap_or(u32::MAX);
        self.vertices.push(Arc::new(vertex));
        VertexRef(number)
    }

    /// A vertex that was added.
    pub fn vertex(&self, vertex: VertexRef) -> Option<&Vertex> {
        self.vertices.get(vertex.0 as usize).map(AsRef::as_ref)
    }

    /// Checks that every input exists and that there is no cycle.
    ///
    /// # Errors
    /// [`GraphError`] names the vertices.
    pub fn finish(self) -> Result<Graph, GraphError> {
        if u32::try_from(self.vertices.len()).is_err() {
            return Err(GraphError::TooLarge);
        }
        let mut forward = false;
        for (number, vertex) in self.vertices.iter().enumerate() {
            for (input, on) in vertex.inputs.iter().enumerate() {
                let target = on.vertex.0 as usize;
                forward |= target >= number;
                if target >= self.vertices.len() {
                    let vertex = vertex.label();
                    return Err(GraphError::DanglingInput { vertex, input, missing: on.vertex.0 });
                }
            }
        }
        // Inputs that only name earlier vertices cannot form a ring.
        let order = if forward { Some(inputs_first(&self.vertices)?.into()) } else { None };
        Ok(Graph { vertices: self.vertices.into(), order })
    }
}

/// An order in which inputs stand before what uses them; refuses rings.
fn inputs_first(vertices: &[Arc<Vertex>]) -> Result<Vec<u32>, GraphError> {
    const OPEN: u8 = 1;
    const CLOSED: u8 = 2;
    let mut mark = vec![0u8; vertices.len()];
    let mut order = Vec::with_capacity(vertices.len());
    for start in 0..vertices.len() {
        if mark[start] != 0 {
            continue;
        }
        let mut path = vec![(start, 0usize)];
        mark[start] = OPEN;
        while let Some((at, next)) = path.last_mut() {
            let Some(input) = vertices[*at].inputs.get(*next) else {
                mark[*at] = CLOSED;
                order.push(u32::try_from(*at).expect("a graph of more vertices was refused"));
                path.pop();
                continue;
            };
            *next += 1;
            let target = input.vertex.0 as usize;
            match mark[target] {
                OPEN => {
                    let from = path.iter().position(|(v, _)| *v == target).unwrap_or(0);
                    let chain = path[from..].iter().map(|(v, _)| vertices[*v].label()).collect();
                    return Err(GraphError::Cycle { chain });
                }
                CLOSED => {}
                _ => {
                    mark[target] = OPEN;
                    path.push((target, 0));
                }
            }
        }
    }
    Ok(order)
}

/// A checked, immutable graph; clones share it.
#[derive(Clone)]
pub struct Graph {
    pub(crate) vertices: Arc<[Arc<Vertex>]>,
    /// An order with inputs first; none if the numbers are one.
    order: Option<Arc<[u32]>>,
}

impl Graph {
    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// True if every input has a lower number than what uses it.
    pub(crate) fn is_in_order(&self) -> bool {
        self.order.is_none()
    }

    /// The numbers of all vertices, inputs before what uses them.
    pub(crate) fn inputs_first(&self) -> impl DoubleEndedIterator<Item = u32> {
        let count = u32::try_from(self.len()).expect("a graph of more vertices was refused");
        let at = |place| self.order.as_ref().map_or(place, |order| order[place as usize]);
        (0..count).map(at)
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// A vertex, if there is one of this number.
    pub fn vertex(&self, vertex: VertexRef) -> Option<&Vertex> {
        self.vertices.get(vertex.0 as usize).map(AsRef::as_ref)
    }

    /// One output of a vertex, to be built.
    pub fn edge(&self, vertex: VertexRef, output: u32) -> Edge {
        Edge { graph: self.clone(), at: Input { vertex, output } }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} vertices)", self.len())
    }
}

/// One output of a vertex of a graph: what a build is asked for.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The graph.
    pub graph: Graph,
    /// Which output of which vertex.
    pub at: Input,
}
