//! Room on disk: what images take is shown, removed, and kept below a limit.

use serde_json::Value;

use crate::image_space::{build, dockerfile, make_base, space_with_base};
use crate::space::Space;

/// A row of `du`, or of what a prune removed.
fn row(rows: &Value, kind: &str) -> (u64, u64) {
    let found = rows.as_array().expect("a list").iter().find(|row| row["kind"] == kind);
    let found = found.unwrap_or_else(|| panic!("no {kind} in {rows}"));
    (found["count"].as_u64().expect("a number"), found["size_bytes"].as_u64().expect("a number"))
}

fn du(space: &Space, kind: &str) -> (u64, u64) {
    row(&space.json("du"), kind)
}

#[test]
fn images_layers_and_cache_mounts_are_counted_and_removed() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base\nRUN --mount=type=cache,target=/c,id=things head -c 200000 /dev/zero > /c/file; echo 1 > /one\n",
    );
    build(&space, "-t app").run.ok();
    assert_eq!(du(&space, "images").0, 2);
    let layers = du(&space, "layers");
    assert!(layers.0 >= 4 && layers.1 > 1_000_000, "{layers:?}");
    let caches = du(&space, "cache mounts");
    assert!(caches.0 == 1 && caches.1 >= 200_000, "{caches:?}");
    assert!(space.quern("du").ok().contains("cache mounts"));

    let would = space.json("prune --all --dry-run");
    assert_eq!(row(&would, "cache mounts").0, 1);
    assert_eq!(du(&space, "cache mounts").0, 1, "a dry run removes nothing");
    let gone = space.json("prune --all");
    assert!(row(&gone, "cache mounts").1 >= 200_000, "{gone}");
    assert_eq!(du(&space, "cache mounts").0, 0);
    assert_eq!(du(&space, "images").0, 2, "images with names stay");
    // The cache starts empty again, and everything can be built again.
    build(&space, "-t app --no-cache").run.ok();
    assert_eq!(du(&space, "cache mounts").0, 1);

    space.quern("image rm app base").ok();
    let gone = space.json("prune --all");
    assert!(row(&gone, "layers").0 >= 4 && row(&gone, "records").0 >= 4, "{gone}");
    assert_eq!((du(&space, "layers").0, du(&space, "images").0), (0, 0));
    assert_eq!(row(&space.json("prune --all"), "records").0, 0, "nothing is left to forget");
    make_base(&space);
    build(&space, "-t app").run.ok();
}

#[test]
fn as_much_is_kept_as_is_asked_for() {
    let space = space_with_base();
    for number in 0..4 {
        dockerfile(
            &space,
            &format!("FROM base\nRUN head -c 1000000 /dev/zero > /file; echo {number} > /number\n"),
        );
        build(&space, "-t app").run.ok();
    }
    let before = du(&space, "layers");
    space.quern("prune --all --keep-bytes 100GiB").ok();
    assert_eq!(du(&space, "layers"), before);
    space.quern("prune --all --keep-bytes 1.5MiB").ok();
    assert_eq!(du(&space, "layers").0, before.0 - 2, "{before:?}");
    space.quern("prune --all --keep-bytes lots").says(2, &["lots"]);
    assert_eq!(build(&space, "-t app").ran(), Vec::<String>::new(), "what has a name stays");
}

#[test]
fn layers_stay_below_their_limit() {
    let space = space_with_base();
    space.quern("prune --all").ok();
    let base = du(&space, "layers").1;
    let limit = base + 3_500_000;
    space.write("quern.toml", format!("[limits]\nlayers = \"{limit}\"\n"));
    for number in 0..6 {
        let text = format!(
            "FROM base\nRUN head -c 1000000 /dev/zero > /file; echo {number} > /number\nRUN test -s /file\n"
        );
        dockerfile(&space, &text);
        build(&space, "").run.ok();
        // One build's own layers come on top, until the next begins.
        assert!(du(&space, "layers").1 < limit + 1_500_000, "{number}: {:?}", du(&space, "layers"));
    }
    // Of images without names the newest are left; the base image has one and stays.
    let images = du(&space, "images").0;
    assert!((2..7).contains(&images), "{images}");
    space.quern("image save -o base.tar base").ok();
    space.quern("doctor").ok();
    // A limit that is too small for a single build stops nothing: what it uses stays.
    space.write("quern.toml", "[limits]\nlayers = \"1KiB\"\n");
    dockerfile(&space, "FROM base\nRUN echo 1 > /1\nRUN sleep 3; cat /1 > /2\nRUN cat /1 /2 > /3\n");
    build(&space, "-o out").run.ok();
    assert_eq!(space.read("out/3"), "1\n1\n");
    space.write("quern.toml", "[limits]\nlayers = \"much\"\n");
    build(&space, "").run.says(2, &["quern.toml", "much"]);
}
