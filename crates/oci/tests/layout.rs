//! Layouts made here, and what becomes of them when somebody changes them.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use quern_core::Digest;
use quern_core::step::Platform;
use quern_oci::document::{self, Defaults, Platform as MadeFor, REFERENCE_TYPE, RootFs, media};
use quern_oci::{
    Descriptor, ImageConfig, ImageProblem, Layout, LayoutError, LayoutWriter, Limits, UnpackError,
    UnpackOptions, unpack_image,
};
use tempfile::TempDir;

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(arch: &str, diff_ids: Vec<Digest>) -> ImageConfig {
    let platform =
        MadeFor { architecture: arch.to_owned(), os: "linux".to_owned(), os_version: None, variant: None };
    let defaults =
        Defaults { env: vec!["A=1".to_owned()], working_dir: "/w".to_owned(), ..Defaults::default() };
    ImageConfig { config: defaults, rootfs: RootFs::new(diff_ids), ..ImageConfig::new(platform) }
}

fn platform(arch: &str) -> Platform {
    Platform { os: "linux".into(), arch: arch.into(), variant: String::new() }
}

struct Made {
    folder: TempDir,
    writer: LayoutWriter,
}

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let writer = LayoutWriter::create(&folder.path().join("layout")).unwrap();
        Self { folder, writer }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// An image of two layers, the second compressed in another way.
    fn image(&self, arch: &str, text: &str) -> Descriptor {
        let (one, two) = (tar(&[("a", "1"), ("b", "1")]), tar(&[("a", text), (".wh.b", "")]));
        let layers = vec![
            self.writer.blob(media::LAYER_GZIP, &gzip(&one)).unwrap(),
            self.writer.blob(media::LAYER_ZSTD, &zstd::encode_all(two.as_slice(), 1).unwrap()).unwrap(),
        ];
        let config = config(arch, vec![Digest::of(&one), Digest::of(&two)]);
        self.writer.manifest(&config, layers).unwrap()
    }

    fn open(&self) -> Layout {
        Layout::open(&self.path(), &Limits::default()).unwrap()
    }

    fn unpack(&self, tag: &str) -> Result<BTreeMap<String, String>, UnpackError> {
        unpack(&self.path(), tag)
    }
}

fn unpack(path: &Path, tag: &str) -> Result<BTreeMap<String, String>, UnpackError> {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::open(path, &Limits::default())?;
    let image = layout.resolve(Some(tag), &platform("amd64"))?;
    unpack_image(&layout, &image, root.path(), &UnpackOptions::for_current_user())?;
    let files = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap());
    Ok(files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap()))
        .collect())
}

#[test]
fn an_image_is_found_by_tag_and_platform_and_unpacked() {
    let mut made = Made::new();
    let both = made.writer.index(vec![made.image("arm64", "arm"), made.image("amd64", "amd")]).unwrap();
    let nested = made.writer.index(vec![both]).unwrap();
    made.writer.tag("v1", nested).unwrap();
    let other = made.image("amd64", "other");
    made.writer.tag("example.org/app:v2", other).unwrap();

    assert_eq!(made.unpack("v1").unwrap(), BTreeMap::from([("a".into(), "amd".into())]));
    assert_eq!(made.unpack("v2").unwrap()["a"], "other");
    let layout = made.open();
    let arm = layout.resolve(Some("v1"), &platform("arm64")).unwrap();
    assert_eq!((arm.config.platform.architecture.as_str(), arm.layers.len()), ("arm64", 2));
    assert_eq!(arm.config.config.working_dir, "/w");

    let tags = ["example.org/app:v2", "v1"].map(str::to_owned);
    assert!(
        matches!(layout.resolve(None, &platform("amd64")), Err(LayoutError::Ambiguous { known, .. }) if known == tags)
    );
    assert!(
        matches!(layout.resolve(Some("v3"), &platform("amd64")), Err(LayoutError::NoSuchTag { known, .. }) if known == tags)
    );
    let error = layout.resolve(Some("v1"), &platform("riscv64")).unwrap_err();
    assert!(
        matches!(&error, LayoutError::Image(ImageProblem::NoSuchPlatform { known, .. }) if known.len() == 2),
        "{error}"
    );
}

#[test]
fn statements_about_images_are_not_images() {
    let mut made = Made::new();
    let mut statement = made.image("amd64", "statement");
    statement.annotations.insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
    let index = made.writer.index(vec![statement, made.image("amd64", "image")]).unwrap();
    made.writer.tag("v1", index).unwrap();
    assert_eq!(made.unpack("v1").unwrap()["a"], "image");
    assert!(made.open().resolve(None, &platform("amd64")).is_ok());
}

