//! A small op for tests in code: its calls are closures, and every call is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quern_core::Digest;
use quern_solver::{
    Blocking, CacheMap, Edge, Graph, GraphBuilder, Input, MapStep, Op, OpContext, OpError, SharedResult,
    Vertex, VertexRef,
};

pub fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

type Exec = dyn Fn(&OpContext<'_>, &[SharedResult]) -> Result<Vec<SharedResult>, OpError> + Send + Sync;

/// An op with a fixed cache map.
pub struct Fake {
    pub map: CacheMap,
    pub run: Box<Exec>,
    pub runs: AtomicUsize,
    pub blocking: Blocking,
    pub weight: u32,
}

impl Fake {
    /// Returns `value`.
    pub fn value(seed: &str, value: i64) -> Self {
        Self::new(seed, move |_, _| Ok(vec![SharedResult::new(value)]))
    }

    /// The sum of the inputs plus one.
    pub fn sum(seed: &str) -> Self {
        Self::new(seed, |_, inputs| {
            let sum: i64 = inputs.iter().map(|input| input.get::<i64>().unwrap()).sum();
            Ok(vec![SharedResult::new(sum + 1)])
        })
    }

    pub fn new(
        seed: &str,
        run: impl Fn(&OpContext<'_>, &[SharedResult]) -> Result<Vec<SharedResult>, OpError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let map = CacheMap::new(digest(seed));
        Self { map, run: Box::new(run), runs: AtomicUsize::new(0), blocking: Blocking::Always, weight: 1 }
    }

    pub fn map(mut self, map: CacheMap) -> Self {
        self.map = map;
        self
    }

    pub fn quick(mut self) -> Self {
        self.blocking = Blocking::Never;
        self
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Op for Fake {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(self.map.clone()))
    }

    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        (self.run)(ctx, inputs)
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }

    fn weight(&self) -> u32 {
        self.weight
    }
}

/// A vertex named like its op's seed.
pub fn vertex(name: &str, op: impl Op + 'static) -> Vertex {
    Vertex::new(digest(name), Arc::new(op)).name(name)
}

/// A graph of vertices given inputs first; the edge is output 0 of the last.
pub fn chain(vertices: Vec<Vertex>) -> Edge {
    let graph = graph(vertices);
    let last = u32::try_from(graph.len() - 1).unwrap();
    graph.edge(VertexRef(last), 0)
}

pub fn graph(vertices: Vec<Vertex>) -> Graph {
    let mut builder = GraphBuilder::new();
    for vertex in vertices {
        builder.add(vertex);
    }
    builder.finish().unwrap()
}

pub fn on(number: u32) -> Input {
    Input::from(VertexRef(number))
}
