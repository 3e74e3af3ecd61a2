//! One build for several platforms: what runs, what comes out, what is refused.

use std::fs;

use serde_json::{Value, json};

use crate::image_space::{Registry, build, dockerfile, space_with_pushed_base, tool};
use crate::space::{Space, text};

const BOTH: &str = "--platform linux/amd64,linux/arm64";
const RUNS: &str = "RUN --mount=type=cache,target=/c,id=runs echo x >> /c/runs; wc -l < /c/runs > /runs";

/// An ELF file for linux/386 that calls `exit(0)`.
const PROGRAM_386: [u8; 96] = {
    let mut file = [0; 96];
    let parts: [(usize, &[u8]); 12] = [
        (0, b"\x7fELF\x01\x01\x01"), // 32 bits, little-endian
        (16, &[2, 0, 3, 0, 1]),      // a program of i386
        (24, &[84, 0x80, 4, 8, 52]), // where it begins: 0x08048054; where the table of segments is
        (40, &[52, 0, 32, 0, 1]),    // sizes of headers, and one segment
        (52, &[1]),                  // loaded
        (60, &[0, 0x80, 4, 8]),      // to 0x08048000
        (64, &[0, 0x80, 4, 8]),
        (68, &[96]), // all of this file
        (72, &[96]),
        (76, &[5, 0, 0, 0, 0, 0x10]), // may be read and executed, on a page
        (84, &[0xb8, 1, 0, 0, 0, 0x31, 0xdb]), // mov eax, 1; xor ebx, ebx
        (91, &[0xcd, 0x80]),          // int 0x80
    ];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut byte = 0;
        while byte < bytes.len() {
            file[at + byte] = bytes[byte];
            byte += 1;
        }
        part += 1;
    }
    file
};

/// A cross build: one stage on the machine's own platform, one image for each platform.
fn with_cross_build() -> (Space, Registry) {
    let (space, registry, base) = space_with_pushed_base();
    dockerfile(
        &space,
        &format!(
            "FROM --platform=$BUILDPLATFORM {base} AS tools
{RUNS}
FROM tools AS made
ARG TARGETARCH
RUN echo for $TARGETARCH > /made
FROM scratch
ARG TARGETARCH
COPY --from=tools /runs /runs
COPY --from=made /made /made
COPY $TARGETARCH /arch
"
        ),
    );
    for arch in ["amd64", "arm64"] {
        space.write(&format!("app/{arch}"), format!("{arch}\n"));
    }
    (space, registry)
}

/// A document or blob of a registry.
fn fetch(space: &Space, registry: &Registry, path: &str) -> Value {
    let accept =
        "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let got = tool(space, "curl", &["-sSf", "-H", accept, &format!("http://{}/v2/{path}", registry.host)]);
    serde_json::from_str(&got).unwrap_or_else(|error| panic!("{error}: {got}"))
}

