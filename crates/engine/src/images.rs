//! Images of this machine: the machine itself, an unpacked directory, an OCI layout.
//!
//! | name | root file system | identity |
//! |---|---|---|
//! | `host` | the machine's own programs, see [`host`] | operating system, architecture, versions of interpreters |
//! | `dir:/PATH` | that directory | its path, and path, kind, mode, owner, size and time of everything in it |
//! | `oci:/PATH[:TAG]` | the layers, unpacked once | the chain of digests of its unpacked layers |
//! | any other reference | an image built, loaded or pulled here ([`ImageStore`]), else pulled now | the same |
//!
//! Names are resolved anew each time, because what they stand for may have changed; what an identity stands for is noted in the
//! folder, so that another process can show the root file system of an identity it has only read of.
//!
//! The folder, `<state>/images`, is private to its owner: unpacked roots hold set-user-id programs of images, which no
//! other user of the machine should be able to reach.

mod directory;
pub mod files;
pub mod host;
mod load;
mod name;
mod names;
pub mod pack;
mod programs;
pub mod records;
mod remote;
mod store;
mod unpacked;
mod write;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use quern_core::Digest;
use quern_core::port::{Cancel, Image, Images, Layers as _, PortError, RootFs, RootLayout};
use quern_core::step::Platform;
use quern_oci::document::Defaults;
use quern_oci::{Layout, Limits, UnpackOptions, unpack_image};
use serde::{Deserialize, Serialize};

pub use load::Loaded;
pub use name::{ImageName, InvalidImageName};
pub use names::{NamedImage, Removed, created};
pub use pack::PackError;
pub use records::{ImageLayer, ImageRecord};
pub use store::{Freshness, ImageError, ImageStore, KnownImage};
pub use unpacked::Pruned;
use unpacked::Unpacked;
pub use write::Form;

/// The images of this machine, with a folder for what is unpacked.
pub struct LocalImages {
    folder: PathBuf,
    /// Images with names.
    store: Option<Arc<ImageStore>>,
    /// Roots in use by this process, so that steps that follow one another share a lease.
    leases: Mutex<BTreeMap<Digest, Weak<Unpacked>>>,
    /// The copy of `/etc` for `host`, and when it was compared with the machine's own.
    etc: Mutex<Option<(Instant, Arc<Unpacked>)>>,
}

/// How long a copy of `/etc` is used before it is compared with the machine's own again, which takes two milliseconds.
const ETC_LASTS: Duration = Duration::from_secs(10);

/// Where programs are looked for in images that do not say it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an identity stands for, as it is noted in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Origin {
    Host,
    Directory {
        path: PathBuf,
    },
    Layout {
        path: PathBuf,
        tag: Option<String>,
        os: String,
        arch: String,
    },
    /// An image of the store, by its own id.
    Stored {
        id: Digest,
    },
}