#[test]
fn the_identity_does_not_depend_on_compression() {
    let made = Made::new();
    let layer = tar(&[("a", "1")]);
    let identity = |media_type: &str, bytes: &[u8]| {
        let mut writer = LayoutWriter::create(&made.path()).unwrap();
        let blob = writer.blob(media_type, bytes).unwrap();
        let manifest = writer.manifest(&config("amd64", vec![Digest::of(&layer)]), vec![blob]).unwrap();
        writer.tag("v", manifest).unwrap();
        made.open().resolve(None, &platform("amd64")).unwrap().chain_id()
    };
    assert_eq!(identity(media::LAYER, &layer), identity(media::LAYER_GZIP, &gzip(&layer)));
}

/// A change of a layout whose image `v1` is fine, and the words that the error must have.
fn refused(change: impl Fn(&Made, &Descriptor), expected: &str) {
    let mut made = Made::new();
    let image = made.image("amd64", "text");
    made.writer.tag("v1", image.clone()).unwrap();
    change(&made, &image);
    let error = made.unpack("v1").expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}\nexpected: {expected}");
}

#[test]
fn changed_entry_documents_are_refused() {
    let rewrite = |file: &'static str, old: &'static str, new: &'static str| {
        move |made: &Made, _: &Descriptor| {
            let path = made.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(old), "{text}");
            fs::write(path, text.replace(old, new)).unwrap();
        }
    };
    refused(|made, _| fs::remove_file(made.path().join("oci-layout")).unwrap(), "it has no `oci-layout`");
    refused(rewrite("oci-layout", "1.0.0", "2.0.0"), "version 2.0.0 is not known");
    refused(rewrite("index.json", "\"schemaVersion\":2", "\"schemaVersion\":3"), "schemaVersion is 3");
    refused(
        rewrite("index.json", "\"manifests\"", "\"layers\":[],\"manifests\""),
        "both `manifests` and `layers`",
    );
}

#[test]
fn changed_blobs_are_refused() {
    let blob = |made: &Made, digest: &Digest| made.path().join("blobs/sha256").join(digest.hex());
    let first_layer = |made: &Made, image: &Descriptor| {
        let bytes = fs::read(blob(made, &image.digest)).unwrap();
        blob(made, &document::manifest(&bytes, media::MANIFEST).unwrap().layers[0].digest)
    };
    let edit = |path: PathBuf, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    refused(|made, image| fs::remove_file(blob(made, &image.digest)).unwrap(), "is missing");
    refused(|made, image| fs::write(blob(made, &image.digest), "{}").unwrap(), "but has fewer");
    refused(|made, image| edit(blob(made, &image.digest), &|bytes| bytes.push(b' ')), "but has more");
    // Damaged data, and a damaged time in the header of gzip, which no decompressor looks at.
    refused(
        |made, image| edit(first_layer(made, image), &|bytes| *bytes.iter_mut().nth_back(4).unwrap() ^= 1),
        "cannot be read",
    );
    refused(|made, image| edit(first_layer(made, image), &|bytes| bytes[4] ^= 1), "should have digest");
    refused(
        |made, image| {
            fs::remove_file(first_layer(made, image)).unwrap();
            fs::create_dir(first_layer(made, image)).unwrap();
        },
        "it is not a file",
    );
    refused(
        |made, image| {
            let outside = made.folder.path().join("outside");
            fs::rename(blob(made, &image.digest), &outside).unwrap();
            std::os::unix::fs::symlink(&outside, blob(made, &image.digest)).unwrap();
        },
        "cannot read",
    );
}

#[test]
fn documents_that_do_not_fit_together_are_refused() {
    let refused = |build: &dyn Fn(&LayoutWriter) -> Descriptor, expected: &str| {
        let mut made = Made::new();
        let image = build(&made.writer);
        made.writer.tag("v1", image).unwrap();
        let error = made.unpack("v1").expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    };
    let plain = tar(&[("a", "1")]);
    let id = Digest::of(&plain);
    let blob = |writer: &LayoutWriter| writer.blob(media::LAYER, &plain).unwrap();
    refused(
        &|w| w.manifest(&config("amd64", vec![id, id]), vec![blob(w)]).unwrap(),
        "has 1 layers but the config describes 2",
    );
    refused(
        &|w| w.manifest(&config("amd64", vec![Digest::of(b"x")]), vec![blob(w)]).unwrap(),
        "layer 1: the unpacked layer should have digest",
    );
    refused(
        &|w| Descriptor { size: 5 << 20, ..w.manifest(&config("amd64", vec![id]), vec![blob(w)]).unwrap() },
        "larger than the limit",
    );
    refused(
        &|w| {
            let encrypted = w.blob("application/vnd.oci.image.layer.v1.tar+encrypted", &plain).unwrap();
            w.manifest(&config("amd64", vec![id]), vec![encrypted]).unwrap()
        },
        "cannot be unpacked",
    );
    refused(
        &|w| w.manifest(&config("amd64", vec![id; 501]), vec![blob(w); 501]).unwrap(),
        "more than 500 layers",
    );
    refused(
        &|w| {
            let image = w.manifest(&config("amd64", vec![id]), vec![blob(w)]).unwrap();
            (0..9).fold(image, |inner, _| w.index(vec![inner]).unwrap())
        },
        "nested too deeply",
    );
    refused(&|w| w.blob(media::MANIFEST, b"{\"schemaVersion\":2}").unwrap(), "manifest sha256:");
    refused(&|w| w.blob("application/x-other", b"{}").unwrap(), "not made for linux/amd64, only for none");
}

