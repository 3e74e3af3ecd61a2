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
    /// Nothing yet, with room for what will come.
    pub(crate) fn with_capacity(count: usize) -> Self {
        if count > 1 { Self::Many(Vec::with_capacity(count)) } else { Self::None }
    }

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
            Self::Many(values) if values.len() > 1 => drop(values.swap_remove(place)),
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

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut values: Vec<T>) -> Self {
        if values.len() > 1 { Self::Many(values) } else { values.pop().map_or(Self::None, Self::One) }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return Self::None };
        let Some(second) = values.next() else { return Self::One(first) };
        Self::Many([first, second].into_iter().chain(values).collect())
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
        for count in 0..4 {
            let values: Vec<i32> = (0..count).collect();
            assert_eq!(*values.iter().copied().collect::<Few<_>>(), *values);
            assert_eq!(*Few::from(values.clone()), *values);
        }
    }
}
