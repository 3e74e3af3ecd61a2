//! x
pub(crate) mod beneath;
pub(crate) mod spread;
