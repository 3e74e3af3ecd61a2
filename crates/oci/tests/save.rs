//! Archives of images: made here and read by skopeo, made by skopeo and read here.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use quern_core::Digest;
use quern_core::step::Platform;
use quern_oci::document::{Format, Platform as MadeFor, assemble, assemble_index, media};
use quern_oci::image::contents;
use quern_oci::layer::{Codec, Compression, Compressor};
use quern_oci::save::{Archived, Entry, save};
use quern_oci::{Descriptor, ImageConfig, Layout, LayoutError, LayoutWriter, Limits};

fn amd64() -> Platform {
    Platform { os: "linux".into(), arch: "amd64".into(), variant: String::new() }
}

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

/// An image whose layers are all the same, so that they are shared.
fn image(writer: &LayoutWriter, text: &str, platform: &Platform) -> Descriptor {
    let plain = tar(&[("a", text)]);
    let compression = Compression::new(Codec::Gzip, None, std::num::NonZero::<usize>::MIN).unwrap();
    let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
    compressor.write_all(&plain).unwrap();
    let (layer, blob) = compressor.finish().unwrap();
    writer.blob(media::LAYER_GZIP, &blob).unwrap();
    let config = ImageConfig::new(MadeFor::of(platform));
    let made = assemble(&config, &[layer.clone(), layer], Format::Oci, BTreeMap::new());
    writer.blob(media::CONFIG, &made.config.bytes).unwrap();
    writer.blob(media::MANIFEST, &made.manifest.bytes).unwrap();
    made.manifest.descriptor
}

