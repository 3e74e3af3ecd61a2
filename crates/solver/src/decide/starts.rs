//! Edges that may begin something expensive.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{EdgeId, SPARE, VertexId};

/// The rank of its vertex, the vertex, and the edge: consumers first, and among equals those that
/// came first.
type Start = (u32, Reverse<VertexId>, EdgeId);

/// A queue of edges by their order. Usually very many come before the first is asked for: sorting
/// these costs less than a heap of all of them.
#[derive(Default)]
pub(super) struct Starts {
    /// The first comes last.
    sorted: Vec<Start>,
    /// What came since the others were sorted.
    late: BinaryHeap<Start>,
    /// What came since the last was asked for.
    new: Vec<Start>,
}

impl Starts {
    pub(super) fn push(&mut self, rank: u32, vertex: VertexId, edge: EdgeId) {
        self.new.push((rank, Reverse(vertex), edge));
    }

    /// Gives back the room that a wave of many took up.
    pub(super) fn shrink(&mut self) {
        self.new.shrink_to(SPARE);
        self.sorted.shrink_to(SPARE);
    }

    pub(super) fn pop(&mut self) -> Option<EdgeId> {
        if self.sorted.is_empty() && self.late.is_empty() {
            std::mem::swap(&mut self.sorted, &mut self.new);
            self.sorted.sort_unstable();
        } else {
            self.late.extend(self.new.drain(..));
        }
        let next = if self.late.peek() > self.sorted.last() { self.late.pop() } else { self.sorted.pop() };
        next.map(|(_, _, edge)| edge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_heap() {
        let (mut starts, mut heap) = (Starts::default(), BinaryHeap::new());
        let mut number = 7u32;
        for round in 0..200u32 {
            for _ in 0..round % 7 {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (rank, vertex, edge) = (number >> 29, VertexId::from_number(number >> 20), round);
                let edge = EdgeId::from_number(edge);
                starts.push(rank, vertex, edge);
                heap.push((rank, Reverse(vertex), edge));
            }
            for _ in 0..round % 5 {
                assert_eq!(starts.pop(), heap.pop().map(|(_, _, edge)| edge));
            }
        }
        while let Some((_, _, edge)) = heap.pop() {
            assert_eq!(starts.pop(), Some(edge));
        }
        assert_eq!(starts.pop(), None);
    }
}
