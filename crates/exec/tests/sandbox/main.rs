//! What every executor owes its callers, as checks over a [`lab::Lab`]: each is a test of its own as whoever runs
//! the tests, and all run once more as an ordinary user.

#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

/// Names checks and makes a test of each.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// The checks of this file.
        pub const ALL: &[(&str, fn(&$crate::lab::Lab))] = &[$((stringify!($name), $name)),*];

        mod each {
            $(#[test]
            fn $name() {
                super::$name(&$crate::lab::Lab::new(1));
            })*
        }
    };
}

mod again;
mod changes;
mod deaths;
mod ends;
mod escapes;
mod hostile;
mod lab;
mod limits;
mod ordinary_user;
mod sees;
mod shown;