impl LocalImages {
    /// Images whose unpacked roots are kept in `folder`. Nothing is touched before it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), store: None, leases: Mutex::default(), etc: Mutex::default() }
    }

    /// The same with images that have names of their own.
    #[must_use]
    pub fn with_store(mut self, store: Arc<ImageStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// An image of the store, or of a registry.
    fn resolve_stored(
        &self,
        store: &ImageStore,
        name: &str,
        platform: &Platform,
    ) -> Result<(Image, Origin), PortError> {
        let image = store.resolve(name, platform, Freshness::Known, &Cancel::default());
        let image = image.map_err(|error| PortError::Other(format!("image `{name}`: {error}")))?;
        // The image must be found by its id, too, whatever becomes of the name.
        store.put(&[], &image.record)?;
        let origin = Origin::Stored { id: image.record.id };
        Ok((with_defaults(image.record.chain_id(), &image.config.config), origin))
    }

    fn stored_root(&self, id: &Digest) -> Result<RootFs, PortError> {
        let refuse = |error: ImageError| PortError::Other(error.to_string());
        let store = self.store.as_ref().ok_or_else(|| PortError::Other("no images are kept here".into()))?;
        let image = store.find(&id.to_string()).map_err(refuse)?;
        let image = image.ok_or_else(|| refuse(ImageError::Unknown(id.to_string())))?;
        let snapshot = store.unpacked(&image.record, &Cancel::default()).map_err(refuse)?;
        let open = store.layers().open(snapshot.layers())?;
        Ok(RootFs { layout: RootLayout::Layers(open.dirs), lease: open.lease })
    }

    /// Removes unpacked roots that no step is using and none has used for `unused_for`; they are unpacked again when they
    /// are needed.
    ///
    /// # Errors
    /// [`PortError::Io`] if the folder cannot be read or something in it not be removed.
    pub fn prune(&self, unused_for: Duration) -> Result<Pruned, PortError> {
        unpacked::prune(&self.roots(), unused_for)
    }

    fn roots(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    fn origin_file(&self, id: &Digest) -> PathBuf {
        self.folder.join("origins").join(id.hex())
    }

    /// Remembers what an identity stands for.
    fn note(&self, id: &Digest, origin: &Origin) -> Result<(), PortError> {
        let file = self.origin_file(id);
        let text = serde_json::to_vec(origin).expect("an origin has only text keys");
        if fs::read(&file).is_ok_and(|known| known == text) {
            return Ok(());
        }
        self.make_folder()?;
        write_whole(&file, &text)
    }

    fn origin(&self, id: &Digest) -> Result<Origin, PortError> {
        let file = self.origin_file(id);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PortError::Other(format!(
                    "image {id} is not known on this machine; name the image again so that it is looked up"
                )));
            }
            Err(error) => return Err(PortError::io(format!("reading {}", file.display()), error)),
        };
        serde_json::from_slice(&text)
            .map_err(|error| PortError::Other(format!("{} is damaged ({error}); remove it", file.display())))
    }

    fn make_folder(&self) -> Result<(), PortError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|error| PortError::io(format!("making {}", self.folder.display()), error))
    }

    fn resolve_layout(
        &self,
        path: &Path,
        tag: Option<&str>,
        platform: &Platform,
    ) -> Result<(quern_oci::Image, Layout), PortError> {
        let refuse = |error: quern_oci::LayoutError| PortError::Other(error.to_string());
        let layout = Layout::open(path, &Limits::default()).map_err(refuse)?;
        let image = layout.resolve(tag, platform).map_err(refuse)?;
        Ok((image, layout))
    }

    fn host_root(&self) -> Result<RootFs, PortError> {
        let mut etc = self.etc.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = match &*etc {
            Some((compared, shown)) if compared.elapsed() < ETC_LASTS => Arc::clone(shown),
            _ => {
                self.make_folder()?;
                let shown = Arc::new(host::prepare_etc(&self.folder.join("host"))?);
                *etc = Some((Instant::now(), Arc::clone(&shown)));
                shown
            }
        };
        let layout = RootLayout::Host { directories: host::directories(), etc: shown.path.clone() };
        Ok(RootFs { layout, lease: Box::new(shown) })
    }

    /// The unpacked root of a layout; unpacked now if it never was.
    fn layout_root(&self, id: &Digest, origin: &Origin) -> Result<RootFs, PortError> {
        let leased = {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.retain(|_, lease| lease.strong_count() > 0);
            leases.get(id).and_then(Weak::upgrade)
        };
        let leased = match leased {
            Some(leased) => leased,
            None => {
                self.make_folder()?;
                let made =
                    unpacked::obtain(&self.roots(), &id.hex(), |folder| self.unpack(id, origin, folder))?;
                let leased = Arc::new(made);
                let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
                leases.insert(*id, Arc::downgrade(&leased));
                leased
            }
        };
        let layout = RootLayout::Layers(vec![leased.path.clone()]);
        Ok(RootFs { layout, lease: Box::new(leased) as Box<dyn Any + Send + Sync> })
    }

    fn unpack(&self, id: &Digest, origin: &Origin, folder: &Path) -> Result<(), PortError> {
        let Origin::Layout { path, tag, os, arch } = origin else {
            return Err(PortError::Other(format!("image {id} is not of a kind that is unpacked")));
        };
        let platform = Platform { os: os.clone(), arch: arch.clone(), variant: String::new() };
        let (image, layout) = self.resolve_layout(path, tag.as_deref(), &platform)?;
        if image.chain_id() != *id {
            return Err(PortError::Other(format!(
                "`{}` no longer holds image {id}; run the command again to use what it holds now",
                path.display()
            )));
        }
        unpack_image(&layout, &image, folder, &UnpackOptions::for_current_user())
            .map(drop)
            .map_err(|error| PortError::Other(format!("cannot unpack `{}`: {error}", path.display())))
    }

    /// An image that is not in the store.
    fn resolve_own(&self, name: ImageName, platform: &Platform) -> Result<(Image, Origin), PortError> {
        Ok(match name {
            ImageName::Host => {
                check_platform(platform, "host")?;
                self.make_folder()?;
                (host::resolve(&self.folder.join("programs.json"))?, Origin::Host)
            }
            ImageName::Directory(path) => {
                check_platform(platform, "dir:")?;
                let id = directory::identity(&path)?;
                (plain(id, PATH), Origin::Directory { path })
            }
            ImageName::Layout { path, tag } => {
                let (image, _) = self.resolve_layout(&path, tag.as_deref(), platform)?;
                let Platform { os, arch, .. } = platform.clone();
                (
                    with_defaults(image.chain_id(), &image.config.config),
                    Origin::Layout { path, tag, os, arch },
                )
            }
        })
    }
}

