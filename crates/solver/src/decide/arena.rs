//! Dense numbers for things that come and go.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Deref, Index, IndexMut};

/// A number in an [`Arena`] of `T`; one more than it, so that no number takes no room.
pub(crate) struct Id<T>(NonZeroU32, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// The bare number, for the other side of the driver.
    pub(crate) fn number(self) -> u32 {
        self.0.get() - 1
    }

    fn place(self) -> usize {
        self.number() as usize
    }

    /// The id of a bare number.
    pub(crate) fn from_number(number: u32) -> Self {
        let number = NonZeroU32::MIN.checked_add(number).expect("fewer than 2^32 things live at once");
        Self(number, PhantomData)
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u32(self.number());
    }
}

impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.number())
    }
}

/// Ids that stay as they are; usually there are at most four.
pub(crate) enum Ids<T> {
    Few { count: u8, ids: [Id<T>; 4] },
    Many(Box<[Id<T>]>),
}

impl<T> From<&[Id<T>]> for Ids<T> {
    fn from(all: &[Id<T>]) -> Self {
        let mut ids = [Id::from_number(0); 4];
        match ids.get_mut(..all.len()) {
            Some(place) => place.copy_from_slice(all),
            None => return Self::Many(all.into()),
        }
        Self::Few { count: all.len() as u8, ids }
    }
}

impl<T> Deref for Ids<T> {
    type Target = [Id<T>];

    fn deref(&self) -> &[Id<T>] {
        match self {
            Self::Few { count, ids } => &ids[..usize::from(*count)],
            Self::Many(ids) => ids,
        }
    }
}

/// A vector with holes that are filled again.
pub(crate) struct Arena<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more.saturating_sub(self.free.len()));
    }

    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 things live at once")
        });
        self.slots[number as usize] = Some(value);
        Id::from_number(number)
    }

    /// Takes a value out. Once nothing is left, the memory goes, too.
    pub(crate) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let value = self.slots.get_mut(id.place())?.take();
        if value.is_some() {
            self.free.push(id.number());
            if self.free.len() == self.slots.len() {
                *self = Self::default();
            }
        }
        value
    }

    pub(crate) fn contains(&self, id: Id<T>) -> bool {
        self.slots.get(id.place()).is_some_and(Option::is_some)
    }

    pub(crate) fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.slots.get_mut(id.place())?.as_mut()
    }

    /// One value to change and another to read.
    pub(crate) fn pair_mut(&mut self, change: Id<T>, read: Id<T>) -> (&mut T, &T) {
        let (a, b) = (change.place(), read.place());
        let [a, b] = self.slots.get_disjoint_mut([a, b]).expect("two different ids in use");
        (a.as_mut().expect("in use"), b.as_ref().expect("in use"))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(n, slot)| Some((Id::from_number(n), slot.as_ref()?)))
    }

    pub(crate) fn ids(&self) -> Vec<Id<T>> {
        self.iter().map(|(id, _)| id).collect()
    }
}

impl<T> Index<Id<T>> for Arena<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        self.slots[id.place()].as_ref().expect("ids are dropped with what they name")
    }
}

impl<T> IndexMut<Id<T>> for Arena<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        self.slots[id.place()].as_mut().expect("ids are dropped with what they name")
    }
}
