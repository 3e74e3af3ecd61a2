use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Barrier;

use quern_oci::document::{Defaults, Platform as MadeFor, media};
use quern_oci::{ImageConfig, LayoutWriter};
use tempfile::TempDir;

use super::*;

struct Space(TempDir);

impl Space {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As another process sees it.
    fn images(&self) -> LocalImages {
        LocalImages::new(self.path("images"))
    }

    fn resolve(&self, name: &str) -> Result<Image, PortError> {
        self.images().resolve(name, &Platform::current())
    }

    /// A layout with one image that holds one file, `word`.
    fn layout(&self, word: &str) -> String {
        let mut archive = header("word", word.len());
        archive.extend_from_slice(word.as_bytes());
        archive.resize(2048, 0);
        let config = ImageConfig {
            config: Defaults {
                env: vec!["PATH=/bin".into(), "A=b=c".into()],
                working_dir: "/app".into(),
                user: "1000".into(),
                ..Defaults::default()
            },
            rootfs: quern_oci::document::RootFs::new(vec![Digest::of(&archive)]),
            ..ImageConfig::new(MadeFor::of(&Platform::current()))
        };
        let mut writer = LayoutWriter::create(&self.path("layout")).unwrap();
        let layer = writer.blob(media::LAYER, &archive).unwrap();
        let manifest = writer.manifest(&config, vec![layer]).unwrap();
        writer.tag("v1", manifest).unwrap();
        format!("oci:{}:v1", self.path("layout").display())
    }
}

