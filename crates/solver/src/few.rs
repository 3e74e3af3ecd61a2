//! A list that usually holds one thing.

use std::ops::{Deref, DerefMut};

/// Nothing, one value in place, or many on the heap.
#[derive(Debug, Clone, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, value: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(value),
            Self::One(first) => Self::Many(vec![first, value]),
            Self::Many(mut values) => {
                values.push(value);
                Self::Many(values)
            }
        };
    }

    /// Keeps only some values.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        match self {
            Self::None => {}
            Self::One(value) if keep(value) => {}
            Self::One(_) => *self = Self::None,
            Self::Many(values) => values.retain(keep),
        }
    }

    /// Takes out the value at a place and puts the last one there.
    pub(crate) fn swap_remove(&mut self, place: usize) {
        match self {
            Self::Many(values) => drop(values.swap_remove(place)),
            _ => *self = Self::None,
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(value) => std::slice::from_mut(value),
            Self::Many(values) => values,
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::None => (None, Vec::new()),
            Self::One(value) => (Some(value), Vec::new()),
            Self::Many(values) => (None, values),
        };
        one.into_iter().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_as_a_vector() {
        let (mut few, mut vec) = (Few::default(), Vec::new());
        for value in 0..5 {
            few.push(value);
            vec.push(value);
            assert_eq!(*few, *vec);
        }
        for place in [1, 0, 2, 1, 0] {
            few.swap_remove(place);
            vec.swap_remove(place);
            assert_eq!(*few, *vec);
        }
        assert_eq!(few.into_iter().count(), 0);
    }
}
