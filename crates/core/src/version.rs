//! The version of a stored record, checked when it is read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field that is written as the number `N` and refuses to be read as any other one, so that a record
/// of a newer program is never misread. Put it first in a stored struct, as `version: Version<1>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version<const N: u32>;

impl<const N: u32> Serialize for Version<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(N)
    }
}

impl<'de, const N: u32> Deserialize<'de> for Version<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = u32::deserialize(deserializer)?;
        if found == N {
            return Ok(Self);
        }
        Err(serde::de::Error::custom(format_args!(
            "the record has format {found} and this program reads format {N}; use the version of quern that wrote it"
        )))
    }
}
