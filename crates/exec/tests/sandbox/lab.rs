//! A place to run steps in: a workspace and images over a temporary directory, and an executor on top.
use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use quern_core::event::Stream;
use quern_core::port::{
    Cancel, Executor, Image, Images, InlineEntry, Layers, Observer, Outcome, PortError, Presented, RootFs,
    RootLayout, Workspace,
};
use quern_core::step::{Attempt, Input, Network, Platform, Resources, RootAccess, Step};
use quern_core::{ContentRef, Digest, TreePath};
use quern_exec::{LocalExecutor, LocalOptions};
use quern_testkit::DirLayers;

/// Names of the images a lab has.
pub const BUSYBOX: &str = "busybox";
pub const LAYERED: &str = "layered";
pub const HOST: &str = "host";

/// Files by path; links are shown as `-> target`.
pub type Listing = BTreeMap<String, String>;

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub room: Arc<Room>,
    pub layers: Arc<DirLayers>,
    pub executor: LocalExecutor,
}

/// Workspace and images of a lab.
pub struct Room {
    base: PathBuf,
    trees: Mutex<BTreeMap<Digest, Shown>>,
    taken: Mutex<BTreeMap<Digest, Listing>>,
    made: AtomicUsize,
    pub discarded: AtomicUsize,
    snapshots: Mutex<BTreeMap<Digest, Vec<PathBuf>>>,
}

#[derive(Clone)]
enum Shown {
    Inline(Vec<InlineEntry>),
    Directory(PathBuf),
}

impl Lab {
    pub fn new(workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let room = Arc::new(Room::new(dir.path()));
        // A name of its own, so that its processes can be told from those of other labs.
        let own = dir.path().join("launcher");
        symlink(launcher(), &own).unwrap();
        let layers = Arc::new(DirLayers::below(dir.path()));
        let options = LocalOptions {
            workspace: room.clone(),
            images: room.clone(),
            layers: layers.clone(),
            launcher: own,
            workers,
        };
        let executor = LocalExecutor::new(options).unwrap();
        Self { dir, room, layers, executor }
    }

    /// Puts a static C program into the busybox image.
    pub fn program(&self, name: &str, source: &str) -> PathBuf {
        let (text, program) =
            (self.dir.path().join(format!("{name}.c")), self.room.image("busybox").join("bin").join(name));
        fs::write(&text, source).unwrap();
        let made = std::process::Command::new("cc").arg("-static").arg("-o").args([&program, &text]).status();
        assert!(made.expect("these tests need a C compiler").success());
        program
    }

    /// The launchers that run for this lab.
    pub fn launchers(&self) -> Vec<i32> {
        let program = self.dir.path().join("launcher");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent =
                stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
            line.starts_with(program.to_str().unwrap().as_bytes()) && parent == Some(std::process::id())
        })
        .collect()
    }

    /// A step that runs a shell script in the busybox image.
    pub fn sh(&self, script: &str) -> Step {
        step(BUSYBOX, &["sh", "-c", script])
    }

    /// A step of an image build: it runs a shell script in the busybox image and may change it.
    pub fn change(&self, script: &str) -> Step {
        Step { root: RootAccess::Writable, outputs: Vec::new(), ..self.sh(script) }
    }

    /// The same on a snapshot.
    pub fn change_on(&self, snapshot: Digest, script: &str) -> Step {
        Step { image: snapshot, ..self.change(script) }
    }

    /// A snapshot of layers above the busybox image.
    pub fn snapshot(&self, layers: &[Digest]) -> Digest {
        self.bare_snapshot(layers, vec![self.room.image("busybox")])
    }

    /// A snapshot of layers above directories.
    pub fn bare_snapshot(&self, layers: &[Digest], mut dirs: Vec<PathBuf>) -> Digest {
        dirs.extend(self.layers.open(layers).unwrap().dirs);
        let id = Digest::of(format!("{dirs:?}").as_bytes());
        self.room.snapshots.lock().unwrap().insert(id, dirs);
        id
    }

    /// Runs a step that changes its root, which must succeed, and gives its layer.
    pub fn layer(&self, step: Step) -> Digest {
        let ran = self.run(step).unwrap();
        assert_eq!(ran.outcome.exit, quern_core::port::Exit::Code(0), "{}", ran.text());
        ran.outcome.layer.expect("a step that changes its root gives a layer")
    }

    /// What a layer has: see [`entries`].
    pub fn entries(&self, layer: &Digest) -> Listing {
        entries(&self.layers.path(layer))
    }

    pub fn run(&self, step: Step) -> Result<Ran, PortError> {
        self.attempt(&Attempt::first(step), &Cancel::default())
    }

    pub fn attempt(&self, attempt: &Attempt, cancel: &Cancel) -> Result<Ran, PortError> {
        let heard = Heard::default();
        let outcome = self.executor.run(attempt, &heard, cancel)?;
        let lines = heard.0.into_inner().unwrap();
        let taken = self.room.taken.lock().unwrap();
        let outputs = outcome.outputs.iter().map(|content| taken[&content.digest].clone()).collect();
        Ok(Ran { outcome, lines, outputs })
    }

    /// Runs a script and gives what it said on both streams; it must succeed.
    pub fn said(&self, step: Step) -> String {
        let ran = self.run(step).unwrap();
        assert_eq!(ran.outcome.exit, quern_core::port::Exit::Code(0), "{}", ran.text());
        ran.text()
    }
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub lines: Vec<(Stream, String)>,
    pub outputs: Vec<Listing>,
}

