//! Who may write: for every branch the jobs that want to, first come first served.
//!
//! A job holds all its outputs or none: it has its turn when it is first in every queue it stands in. Jobs are put into all
//! their queues at once, so the order in which they came is the same in every queue and nobody waits in a ring.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quern_core::{Id, Version};
use serde::{Deserialize, Serialize};

use crate::spec::DatasetBranch;

/// The queues of all branches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputQueues {
    version: Version<1>,
    queues: BTreeMap<DatasetBranch, VecDeque<Id>>,
}

impl OutputQueues {
    /// Puts a job at the end of the queues of its outputs. A job that stands in a queue already keeps its place.
    /// Gives back whether it is its turn at once.
    pub fn enter(&mut self, job: Id, outputs: &[DatasetBranch]) -> bool {
        for branch in outputs {
            let queue = self.queues.entry(branch.clone()).or_default();
            if !queue.contains(&job) {
                queue.push_back(job);
            }
        }
        self.has_turn(job)
    }

    /// Takes a job out of all queues, whether it had its turn or not. Gives back the jobs whose turn it is now
    /// and was not before, each once.
    pub fn leave(&mut self, job: Id) -> Vec<Id> {
        let mut moved_up = BTreeSet::new();
        for queue in self.queues.values_mut() {
            if queue.front() == Some(&job) {
                moved_up.extend(queue.get(1));
            }
            queue.retain(|other| *other != job);
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        moved_up.into_iter().filter(|other| self.has_turn(*other)).collect()
    }

    /// Whether a job is first in every queue it stands in, and stands in one.
    pub fn has_turn(&self, job: Id) -> bool {
        let mut queues = self.queues.values().filter(|queue| queue.contains(&job)).peekable();
        queues.peek().is_some() && queues.all(|queue| queue.front() == Some(&job))
    }

    /// The jobs a job waits for, in each of its queues the ones before it, each once.
    pub fn blocked_by(&self, job: Id) -> BTreeSet<Id> {
        let queues = self.queues.values().filter(|queue| queue.contains(&job));
        queues.flat_map(|queue| queue.iter().copied().take_while(|other| *other != job)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u8) -> Id {
        Id::from_bytes([n; 16])
    }

    fn branches(names: &[&str]) -> Vec<DatasetBranch> {
        names.iter().map(|name| DatasetBranch::new(*name, "master")).collect()
    }

    #[test]
    fn a_job_has_its_turn_when_it_is_first_everywhere() {
        let mut queues = OutputQueues::default();
        assert!(queues.enter(job(1), &branches(&["a"])));
        assert!(queues.enter(job(2), &branches(&["b"])));
        assert!(!queues.enter(job(3), &branches(&["a", "b"])));
        assert!(!queues.enter(job(3), &branches(&["a", "b"])), "entering twice changes nothing");
        assert!(!queues.enter(job(4), &branches(&["b"])), "nobody overtakes");
        assert_eq!(queues.blocked_by(job(4)), [job(2), job(3)].into());
        assert_eq!(queues.leave(job(1)), []);
        assert_eq!(queues.leave(job(2)), [job(3)]);
        assert_eq!(queues.leave(job(3)), [job(4)]);
        assert_eq!(queues.leave(job(4)), []);
        assert_eq!(queues, OutputQueues::default());
    }

    #[test]
    fn a_turn_is_given_once() {
        let mut queues = OutputQueues::default();
        queues.enter(job(1), &branches(&["a", "b", "c"]));
        queues.enter(job(3), &branches(&["c"]));
        queues.enter(job(2), &branches(&["a", "b"]));
        assert_eq!(queues.blocked_by(job(2)), [job(1)].into());
        assert_eq!(queues.leave(job(1)), [job(2), job(3)]);
    }

    #[test]
    fn a_waiting_job_may_leave() {
        let mut queues = OutputQueues::default();
        queues.enter(job(1), &branches(&["a"]));
        queues.enter(job(2), &branches(&["a", "b"]));
        queues.enter(job(3), &branches(&["b"]));
        assert_eq!(queues.leave(job(2)), [job(3)]);
        assert!(queues.has_turn(job(1)) && queues.has_turn(job(3)));
    }
}
