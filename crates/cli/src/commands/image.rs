//! `quern image`

use quern_engine::images::{Form, ImageStore, KnownImage};
use quern_oci::Reference;
use quern_oci::registry::Transfer;

use super::image_build::image_failed;
use crate::failure::Failure;
use crate::wiring::Home;

/// Uploads an image under each of its names.
pub fn push(
    home: &Home,
    images: &ImageStore,
    image: &KnownImage,
    form: &Form,
    names: &[Reference],
) -> Result<(), Failure> {
    if names.is_empty() {
        return Err(Failure::input("an image that is pushed needs a name; give it one with --tag"));
    }
    for name in names {
        let root = images.push(image, form, name, &Transfer::default()).map_err(image_failed)?;
        home.say(&format!("pushed {} as {}", name.familiar(), root.digest));
    }
    Ok(())
}