impl Ran {
    /// What it said on one stream.
    pub fn on(&self, stream: Stream) -> String {
        let lines = self.lines.iter().filter(|(s, _)| *s == stream);
        lines.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    pub fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

#[derive(Default)]
pub struct Heard(pub Mutex<Vec<(Stream, String)>>);

impl Observer for Heard {
    fn line(&self, stream: Stream, line: &[u8]) {
        self.0.lock().unwrap().push((stream, String::from_utf8_lossy(line).into_owned()));
    }
}

pub fn step(image: &str, argv: &[&str]) -> Step {
    Step {
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        cwd: "/".into(),
        user: None,
        stdin: Vec::new(),
        image: Digest::of(image.as_bytes()),
        root: RootAccess::ReadOnly,
        inputs: Vec::new(),
        mounts: Vec::new(),
        network: Network::None,
        hosts: Vec::new(),
        platform: Platform::current(),
        outputs: vec!["/pfs/out".into()],
        accept: Vec::new(),
        resources: Resources::default(),
        timeout: None,
    }
}

impl Room {
    fn new(base: &Path) -> Self {
        let room = Self {
            base: base.to_owned(),
            trees: Mutex::default(),
            taken: Mutex::default(),
            made: AtomicUsize::new(0),
            discarded: AtomicUsize::new(0),
            snapshots: Mutex::default(),
        };
        for part in ["scratch", "cache", "trees", "images/busybox", "images/upper", "images/etc"] {
            fs::create_dir_all(base.join(part)).unwrap();
        }
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
        room.fill_images();
        room
    }

    /// A root with a static busybox, a layer above it, and an /etc for the machine's own root.
    fn fill_images(&self) {
        let busybox = self.image("busybox");
        for dir in ["bin", "etc", "tmp", "usr/share", "root", "home/build"] {
            fs::create_dir_all(busybox.join(dir)).unwrap();
        }
        fs::copy("/usr/bin/busybox", busybox.join("bin/busybox"))
            .expect("these tests need a static busybox; install the package busybox-static");
        for applet in [
            "sh",
            "true",
            "false",
            "cat",
            "ls",
            "env",
            "sleep",
            "kill",
            "mount",
            "umount",
            "chroot",
            "mknod",
            "ps",
            "hostname",
            "echo",
            "touch",
            "chmod",
            "chown",
            "mkdir",
            "ln",
            "rm",
            "cp",
            "dd",
            "head",
            "wc",
            "grep",
            "sed",
            "pwd",
            "tail",
            "ip",
            "nc",
            "seq",
            "readlink",
            "stat",
            "test",
            "tr",
            "cut",
            "sort",
            "yes",
            "printf",
            "find",
            "setsid",
            "nohup",
            "unshare",
            "awk",
            "uname",
            "expr",
            "wget",
            "df",
            "su",
            "tty",
            "swapoff",
            "date",
            "pivot_root",
            "usleep",
            "mv",
            "mkfifo",
            "rmdir",
            "truncate",
            "du",
            "nproc",
            "sync",
            "diff",
            "basename",
            "dirname",
            "id",
            "whoami",
        ] {
            symlink("busybox", busybox.join("bin").join(applet)).unwrap();
        }
        symlink("/usr/share", busybox.join("data")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1001::/home/build:/bin/sh\n";
        fs::write(busybox.join("etc/passwd"), passwd).unwrap();
        fs::write(busybox.join("etc/group"), "root:x:0:\nbuild:x:1001:\nextra:x:44:build\n").unwrap();
        fs::set_permissions(busybox.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
        let upper = self.image("upper");
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/layer"), "upper").unwrap();
        fs::write(self.image("etc").join("passwd"), passwd).unwrap();
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.base.join("images").join(name)
    }

    /// A tree that is shown from memory.
    pub fn inline(&self, files: &[(&str, &str)]) -> Digest {
        let mut entries = Vec::new();
        for (path, text) in files {
            let path = TreePath::parse(path).unwrap();
            let mut above: Vec<_> = std::iter::successors(path.parent(), TreePath::parent).collect();
            above.retain(|dir| !dir.is_root());
            for dir in above.into_iter().rev().map(InlineEntry::Dir) {
                if !entries.contains(&dir) {
                    entries.push(dir);
                }
            }
            entries.push(match text.strip_prefix("-> ") {
                Some(target) => InlineEntry::Link { path, target: target.into() },
                None => InlineEntry::File {
                    path,
                    bytes: text.as_bytes().to_vec(),
                    executable: text.starts_with("#!"),
                },
            });
        }
        self.keep(&format!("inline {files:?}"), Shown::Inline(entries))
    }

    /// A tree that is shown from a directory.
    pub fn directory(&self, files: &[(&str, &str)]) -> Digest {
        let dir = self.base.join("trees").join(self.made.fetch_add(1, Ordering::SeqCst).to_string());
        fs::create_dir_all(&dir).unwrap();
        for (path, text) in files {
            let at = dir.join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => symlink(target, at).unwrap(),
                None => {
                    fs::write(&at, text).unwrap();
                    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
                    fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
                }
            }
        }
        self.keep(&format!("directory {}", dir.display()), Shown::Directory(dir))
    }

    fn keep(&self, name: &str, shown: Shown) -> Digest {
        let digest = Digest::of(name.as_bytes());
        self.trees.lock().unwrap().insert(digest, shown);
        digest
    }

    /// Output directories that nobody has given back.
    pub fn scratch_left(&self) -> usize {
        fs::read_dir(self.base.join("scratch")).unwrap().count()
    }
}

impl Workspace for Room {
    fn present(&self, tree: &Digest) -> Result<Presented, PortError> {
        match self.trees.lock().unwrap().get(tree).cloned() {
            Some(Shown::Inline(entries)) => Ok(Presented::Inline(entries)),
            Some(Shown::Directory(path)) => Ok(Presented::Directory { path, lease: Box::new(()) }),
            None => Err(PortError::Missing(*tree)),
        }
    }

    fn scratch(&self) -> Result<PathBuf, PortError> {
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        let dir = self.base.join("scratch").join(number.to_string());
        fs::create_dir(&dir).map_err(|error| PortError::io("making a scratch directory", error))?;
        Ok(dir)
    }

    fn take(&self, scratch: &Path) -> Result<ContentRef, PortError> {
        let mut listing = Listing::new();
        list(scratch, "", &mut listing)
            .map_err(|error| PortError::io("reading a scratch directory", error))?;
        fs::remove_dir_all(scratch).map_err(|error| PortError::io("removing a scratch directory", error))?;
        let digest = Digest::of(format!("{listing:?}").as_bytes());
        self.taken.lock().unwrap().insert(digest, listing);
        Ok(ContentRef { digest, size: 0 })
    }

    fn discard(&self, scratch: &Path) {
        self.discarded.fetch_add(1, Ordering::SeqCst);
        fs::remove_dir_all(scratch).unwrap();
    }

    fn cache_dir(&self, id: &str) -> Result<PathBuf, PortError> {
        let dir = self.base.join("cache").join(id);
        fs::create_dir_all(&dir).map_err(|error| PortError::io("making a cache", error))?;
        Ok(dir)
    }
}

fn list(dir: &Path, above: &str, listing: &mut Listing) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        let found = fs::symlink_metadata(entry.path())?;
        if found.is_symlink() {
            listing.insert(name, format!("-> {}", fs::read_link(entry.path())?.display()));
        } else if found.is_dir() {
            list(&entry.path(), &format!("{name}/"), listing)?;
        } else {
            listing.insert(name, String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
        }
    }
    Ok(())
}

/// Every entry below a directory by path, with what a layer says about it: kind, mode, owner if not root, content,
/// and the extended attributes that are not the kernel's own notes. Hard links are shown as `= other path`.
pub fn entries(dir: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut links = BTreeMap::new();
    describe(dir, dir, &mut links, &mut listing);
    listing
}

fn describe(top: &Path, dir: &Path, links: &mut BTreeMap<u64, String>, listing: &mut Listing) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(top).unwrap().display().to_string();
        let found = fs::symlink_metadata(&path).unwrap();
        let kind = found.file_type();
        let mode = found.mode() & 0o7777;
        let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        let mut text = match () {
            () if kind.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
            () if kind.is_char_device() && (major, minor) == (0, 0) => "whiteout".to_owned(),
            () if kind.is_char_device() => format!("c {major}:{minor} {mode:o}"),
            () if kind.is_block_device() => format!("b {major}:{minor} {mode:o}"),
            () if kind.is_fifo() => format!("fifo {mode:o}"),
            () if kind.is_dir() => format!("dir {mode:o}"),
            () if found.nlink() > 1 && links.contains_key(&found.ino()) => {
                format!("= {}", links[&found.ino()])
            }
            () if found.len() > 1000 => {
                format!("{mode:o} {} bytes in {} blocks", found.len(), found.blocks())
            }
            () => format!("{mode:o} {:?}", String::from_utf8_lossy(&fs::read(&path).unwrap())),
        };
        if kind.is_file() {
            links.entry(found.ino()).or_insert(name.clone());
        }
        if (found.uid(), found.gid()) != (0, 0) && as_root() {
            text += &format!(" {}:{}", found.uid(), found.gid());
        }
        text += &attributes(&path);
        listing.insert(name, text);
        if kind.is_dir() {
            describe(top, &path, links, listing);
        }
    }
}