/// The header of a file in an archive.
fn header(name: &str, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[148..156].fill(b' ');
    block[156] = b'0';
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn word(root: &RootFs) -> String {
    let RootLayout::Layers(layers) = &root.layout else { panic!("{:?}", root.layout) };
    fs::read_to_string(layers[0].join("word")).unwrap()
}

#[test]
fn the_host_is_its_release_and_the_versions_of_its_programs() {
    let space = Space::new();
    let image = space.resolve("host").unwrap();
    assert_eq!((image.workdir.as_str(), image.user), ("/", None));
    assert_eq!(space.resolve("host").unwrap().id, image.id);

    // What is remembered is used ...
    let memory = space.path("images/programs.json");
    let text = fs::read_to_string(&memory).unwrap();
    assert!(text.contains("/sh\""), "{text}");
    fs::write(&memory, text.replace("\"version\": \"", "\"version\": \"another ")).unwrap();
    assert_ne!(space.resolve("host").unwrap().id, image.id);
    // ... until the file of the program is another one, or the memory is damaged.
    fs::write(&memory, text.replace("\"inode\": ", "\"inode\": 1")).unwrap();
    assert_eq!(space.resolve("host").unwrap().id, image.id);
    fs::write(&memory, "{").unwrap();
    assert_eq!(space.resolve("host").unwrap().id, image.id);
}

#[test]
fn the_root_of_the_host_has_programs_and_no_secrets() {
    let space = Space::new();
    let images = space.images();
    let id = images.resolve("host", &Platform::current()).unwrap().id;
    let root = images.rootfs(&id).unwrap();
    let RootLayout::Host { directories, etc } = &root.layout else { panic!("{:?}", root.layout) };
    assert!(directories.contains(&PathBuf::from("/usr")));
    assert!(etc.join("passwd").is_file());
    for secret in ["shadow", "gshadow", "ssh", "sudoers", "pip.conf", "ssl/private"] {
        assert!(etc.join(secret).symlink_metadata().is_err(), "{secret}");
    }
    let other = images.rootfs(&id).unwrap();
    assert_eq!(other.layout, root.layout);
    assert_eq!(fs::metadata(space.path("images")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_is_what_its_listing_tells() {
    let space = Space::new();
    let root = space.path("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/tool"), "1").unwrap();
    let name = format!("dir:{}", root.display());
    let mut seen = vec![space.resolve(&name).unwrap().id];
    assert_eq!(space.resolve(&name).unwrap().id, seen[0]);
    let changes: [&dyn Fn(); 5] = [
        &|| fs::write(root.join("bin/tool"), "22").unwrap(),
        &|| fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap(),
        &|| fs::rename(root.join("bin/tool"), root.join("bin/other")).unwrap(),
        &|| std::os::unix::fs::symlink("other", root.join("bin/link")).unwrap(),
        &|| fs::create_dir(root.join("empty")).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        let id = space.resolve(&name).unwrap().id;
        assert!(!seen.contains(&id), "change {number}");
        seen.push(id);
    }
    let found = space.images().rootfs(seen.last().unwrap()).unwrap();
    assert_eq!(found.layout, RootLayout::Layers(vec![root.clone()]));
    fs::remove_dir_all(&root).unwrap();
    for problem in [
        space.resolve(&name).unwrap_err().to_string(),
        space.images().rootfs(&seen[0]).err().unwrap().to_string(),
    ] {
        assert!(problem.contains("there is no such directory"), "{problem}");
    }
}

#[test]
fn a_layout_is_unpacked_once_for_all() {
    let space = Space::new();
    let image = space.resolve(&space.layout("stone")).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(image.env, [pair("PATH", "/bin"), pair("A", "b=c")]);
    assert_eq!((image.workdir.as_str(), image.user.as_deref()), ("/app", Some("1000")));
    assert!(!space.path("images/rootfs").exists(), "resolving unpacks nothing");

    // What a process that was killed while it unpacked has left.
    let leftover = space.path("images/rootfs").join(image.id.hex()).with_extension("partial");
    fs::create_dir_all(leftover.join("word")).unwrap();
    let start = Barrier::new(8);
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let work = || {
            start.wait();
            let root = space.images().rootfs(&image.id).unwrap();
            assert_eq!(word(&root), "stone");
            let RootLayout::Layers(layers) = root.layout else { panic!("a layout has layers") };
            fs::metadata(&layers[0]).unwrap().ino()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
    assert!(!leftover.exists());
}

#[test]
fn a_root_in_use_is_not_pruned() {
    let space = Space::new();
    let id = space.resolve(&space.layout("stone")).unwrap().id;
    let (one, other) = (space.images(), space.images());
    let root = one.rootfs(&id).unwrap();
    assert_eq!(other.prune(Duration::ZERO).unwrap(), Pruned::default());
    assert_eq!(word(&root), "stone");
    let again = one.rootfs(&id).unwrap();
    drop(root);
    assert_eq!(other.prune(Duration::ZERO).unwrap().count, 0);
    drop(again);
    assert_eq!(other.prune(Duration::from_secs(60)).unwrap().count, 0);
    let pruned = other.prune(Duration::ZERO).unwrap();
    assert!(pruned.count == 1 && pruned.bytes > 0, "{pruned:?}");
    assert_eq!(word(&one.rootfs(&id).unwrap()), "stone");
}

#[test]
fn what_an_identity_stood_for_may_be_gone() {
    let space = Space::new();
    let old = space.resolve(&space.layout("stone")).unwrap().id;
    let new = space.resolve(&space.layout("grain")).unwrap().id;
    assert_ne!(old, new);
    let error = space.images().rootfs(&old).err().unwrap().to_string();
    assert!(error.contains("no longer holds image"), "{error}");
    assert!(!space.path("images/rootfs").join(old.hex()).exists());
    assert_eq!(word(&space.images().rootfs(&new).unwrap()), "grain");
    let error = space.images().rootfs(&Digest::of(b"x")).err().unwrap().to_string();
    assert!(error.contains("is not known on this machine"), "{error}");
}

#[test]
fn names_and_platforms_that_cannot_be() {
    let space = Space::new();
    let other = Platform { os: "linux".into(), arch: "s390x".into(), variant: String::new() };
    let check = |name: &str, platform: &Platform, expected: &str| {
        let error = space.images().resolve(name, platform).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let own = Platform::current();
    check("debian:12", &own, "or the name of an image");
    check("host", &other, "only on this machine's own platform");
    check("oci:/nowhere/at/all", &own, "cannot read `/nowhere/at/all`");
    check(&space.layout("stone"), &other, "is not made for linux/s390x");
    check(&space.layout("stone").replace(":v1", ":v2"), &own, "it has v1");
    check("dir:/etc/passwd", &own, "is not a directory");
    assert!(!space.path("images").exists(), "nothing is stored for a name that does not resolve");
}
