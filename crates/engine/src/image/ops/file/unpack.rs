//! Archives that `ADD` unpacks.

use std::fs::File;
use std::path::Path;

use quern_oci::UnpackOptions;
use quern_oci::archive::open_archive;
use quern_oci::unpack::Unpacker;

/// Unpacks an archive into an empty directory; false if the file is none.
///
/// # Errors
/// In words, if it is one but is damaged or hostile.
pub fn unpack(file: &mut File, directory: &Path) -> Result<bool, String> {
    let options = UnpackOptions::for_current_user();
    let stream = open_archive(file, &options.limits).map_err(|error| error.to_string())?;
    let Some(stream) = stream else { return Ok(false) };
    let mut unpacker = Unpacker::new(directory, &options).map_err(|error| error.to_string())?;
    unpacker.archive(stream).map_err(|error| error.to_string())?;
    Ok(true)
}
