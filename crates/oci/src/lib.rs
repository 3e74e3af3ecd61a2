//! OCI images: references, layouts, layers, validation.
