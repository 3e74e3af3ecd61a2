//! Everything on disk: blobs, trees, snapshots, metadata.
