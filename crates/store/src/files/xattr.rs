//! Extended attributes of open files.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::source::{Xattrs, keeps_xattr};

/// The attributes of a file that count, ascending.
pub(super) fn read(file: impl AsFd) -> io::Result<Xattrs> {
    let names = match grow(|buffer| rustix::fs::flistxattr(&file, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && keeps_xattr(name)) {
        let text = CString::new(name)?;
        match grow(|buffer| rustix::fs::fgetxattr(&file, &text, buffer)) {
            Ok(value) => found.push((name.to_vec(), value)),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Calls with larger and larger buffers until what is there fits.
fn grow(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match get(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            // The kernel allows 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}
