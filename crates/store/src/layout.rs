//! Where things are in a state folder, and the format file that says so.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::OpenError;

/// The newest format this program writes and reads.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const FORMAT_WORD: &str = "quern-store";

/// The paths of a state folder. `docs/store-format.md` draws them.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// The directories of a state folder.
const DIRECTORIES: [&str; 11] =
    ["db", "blobs", "packs", "snapshots", "layers", "scratch", "caches", "imports", "leases", "tmp", "trash"];

impl Layout {
    /// Opens the folder `root`, or makes it if `create` and there is nothing yet.
    ///
    /// Safe for several processes at once: the format file appears whole or not at all, and only the first is kept.
    pub(crate) fn open(root: &Path, create: bool) -> Result<Self, OpenError> {
        let layout = Self { root: root.to_owned() };
        if layout.check_format()? {
            // A directory that somebody removed to make room is as good as an empty one.
            layout.make_directories()?;
            return Ok(layout);
        }
        if !create {
            return Err(OpenError::Absent { path: root.to_owned() });
        }
        layout.create()?;
        if layout.check_format()? { Ok(layout) } else { Err(OpenError::Absent { path: root.to_owned() }) }
    }

    fn make_directories(&self) -> Result<(), OpenError> {
        for name in DIRECTORIES {
            let path = self.root.join(name);
            // Layers hold set-user-id programs of images.
            let mode = if name == "layers" { 0o700 } else { 0o777 };
            match fs::DirBuilder::new().mode(mode).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(OpenError::io(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether there is a format file; an error if it asks for another program.
    fn check_format(&self) -> Result<bool, OpenError> {
        let path = self.root.join(FORMAT_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(OpenError::io(&path, source)),
        };
        let version = text.trim_end().strip_prefix(FORMAT_WORD).and_then(|rest| rest.trim().parse().ok());
        match version {
            Some(FORMAT) => Ok(true),
            Some(version) if version > FORMAT => Err(OpenError::Newer { path, version, known: FORMAT }),
            _ => Err(OpenError::Foreign { path: self.root.clone() }),
        }
    }

    fn create(&self) -> Result<(), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::io(&path, source)
        };
        // Steps may leave files with odd owners and modes in here; nobody else is to get at them.
        let mut maker = fs::DirBuilder::new();
        maker.recursive(true).mode(0o700).create(&self.root).map_err(failed(&self.root))?;
        self.refuse_foreign_files()?;
        self.make_directories()?;
        let path = self.root.join(FORMAT_FILE);
        let mut file = tempfile::NamedTempFile::new_in(self.tmp()).map_err(failed(&path))?;
        writeln!(file, "{FORMAT_WORD} {FORMAT}").map_err(failed(&path))?;
        file.as_file().sync_all().map_err(failed(&path))?;
        match file.persist_noclobber(&path) {
            Ok(_) => sync_dir(&self.root).map_err(failed(&self.root)),
            // Another process was first.
            Err(_) if path.exists() => Ok(()),
            Err(error) => Err(OpenError::io(&path, error.error)),
        }
    }

    /// A folder with other files in it is somebody else's; what another process makes at this moment is ours.
    fn refuse_foreign_files(&self) -> Result<(), OpenError> {
        for entry in fs::read_dir(&self.root).map_err(|source| OpenError::io(&self.root, source))? {
            let name = entry.map_err(|source| OpenError::io(&self.root, source))?.file_name();
            let ours = name.to_str().is_some_and(|name| name == FORMAT_FILE || DIRECTORIES.contains(&name));
            if !ours {
                return Err(OpenError::Foreign { path: self.root.clone() });
            }
        }
        Ok(())
    }

    /// The state folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The metadata database.
    pub fn meta_db(&self) -> PathBuf {
        self.root.join("db/meta.sqlite")
    }

    /// The index of packed blobs; may be deleted while no process runs, and is then made anew from the packs.
    pub fn index_db(&self) -> PathBuf {
        self.root.join("db/index.sqlite")
    }

    /// Large blobs, one file each: `blobs/<first two digits>/<the other 62>`.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Small blobs, many to a file.
    pub fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// Trees as directories, kept to be shown again.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Layers of root file systems.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Up to when the layers of each run of the machine are durable; without it those of earlier runs are not believed.
    pub fn settled(&self) -> PathBuf {
        self.root.join("db/layers.json")
    }

    /// Directories that steps write into.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// Named cache mounts.
    pub fn caches(&self) -> PathBuf {
        self.root.join("caches")
    }

    /// What is remembered of imported directories; may be deleted at any time.
    pub fn imports(&self) -> PathBuf {
        self.root.join("imports")
    }

    /// One locked file per living process.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// Files being written, named by their process's lease.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What is no longer needed and waits to be deleted.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quern_testkit::TempSpace;

    #[test]
    fn a_fresh_folder_gets_a_format_and_opens_again() {
        let space = TempSpace::new();
        let root = space.path("deep/state");
        assert!(matches!(Layout::open(&root, false), Err(OpenError::Absent { .. })));
        Layout::open(&root, true).unwrap();
        assert_eq!(space.read("deep/state/format"), "quern-store 1\n");
        Layout::open(&root, false).unwrap();
        assert_eq!(space.files(), ["deep/state/format"], "no temporary file stays");
        fs::remove_dir(root.join("imports")).unwrap();
        Layout::open(&root, false).unwrap();
        assert!(root.join("imports").is_dir());
    }

    #[test]
    fn other_folders_are_refused() {
        let check = |content: &str, expected: &str| {
            let space = TempSpace::new();
            space.write("format", content);
            let error = Layout::open(space.root(), true).unwrap_err().to_string();
            assert!(error.contains(expected), "{content:?}: {error}");
        };
        check("quern-store 2\n", "format 2, this program knows formats up to 1");
        check("quern-store\n", "not a state folder");
        check("something\n", "not a state folder");
        check("", "not a state folder");
        let space = TempSpace::new();
        space.write("thesis.tex", "");
        let error = Layout::open(space.root(), true).unwrap_err().to_string();
        assert!(error.contains("not a state folder"), "{error}");
        assert_eq!(space.files(), ["thesis.tex"]);
    }

    #[test]
    fn many_at_once_make_one_folder() {
        for _ in 0..20 {
            let space = TempSpace::new();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| Layout::open(&space.path("state"), true).unwrap());
                }
            });
        }
    }
}