fn json_of(space: &Space, file: &str) -> Value {
    serde_json::from_str(&space.read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn platforms_share_what_is_the_same_and_are_pushed_as_one_index() {
    let (space, registry) = with_cross_build();
    let name = format!("{}/team/app:1", registry.host);
    let first = build(&space, &format!("{BOTH} --no-cache -t {name} --push --metadata-file meta.json"));
    let ran = first.ran();
    assert_eq!(ran.iter().filter(|step| *step == RUNS).count(), 1, "{ran:?}");
    assert_eq!(ran.iter().filter(|step| step.starts_with("RUN echo for")).count(), 2, "{ran:?}");
    for shown in [
        format!("[linux/amd64 tools 2/2] {RUNS}"),
        "[linux/amd64 made 2/2] RUN echo for $TARGETARCH > /made".to_owned(),
        "[linux/amd64->arm64 made 2/2] RUN echo for $TARGETARCH > /made".to_owned(),
        "[linux/amd64 stage-2 4/4] COPY $TARGETARCH /arch".to_owned(),
        "[linux/arm64 stage-2 4/4] COPY $TARGETARCH /arch".to_owned(),
    ] {
        let said = first.run.stderr();
        assert!(said.contains(&shown), "`{shown}` is not in:\n{said}");
    }

    let index = fetch(&space, &registry, "team/app/manifests/1");
    let entries = index["manifests"].as_array().expect("an index");
    let platforms: Vec<_> = entries.iter().map(|entry| text(&entry["platform"]["architecture"])).collect();
    assert_eq!(platforms, ["amd64", "arm64", "unknown", "unknown"]);
    for (image, beside) in entries.iter().zip(&entries[2..]) {
        let arch = text(&image["platform"]["architecture"]);
        assert_eq!(beside["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(beside["annotations"]["vnd.docker.reference.digest"], image["digest"]);
        let said = fetch(&space, &registry, &format!("team/app/manifests/{}", text(&beside["digest"])));
        let said =
            fetch(&space, &registry, &format!("team/app/blobs/{}", text(&said["layers"][0]["digest"])));
        let digest = format!("sha256:{}", text(&said["subject"][0]["digest"]["sha256"]));
        assert_eq!(Value::from(digest), image["digest"]);
        assert!(text(&said["subject"][0]["name"]).ends_with(&format!("platform=linux%2F{arch}")), "{said}");
        // Others see the image of each platform.
        let seen = tool(
            &space,
            "skopeo",
            &["inspect", "--tls-verify=false", "--override-arch", &arch, &format!("docker://{name}")],
        );
        assert_eq!(serde_json::from_str::<Value>(&seen).unwrap()["Architecture"], Value::from(arch));
    }
    let metadata = json_of(&space, "meta.json");
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], index["mediaType"]);
    assert_eq!(metadata["containerimage.digest"], metadata["containerimage.descriptor"]["digest"]);
    fetch(&space, &registry, &format!("team/app/manifests/{}", text(&metadata["containerimage.digest"])));
    assert!(metadata.get("containerimage.config.digest").is_none(), "{metadata}");
    for arch in ["amd64", "arm64"] {
        assert!(metadata[format!("buildx.build.provenance/linux/{arch}")]["buildDefinition"].is_object());
    }

    // Again nothing runs; each platform alone is what it was among others.
    assert_eq!(build(&space, BOTH).ran(), Vec::<String>::new());
    assert_eq!(build(&space, "--platform linux/arm64").ran(), Vec::<String>::new());
    // The name stands for this machine's image here.
    assert_eq!(space.json(&format!("image inspect {name}"))[0]["Architecture"], "amd64");
}

#[test]
fn files_of_platforms_lie_in_folders_of_their_own() {
    let (space, _registry) = with_cross_build();
    build(&space, "--platform linux/amd64 --platform linux/arm64 -o out -o type=tar,dest=all.tar").run.ok();
    fs::create_dir(space.path("unpacked")).unwrap();
    tool(&space, "tar", &["-xf", "all.tar", "-C", "unpacked"]);
    for place in ["out", "unpacked"] {
        for arch in ["amd64", "arm64"] {
            assert_eq!(space.read(&format!("{place}/linux_{arch}/arch")).trim(), arch);
            assert_eq!(space.read(&format!("{place}/linux_{arch}/made")).trim(), format!("for {arch}"));
            assert_eq!(space.read(&format!("{place}/linux_{arch}/runs")).trim(), "1");
        }
    }
    // One platform has a folder if that is asked for.
    build(&space, "--platform linux/arm64 -o type=local,dest=one,platform-split=true").run.ok();
    assert_eq!(space.read("one/linux_arm64/arch").trim(), "arm64");
}

#[test]
fn what_takes_one_image_refuses_several() {
    let (space, _registry) = with_cross_build();
    for output in ["--load", "-o type=docker", "-o type=docker,dest=app.tar"] {
        build(&space, &format!("{BOTH} {output}")).run.says(2, &["one platform", "--platform", "type=oci"]);
    }
    build(&space, &format!("{BOTH} -o type=local,dest=out,platform-split=false"))
        .run
        .says(2, &["platform-split"]);
    build(&space, "--platform linux/amd64,what/ever/is/this").run.says(2, &["--platform"]);
    assert!(!space.path("app.tar").exists() && !space.path("out").exists());
    // The same twice is one.
    build(&space, "--platform linux/amd64,linux/amd64 -o type=docker,dest=app.tar").run.ok();
}

#[test]
fn a_base_is_found_for_each_platform() {
    let (space, registry) = with_cross_build();
    let base = format!("{}/base:both", registry.host);
    build(&space, &format!("{BOTH} -t {base} --push")).run.ok();
    space.quern(&format!("image rm {base}")).ok();
    dockerfile(&space, &format!("FROM {base}\nCOPY own /own\n"));
    space.write("app/own", "own");
    build(&space, &format!("{BOTH} -o first")).run.ok();
    // Known now, for both; nobody has to be asked again.
    drop(registry);
    space.write("app/own", "changed");
    build(&space, &format!("{BOTH} -o second")).run.ok();
    build(&space, "-o own-platform").run.ok();
    for arch in ["amd64", "arm64"] {
        assert_eq!(space.read(&format!("first/linux_{arch}/arch")).trim(), arch);
        assert_eq!(space.read(&format!("second/linux_{arch}/arch")).trim(), arch);
        assert_eq!(space.read(&format!("second/linux_{arch}/own")), "changed");
    }
    assert_eq!(space.read("own-platform/arch").trim(), "amd64");

    // What was built here for both serves both, until its name stands for something else.
    dockerfile(&space, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    build(&space, &format!("{BOTH} -t made-here")).run.ok();
    space.quern("image tag made-here renamed").ok();
    dockerfile(&space, "FROM renamed\nCOPY own /own\n");
    build(&space, &format!("{BOTH} -o fourth")).run.ok();
    for arch in ["amd64", "arm64"] {
        assert_eq!(space.read(&format!("fourth/linux_{arch}/arch")).trim(), arch);
    }
    dockerfile(&space, "FROM scratch\nCOPY own /own\n");
    build(&space, "-t renamed").run.ok();
    dockerfile(&space, "FROM renamed\n");
    build(&space, BOTH).run.says(3, &["is an image for linux/amd64, not for linux/arm64"]);

    // The same from a layout.
    dockerfile(&space, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    build(&space, &format!("{BOTH} --provenance=false -o type=oci,dest=base.tar")).run.ok();
    fs::create_dir(space.path("layout")).unwrap();
    tool(&space, "tar", &["-xf", "base.tar", "-C", "layout"]);
    let index = json_of(&space, "layout/index.json");
    let inner = text(&index["manifests"][0]["digest"]).replace("sha256:", "layout/blobs/sha256/");
    assert_eq!(json_of(&space, &inner)["manifests"].as_array().map(Vec::len), Some(2));
    dockerfile(&space, "FROM there\nCOPY own /own\n");
    let layout = space.path("layout");
    build(&space, &format!("{BOTH} -o third --build-context there=oci-layout://{}", layout.display()))
        .run
        .ok();
    for arch in ["amd64", "arm64"] {
        assert_eq!(space.read(&format!("third/linux_{arch}/arch")).trim(), arch);
    }
}

#[test]
fn a_base_fits_the_variant() {
    let (space, registry) = (Space::new(), Registry::open());
    dockerfile(&space, "FROM scratch\nARG TARGETVARIANT\nCOPY $TARGETVARIANT /variant\n");
    for variant in ["v5", "v6", "v7"] {
        space.write(&format!("app/{variant}"), variant);
    }
    let base = format!("{}/base", registry.host);
    build(&space, &format!("--platform linux/arm/v5,linux/arm/v6 -t {base} --push")).run.ok();
    space.quern(&format!("image rm {base}")).ok();
    dockerfile(&space, &format!("FROM {base}\nCOPY v7 /own\n"));
    build(&space, "--platform linux/arm/v5,linux/arm/v6,linux/arm/v7 -o out").run.ok();
    // The best that runs there.
    for (variant, base) in [("v5", "v5"), ("v6", "v6"), ("v7", "v6")] {
        assert_eq!(space.read(&format!("out/linux_arm_{variant}/variant")), base);
    }
}

#[test]
fn one_cache_serves_all_platforms() {
    let (space, registry) = with_cross_build();
    let name = format!("{}/app:1", registry.host);
    let place = format!("type=registry,ref={}/cache:1", registry.host);
    let to = format!(
        "--cache-to type=local,dest=cache,mode=max --cache-to {place},mode=max --cache-to type=inline"
    );
    build(&space, &format!("{BOTH} {to} -t {name} --push")).run.ok();
    for (number, from) in
        ["type=local,src=cache", &place, &format!("type=registry,ref={name}")].iter().enumerate()
    {
        let options = format!(
            "--state other-{number} build --progress plain {BOTH} --cache-from {from} -o out-{number} app"
        );
        let log = crate::image_space::BuildLog::of(space.quern(&options));
        let ran: Vec<_> = log.ran().into_iter().filter(|step| !step.starts_with("FROM ")).collect();
        assert_eq!(ran, Vec::<String>::new(), "{from}");
        for arch in ["amd64", "arm64"] {
            assert_eq!(space.read(&format!("out-{number}/linux_{arch}/made")).trim(), format!("for {arch}"));
        }
    }
}

#[test]
fn a_foreign_program_is_named_with_what_is_missing() {
    let space = Space::new();
    // The machine's own program, said to be for another processor.
    let mut program = fs::read("/bin/busybox").expect("busybox-static is installed");
    program[18..20].copy_from_slice(&183_u16.to_le_bytes());
    space.write("app/sh", program);
    dockerfile(&space, "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN echo never\n");
    let failed = build(&space, "--platform linux/arm64");
    failed.run.says(1, &["/bin/sh", "linux/arm64", "qemu-user-static", "--platform=$BUILDPLATFORM"]);
    // So is one that this processor may execute: a program of 32 bits that ends at once.
    space.write("app/sh", PROGRAM_386);
    let failed = build(&space, "--platform linux/386");
    failed.run.says(1, &["/bin/sh", "linux/386", "--platform=$BUILDPLATFORM"]);
    // One platform that fails ends the build.
    build(&space, BOTH).run.fails(1);
    // Without commands a foreign image is no problem.
    dockerfile(&space, "FROM scratch\nCOPY --chmod=755 sh /bin/sh\n");
    build(&space, "--platform linux/arm64 -t foreign").run.ok();
    let shown = &space.json("image inspect foreign")[0];
    assert_eq!((&shown["Architecture"], &shown["Os"]), (&json!("arm64"), &json!("linux")));
}