impl Images for LocalImages {
    fn resolve(&self, name: &str, platform: &Platform) -> Result<Image, PortError> {
        let (image, origin) = match (name.parse(), &self.store) {
            (Ok(name), _) => self.resolve_own(name, platform)?,
            (Err(InvalidImageName::Unknown(_)), Some(store)) => self.resolve_stored(store, name, platform)?,
            (Err(error), _) => return Err(PortError::Other(error.to_string())),
        };
        self.note(&image.id, &origin)?;
        Ok(image)
    }

    fn rootfs(&self, image: &Digest) -> Result<RootFs, PortError> {
        match self.origin(image)? {
            Origin::Host => self.host_root(),
            Origin::Directory { path } if path.is_dir() => {
                Ok(RootFs { layout: RootLayout::Layers(vec![path]), lease: Box::new(()) })
            }
            Origin::Directory { path } => Err(PortError::Other(format!(
                "image `dir:{}` is gone: there is no such directory",
                path.display()
            ))),
            Origin::Stored { id } => self.stored_root(&id),
            origin @ Origin::Layout { .. } => self.layout_root(image, &origin),
        }
    }
}

fn check_platform(wanted: &Platform, image: &str) -> Result<(), PortError> {
    let own = Platform::current();
    if *wanted == own {
        return Ok(());
    }
    Err(PortError::Other(format!(
        "a `{image}` image runs only on this machine's own platform {}/{}, not on {}/{}",
        own.os, own.arch, wanted.os, wanted.arch
    )))
}

fn plain(id: Digest, path: &str) -> Image {
    Image { id, env: vec![("PATH".into(), path.into())], workdir: "/".into(), user: None }
}

/// The defaults of an image's config. Variables without `=` are ignored, as every engine does.
fn with_defaults(id: Digest, defaults: &Defaults) -> Image {
    let split = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut env: Vec<_> = defaults.env.iter().filter_map(split).collect();
    if !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".into(), PATH.into()));
    }
    Image {
        id,
        env,
        workdir: if defaults.working_dir.is_empty() { "/".into() } else { defaults.working_dir.clone() },
        user: Some(defaults.user.clone()).filter(|user| !user.is_empty()),
    }
}

/// Replaces a small file at once, so that a reader sees the old or the new one.
fn write_whole(file: &Path, bytes: &[u8]) -> Result<(), PortError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let failed = |error| PortError::io(format!("writing {}", file.display()), error);
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, file)).map_err(failed)
}

#[cfg(test)]
mod tests;