/// Two to the power of a hundred paths through the same few indexes.
#[test]
fn an_index_met_again_is_not_read_again() {
    let mut made = Made::new();
    let image = made.image("amd64", "text");
    let mut index = image;
    for _ in 0..7 {
        let copy = Descriptor { platform: None, ..index.clone() };
        index = made.writer.index(vec![copy; 1000]).unwrap();
    }
    made.writer.tag("v1", index).unwrap();
    assert_eq!(made.unpack("v1").unwrap()["a"], "text");
}

#[test]
fn an_archive_of_a_layout_is_a_layout() {
    let mut made = Made::new();
    let image = made.image("amd64", "text");
    made.writer.tag("v1", image).unwrap();
    let archive = made.folder.path().join("image.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", made.path()).unwrap();
    builder.finish().unwrap();
    assert_eq!(unpack(&archive, "v1").unwrap(), made.unpack("v1").unwrap());

    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    assert!(unpack(&archive, "v1").is_err());
    fs::write(&archive, b"not a tar archive").unwrap();
    assert!(matches!(Layout::open(&archive, &Limits::default()), Err(LayoutError::Archive(_))));
}

/// A bomb inside an image: 2 GB of zeros in a few kilobytes.
#[test]
fn a_bomb_writes_no_more_than_the_limit() {
    let mut made = Made::new();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(2 << 30);
    header.set_mode(0o644);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    let block = vec![0; 1 << 20];
    for _ in 0..2 << 10 {
        encoder.write_all(&block).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let blob = made.writer.blob(media::LAYER_ZSTD, &bomb).unwrap();
    let image =
        made.writer.manifest(&config("amd64", vec![Digest::of(b"never reached")]), vec![blob]).unwrap();
    made.writer.tag("v1", image).unwrap();
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { ratio_from: 8 << 20, ..Limits::default() };
    let layout = Layout::open(&made.path(), &limits).unwrap();
    let image = layout.resolve(None, &platform("amd64")).unwrap();
    let options = UnpackOptions { limits, ..UnpackOptions::for_current_user() };
    let error = unpack_image(&layout, &image, root.path(), &options).unwrap_err();
    assert!(error.to_string().contains("decompression bomb"), "{error}");
    assert!(fs::metadata(root.path().join("zeros")).unwrap().len() < 64 << 20);
}

/// What other tools make of the same directory, as far as they are installed.
fn tool(name: &str, arguments: &[&str]) -> bool {
    let run = Command::new(name).args(arguments).output();
    match run {
        Ok(output) => {
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => false,
    }
}

#[test]
fn skopeo_and_umoci_agree_with_what_is_written_here() {
    let mut made = Made::new();
    let image = made.image("amd64", "text");
    made.writer.tag("v1", image).unwrap();
    let (source, archive) = (made.path(), made.folder.path().join("copy.tar"));
    let from = format!("oci:{}:v1", source.display());
    if tool(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", &from, &format!("oci-archive:{}:v9", archive.display())],
    ) {
        assert_eq!(unpack(&archive, "v9").unwrap(), made.unpack("v1").unwrap());
    }
    // umoci knows no zstd, so it gets an image of one layer.
    let plain = tar(&[("a", "1"), ("b", "2")]);
    let blob = made.writer.blob(media::LAYER_GZIP, &gzip(&plain)).unwrap();
    let image = made.writer.manifest(&config("amd64", vec![Digest::of(&plain)]), vec![blob]).unwrap();
    made.writer.tag("v2", image).unwrap();
    let bundle = made.folder.path().join("bundle");
    let image = format!("{}:v2", source.display());
    // As an ordinary user umoci wants other arguments.
    let is_root =
        fs::metadata(made.folder.path()).is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if is_root && tool("umoci", &["unpack", "--image", &image, &bundle.display().to_string()]) {
        let theirs = |name: &str| fs::read_to_string(bundle.join("rootfs").join(name)).unwrap();
        assert_eq!(
            made.unpack("v2").unwrap(),
            BTreeMap::from([("a".into(), theirs("a")), ("b".into(), theirs("b"))])
        );
    }
}
