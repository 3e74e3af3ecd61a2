//! How much an image may ask for.

/// Upper limits, each with a default that real images stay far below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest, an index or a config. Registries refuse more than 4 MiB, too.
    pub document: u64,
    /// Manifests and indexes looked at to find one image.
    pub documents: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of one layer, unpacked; files with holes count with their full length.
    pub layer: u64,
    /// How many times larger than its blob a layer may be, once it is larger than [`Limits::ratio_from`].
    pub ratio: u64,
    /// Unpacked bytes below which the ratio does not matter.
    pub ratio_from: u64,
    /// Members of one layer.
    pub members: u64,
    /// Directories one inside the other.
    pub depth: usize,
    /// Bytes of the extension headers of one member (long names, attributes).
    pub extension: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document: 4 << 20,
            documents: 1000,
            layers: 500,
            layer: 100 << 30,
            ratio: 200,
            ratio_from: 256 << 20,
            members: 2_000_000,
            depth: 250,
            extension: 1 << 20,
        }
    }
}
