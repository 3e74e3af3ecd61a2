//! How a user names an image of this machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// The machine itself.
    Host,
    /// An unpacked root file system.
    Directory(PathBuf),
    /// An image in a layout.
    Layout {
        /// A directory or an archive.
        path: PathBuf,
        /// Which of the images in it.
        tag: Option<String>,
    },
}

/// A text that names no image of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageName {
    /// Another form.
    #[error(
        "image `{0}` is not known here; use `host` for this machine's own programs, `dir:/PATH` for an unpacked \
         root file system, `oci:/PATH[:TAG]` for an image layout or the name of an image"
    )]
    Unknown(String),
    /// A path that means something else in another directory.
    #[error("image `{0}` needs an absolute path after the colon, because it must mean the same everywhere")]
    Relative(String),
    /// The machine's own root is no image.
    #[error("image `{0}` would show the whole machine; use `host` for its programs without its data")]
    WholeMachine(String),
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        let absolute = |path: &str| {
            let path = Path::new(path);
            match path.is_absolute() {
                true => Ok(path.components().collect::<PathBuf>()),
                false => Err(InvalidImageName::Relative(text.to_owned())),
            }
        };
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some(path) = text.strip_prefix("dir:") {
            let path = absolute(path)?;
            if path == Path::new("/") {
                return Err(InvalidImageName::WholeMachine(text.to_owned()));
            }
            return Ok(Self::Directory(path));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            // A colon after the last slash starts a tag.
            let (path, tag) = match rest.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag.to_owned())),
                _ => (rest, None),
            };
            return Ok(Self::Layout { path: absolute(path)?, tag });
        }
        Err(InvalidImageName::Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_names() {
        let layout = |path: &str, tag: Option<&str>| {
            Ok(ImageName::Layout { path: path.into(), tag: tag.map(str::to_owned) })
        };
        assert_eq!("host".parse(), Ok(ImageName::Host));
        assert_eq!("dir:/srv//root/".parse(), Ok(ImageName::Directory("/srv/root".into())));
        assert_eq!("oci:/a/b".parse(), layout("/a/b", None));
        assert_eq!("oci:/a/b:v1".parse(), layout("/a/b", Some("v1")));
        assert_eq!("oci:/a:x/b".parse(), layout("/a:x/b", None));
        for text in ["", "debian:12", "docker.io/library/debian", "Host", "dir", "oci"] {
            assert_eq!(text.parse::<ImageName>(), Err(InvalidImageName::Unknown(text.into())));
        }
        for text in ["dir:", "dir:x", "oci:../x:1", "oci:"] {
            assert_eq!(text.parse::<ImageName>(), Err(InvalidImageName::Relative(text.into())));
        }
        assert_eq!("dir:///".parse::<ImageName>(), Err(InvalidImageName::WholeMachine("dir:///".into())));
    }
}