/// Extended attributes, without those by which the kernel remembers where a copy came from.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let own = |name: &&str| {
        !name.is_empty() && !name.ends_with("overlay.origin") && !name.ends_with("overlay.impure")
    };
    names.split('\0').filter(own).map(|name| format!(" {name}")).collect()
}

impl Images for Room {
    fn resolve(&self, name: &str, _: &Platform) -> Result<Image, PortError> {
        let id = Digest::of(name.as_bytes());
        Ok(Image { id, env: Vec::new(), workdir: "/".into(), user: None })
    }

    fn rootfs(&self, image: &Digest) -> Result<RootFs, PortError> {
        let lease: Box<dyn Any + Send + Sync> = Box::new(());
        if let Some(dirs) = self.snapshots.lock().unwrap().get(image) {
            return Ok(RootFs { layout: RootLayout::Layers(dirs.clone()), lease });
        }
        let layout = if *image == Digest::of(BUSYBOX.as_bytes()) {
            RootLayout::Layers(vec![self.image("busybox")])
        } else if *image == Digest::of(LAYERED.as_bytes()) {
            RootLayout::Layers(vec![self.image("busybox"), self.image("upper")])
        } else if *image == Digest::of(HOST.as_bytes()) {
            let there = |path: &&str| Path::new(path).exists();
            let places = ["/usr", "/bin", "/lib", "/lib64", "/sbin"].iter().filter(|p| there(p));
            RootLayout::Host { directories: places.map(PathBuf::from).collect(), etc: self.image("etc") }
        } else {
            return Err(PortError::Missing(*image));
        };
        Ok(RootFs { layout, lease })
    }
}

pub fn input(target: &str, tree: Digest) -> Input {
    Input { target: target.into(), tree }
}

/// The launcher of the tests; a copy of it where this process may not read the original.
pub fn launcher() -> PathBuf {
    std::env::var_os("QUERN_TEST_LAUNCHER")
        .map_or_else(|| env!("CARGO_BIN_EXE_quern-launcher").into(), PathBuf::from)
}

/// Whether sandboxes are made with the rights of root rather than in a user namespace.
pub fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}