fn skopeo(arguments: &[&str]) -> String {
    let run = Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output().unwrap();
    assert!(run.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

fn open(path: &Path) -> Layout {
    Layout::open(path, &Limits::default()).unwrap()
}

#[test]
fn archives_made_here_are_read_by_skopeo_and_by_us() {
    let space = tempfile::tempdir().unwrap();
    let mut writer = LayoutWriter::create(&space.path().join("layout")).unwrap();
    let arm = Platform { os: "linux".into(), arch: "arm64".into(), variant: String::new() };
    let manifests = vec![image(&writer, "amd", &amd64()), image(&writer, "arm", &arm)];
    let index = assemble_index(manifests, Format::Oci, BTreeMap::new());
    writer.blob(media::INDEX, &index.bytes).unwrap();
    writer.tag("v1", index.descriptor.clone()).unwrap();
    let layout = open(&space.path().join("layout"));
    let names = vec!["example.org/app:v1".parse().unwrap(), "app:v2".parse().unwrap()];
    let entries = [Entry { names, root: index.descriptor.clone() }];

    let expected = contents(&layout, &index.descriptor, &Limits::default()).unwrap();
    assert_eq!((expected.blobs.len(), expected.documents.len()), (4, 3));
    for kind in [Archived::Oci, Archived::Docker(amd64())] {
        let bytes = save(&layout, &entries, &kind, Vec::new(), &Limits::default()).unwrap();
        assert_eq!(bytes, save(&layout, &entries, &kind, Vec::new(), &Limits::default()).unwrap());
        let file = space.path().join("image.tar");
        fs::write(&file, &bytes).unwrap();
        let saved = open(&file);
        let found: Vec<_> =
            saved.entries().map(|(name, root)| (name.unwrap().to_owned(), root.digest)).collect();
        let root = index.descriptor.digest;
        assert_eq!(found, [("example.org/app:v1".into(), root), ("docker.io/library/app:v2".into(), root)]);
        assert_eq!(contents(&saved, &index.descriptor, &Limits::default()).unwrap(), expected);
        for blob in &expected.blobs {
            saved.blob(blob).unwrap().finish().unwrap();
        }

        let inspected = skopeo(&["inspect", "--raw", &format!("oci-archive:{}:v1", file.display())]);
        assert_eq!(inspected.as_bytes(), index.bytes);
        if kind != Archived::Oci {
            let source = format!("docker-archive:{}:app:v2", file.display());
            let target = format!("dir:{}", space.path().join("dir").display());
            skopeo(&["copy", "--quiet", &source, &target]);
            let copied: serde_json::Value =
                serde_json::from_slice(&fs::read(space.path().join("dir/manifest.json")).unwrap()).unwrap();
            let id = saved.resolve(Some("v2"), &amd64()).unwrap().id();
            assert_eq!(copied["config"]["digest"], id.to_string());
            assert_eq!(copied["layers"].as_array().unwrap().len(), 2);
        }
    }
}

/// The old form, with links for what is there twice.
#[test]
fn archives_of_docker_save_are_read() {
    let space = tempfile::tempdir().unwrap();
    let mut writer = LayoutWriter::create(&space.path().join("layout")).unwrap();
    let manifest = image(&writer, "word", &amd64());
    writer.tag("v1", manifest).unwrap();
    let layout = open(&space.path().join("layout"));
    let expected = layout.resolve(None, &amd64()).unwrap();
    let file = space.path().join("old.tar");
    let (source, target) = (
        format!("oci:{}:v1", space.path().join("layout").display()),
        format!("docker-archive:{}:example.org/app:v7", file.display()),
    );
    skopeo(&["copy", "--quiet", &source, &target]);

    let saved = open(&file);
    assert_eq!(saved.tags(), ["example.org/app:v7"]);
    let found = saved.resolve(Some("v7"), &amd64()).unwrap();
    assert_eq!(found.chain_id(), expected.chain_id());
    assert_eq!(found.id(), expected.id());
    for layer in &found.layers {
        saved.blob(&layer.descriptor).unwrap().finish().unwrap();
    }
}

/// What `docker save` wrote with links, compressed layers, and mistakes in it.
#[test]
fn lists_that_lie_are_refused() {
    let space = tempfile::tempdir().unwrap();
    let layer = tar(&[("a", "1")]);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&layer).unwrap();
        encoder.finish().unwrap()
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{0}","{0}"]}}}}"#,
        Digest::of(&layer)
    );
    let archive = |list: &str, layer: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("manifest.json", list.as_bytes());
        add("c.json", config.as_bytes());
        add("one/layer.tar", layer);
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "two/layer.tar", "../one/layer.tar").unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "out", "../../../etc/passwd").unwrap();
        let file = space.path().join("old.tar");
        fs::write(&file, builder.into_inner().unwrap()).unwrap();
        Layout::open(&file, &Limits::default())
    };
    let good = r#"[{"Config":"c.json","RepoTags":null,"Layers":["one/layer.tar","two/layer.tar"]}]"#;
    for bytes in [&layer, &gzip] {
        let layout = archive(good, bytes).unwrap();
        let image = layout.resolve(None, &amd64()).unwrap();
        for layer in &image.layers {
            assert_eq!(layer.descriptor.digest, Digest::of(bytes));
            layout.blob(&layer.descriptor).unwrap().finish().unwrap();
        }
    }
    let layout = archive(good, &tar(&[("a", "changed")])).unwrap();
    let image = layout.resolve(None, &amd64()).unwrap();
    assert!(layout.blob(&image.layers[0].descriptor).unwrap().finish().is_err());

    let refused = |list: &str, reason: &str| {
        let error = archive(list, &layer).err().expect(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused("{", "not valid");
    refused(r#"[{"Config":"none","Layers":[]}]"#, "has no `none`");
    refused(r#"[{"Config":"c.json","Layers":["one/layer.tar"]}]"#, "has 1 layers, its config 2");
    refused(r#"[{"Config":"c.json","Layers":["one/layer.tar","../../etc/passwd"]}]"#, "has no `../../etc");
    refused(r#"[{"Config":"c.json","Layers":["one/layer.tar","out"]}]"#, "has no `out`");
    assert!(matches!(archive("[]", &layer).unwrap().resolve(None, &amd64()), Err(LayoutError::Image(_))));
}
