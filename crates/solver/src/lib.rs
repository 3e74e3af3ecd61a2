//! The graph solver: keys, cache, shared work; embeddable on its own.
