//! What every executor owes its callers, as checks over a [`lab::Lab`]; run as root and as an ordinary user.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]

/// A check and its name.
pub type Check = (&'static str, fn(&lab::Lab));

/// Names checks and, in the program that says so, makes a test of each.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[$crate::suite::Check] = &[$((stringify!($name), $name)),*];

        mod each {
            $(#[test]
            fn $name() {
                if $crate::EACH {
                    super::$name(&$crate::suite::lab::Lab::new(1));
                }
            })*
        }
    };
}

pub mod ends;
pub mod escapes;
pub mod lab;
pub mod limits;
pub mod sees;

/// All checks.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [ends::ALL, escapes::ALL, limits::ALL, sees::ALL].into_iter().flatten()
}
