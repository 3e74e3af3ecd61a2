//! Rings among the items of an export, found in linear time and without recursion.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Numbers items so that two have the same number exactly if each follows from the other, and a
/// source outside the ring has a lower one (Tarjan's strongly connected components).
pub(super) fn components(items: &[u32], sources: impl Fn(u32) -> Vec<u32>) -> BTreeMap<u32, usize> {
    struct Visit {
        item: u32,
        sources: std::vec::IntoIter<u32>,
    }
    let mut found: BTreeMap<u32, usize> = BTreeMap::new();
    let mut indexes: BTreeMap<u32, usize> = BTreeMap::new();
    let mut lowest: BTreeMap<u32, usize> = BTreeMap::new();
    let mut pending: Vec<u32> = Vec::new();
    let mut next = 0;
    for start in items {
        if indexes.contains_key(start) {
            continue;
        }
        let mut stack: Vec<Visit> = Vec::new();
        let mut enter = Some(*start);
        loop {
            if let Some(item) = enter.take() {
                let index = indexes.len();
                indexes.insert(item, index);
                lowest.insert(item, index);
                pending.push(item);
                stack.push(Visit { item, sources: sources(item).into_iter() });
            }
            let Some(visit) = stack.last_mut() else { break };
            let item = visit.item;
            if let Some(source) = visit.sources.next() {
                match indexes.get(&source) {
                    None => enter = Some(source),
                    Some(index) if !found.contains_key(&source) => {
                        let low = lowest[&item].min(*index);
                        lowest.insert(item, low);
                    }
                    Some(_) => {}
                }
                continue;
            }
            stack.pop();
            let low = lowest[&item];
            if let Some(above) = stack.last() {
                let above_low = lowest[&above.item].min(low);
                lowest.insert(above.item, above_low);
            }
            if low == indexes[&item] {
                while let Some(member) = pending.pop() {
                    found.insert(member, next);
                    if member == item {
                        break;
                    }
                }
                next += 1;
            }
        }
    }
    found
}

/// How many steps an item is away from items without inputs, counting for each input its nearest
/// source; items that cannot be reached have no level.
pub(super) fn levels(items: &[u32], inputs: impl Fn(u32) -> Vec<Vec<u32>>) -> BTreeMap<u32, usize> {
    let mut waiting: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
    let mut missing: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    let mut queue: VecDeque<(u32, usize)> = VecDeque::new();
    for item in items {
        let inputs = inputs(*item);
        missing.insert(*item, (0..inputs.len()).collect());
        if inputs.is_empty() {
            queue.push_back((*item, 0));
        }
        for (input, sources) in inputs.into_iter().enumerate() {
            for source in sources {
                waiting.entry(source).or_default().push((*item, input));
            }
        }
    }
    let mut levels = BTreeMap::new();
    while let Some((item, level)) = queue.pop_front() {
        if levels.insert(item, level).is_some() {
            continue;
        }
        for (consumer, input) in waiting.remove(&item).unwrap_or_default() {
            if let Some(inputs) = missing.get_mut(&consumer)
                && inputs.remove(&input)
                && inputs.is_empty()
            {
                queue.push_back((consumer, level + 1));
            }
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_told_from_chains() {
        // 0 <- 1 <- 2 <- 1 (a ring of 1 and 2), 3 <- 2, 4 alone in a ring with itself.
        let inputs = |item: u32| -> Vec<Vec<u32>> {
            match item {
                0 => vec![],
                1 => vec![vec![0, 2]],
                2 => vec![vec![1]],
                3 => vec![vec![2], vec![0]],
                _ => vec![vec![4]],
            }
        };
        let items = [3, 1, 4, 0, 2];
        let found = components(&items, |item| inputs(item).concat());
        assert_eq!(found[&1], found[&2]);
        assert!(found[&0] < found[&1] && found[&2] < found[&3]);
        let levels = levels(&items, inputs);
        assert_eq!(levels, BTreeMap::from([(0, 0), (1, 1), (2, 2), (3, 3)]));
    }
}
