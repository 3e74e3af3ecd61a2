//! Container images in OCI's and Docker's formats: references, documents, layouts and layers.
//!
//! Everything here treats its input as hostile: a document is read only up to a limit, every byte is compared with the
//! digest and size under which it was announced, and a layer is unpacked by an extractor of our own. The
//! refused alternative is `tar::Archive::unpack`, which knows neither whiteouts nor a root in which links are resolved,
//! reads extension headers of any length into memory and splits attribute values at newlines.
//!
//! | step | file |
//! |---|---|
//! | a user's name for an image | [`mod@reference`] |
//! | the documents, in the order of their fields | [`document`] |
//! | a directory or archive of blobs | [`layout`] |
//! | the image in it, and everything the image consists of | [`image`] |
//! | statements about images, build caches | [`attest`], [`cache`] |
//! | images as an archive for others | [`save`] |
//! | images to and from registries | [`registry`] |
//! | the bytes of a blob, compared with its descriptor | [`blob`] |
//! | a layer as a plain tar stream, within limits; making a layer | [`layer`] |
//! | the members of a tar stream | [`archive`] |
//! | the members as files below a directory | [`unpack`] |

pub mod archive;
pub mod attest;
pub mod blob;
pub mod cache;
pub mod document;
pub mod image;
pub mod layer;
pub mod layout;
pub mod limits;
pub mod path;
pub mod reference;
pub mod registry;
pub mod save;
pub mod unpack;

pub use document::{Descriptor, ImageConfig, Index, Manifest};
pub use image::{Image, ImageProblem, Source};
pub use layout::{Layout, LayoutError, LayoutWriter};
pub use limits::Limits;
pub use reference::{InvalidReference, Reference};
pub use unpack::{UnpackError, UnpackOptions, unpack_image};
