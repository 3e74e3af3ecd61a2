//! `quern image`: what is listed, named, moved and removed.

use serde_json::Value;

use crate::image_space::{Registry, build, dockerfile, space_with_base, tool};
use crate::space::{Space, text};

fn names(space: &Space, line: &str) -> Vec<String> {
    let listed = space.json(line);
    let mut names: Vec<String> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["name"].as_str().unwrap_or("<none>").to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn images_are_listed_named_and_removed() {
    let space = space_with_base();
    let id = text(&space.json("image ls")[0]["id"]);
    space.quern("image tag base example.org/team/base:1").ok();
    space.quern(&format!("image tag {} other", &id[7..17])).ok();
    assert_eq!(names(&space, "image ls"), ["base:latest", "example.org/team/base:1", "other:latest"]);
    assert_eq!(names(&space, "image ls example.org/team/base"), ["example.org/team/base:1"]);
    assert_eq!(names(&space, "image ls base:2"), Vec::<String>::new());
    assert_eq!(space.quern("image ls -q").ok(), format!("{}\n", &id[7..19]));
    let table = space.quern("image ls --digests").ok();
    assert!(table.starts_with("REPOSITORY"), "{table}");
    assert!(table.contains("example.org/team/base 1 "), "{table}");

    let shown = space.json("image inspect base other");
    assert_eq!(shown[0]["Id"], Value::from(id.clone()));
    assert_eq!(shown[0]["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(
        shown[1]["RepoTags"],
        serde_json::json!(["base:latest", "other:latest", "example.org/team/base:1"])
    );

    space.quern(&format!("image rm {}", &id[7..])).says(3, &["has several names", "other:latest", "--force"]);
    assert_eq!(space.quern("image rm other").ok(), "Untagged: other:latest\n");
    let gone = space.quern(&format!("image rm -f {id}")).ok();
    assert!(
        gone.contains("Untagged: base:latest\n") && gone.ends_with(&format!("Deleted: {id}\n")),
        "{gone}"
    );
    assert_eq!(names(&space, "image ls"), Vec::<String>::new());
    space.quern("image inspect base").says(3, &["there is no image `base`"]);
    space.quern("image rm base").says(3, &["there is no image `base`"]);
    space.quern("image rm -f base").ok();
    space.quern("image tag base x").says(3, &["there is no image `base`"]);
}

#[test]
fn an_image_without_a_name_is_found_by_its_id() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nLABEL a=b\n");
    let id = build(&space, "").id();
    assert_eq!(names(&space, "image ls"), ["<none>", "base:latest"]);
    assert_eq!(space.json(&format!("image inspect {id}"))[0]["RepoTags"], serde_json::json!([]));
    space.quern(&format!("image tag {id} named")).ok();
    assert_eq!(names(&space, "image ls"), ["base:latest", "named:latest"]);
    space.quern("image rm named").ok();
    space.quern(&format!("image inspect {id}")).fails(3);
}

#[test]
fn wrong_names_are_wrong_input() {
    let space = Space::new();
    space.quern("image pull UPPER").fails(2);
    space.quern("image push a@b").fails(2);
    space.quern("image pull --platform x/y/z/w/v 127.0.0.1:1/app").fails(2);
    space.quern("image pull 127.0.0.1:1/app").fails(3);
    space.quern("image push 127.0.0.1:1/app").says(3, &["there is no image"]);
}

#[test]
fn images_go_through_archives_whole() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUN echo hello > /hello\n");
    let id = build(&space, "-t app -t example.org/app:2").id();
    for format in ["docker", "oci"] {
        let file = format!("{format}.tar");
        space.quern(&format!("image save --format {format} -o {file} app example.org/app:2 base")).ok();
        let other = format!("--state other-{format}");
        let said = space.quern(&format!("{other} image load -i {file}")).ok();
        assert_eq!(said.lines().count(), 3, "{said}");
        let loaded = names(&space, &format!("{other} image ls"));
        assert_eq!(loaded, ["app:latest", "base:latest", "example.org/app:2"]);
        assert_eq!(space.json(&format!("{other} image inspect app"))[0]["Id"], Value::from(id.clone()));
        // What was loaded is a base for a build, and is written out as it came.
        space
            .quern(&format!(
                "{other} image save --format {format} -o again-{file} app example.org/app:2 base"
            ))
            .ok();
        let same = std::fs::read(space.path(&file)).unwrap()
            == std::fs::read(space.path(format!("again-{file}"))).unwrap();
        assert!(same, "{format}");
    }
    let oci = tool(&space, "skopeo", &["inspect", "--config", "oci-archive:oci.tar:2"]);
    assert!(oci.contains("echo hello"), "{oci}");
    tool(
        &space,
        "skopeo",
        &["inspect", "--config", "docker-archive:docker.tar:docker.io/library/app:latest"],
    );
    // By way of standard output and input, and by skopeo's hands.
    space.script("set -e; $0 image save app | $0 --state piped image load").ok();
    assert_eq!(names(&space, "--state piped image ls"), ["app:latest"]);
    tool(&space, "skopeo", &["copy", "oci-archive:oci.tar:2", "oci:layout:x"]);
    space.quern("--state laid image load -i layout").ok();
    assert_eq!(space.json("--state laid image ls")[0]["id"], Value::from(id));
}

#[test]
fn a_damaged_archive_gives_no_names() {
    let space = space_with_base();
    space.quern("image save -o good.tar base").ok();
    let mut bytes = std::fs::read(space.path("good.tar")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    space.write("bad.tar", &bytes);
    space.quern("--state other image load -i bad.tar").fails(2);
    space.write("short.tar", &bytes[..middle]);
    space.quern("--state other image load -i short.tar").fails(2);
    space.write("none.tar", b"");
    space.quern("--state other image load -i none.tar").fails(2);
    space.quern("--state other image load -i absent.tar").fails(2);
    assert_eq!(names(&space, "--state other image ls"), Vec::<String>::new());
}

#[test]
fn images_go_through_a_registry_whole() {
    let space = space_with_base();
    let registry = Registry::open();
    dockerfile(&space, "FROM base\nRUN echo hello > /hello\n");
    let name = format!("{}/team/app:1", registry.host);
    let id = build(&space, &format!("-t {name}")).id();
    assert_eq!(space.quern(&format!("image push {name}")).ok(), format!("{name}\n"));
    let pulled = space.quern(&format!("--state other image pull {name}"));
    assert_eq!(pulled.ok(), format!("{name}\n"));
    assert!(pulled.stderr().contains("  pulled"), "{}", pulled.stderr());
    let listed = space.json("--state other image ls");
    assert_eq!((&listed[0]["id"], &listed[0]["name"]), (&Value::from(id), &Value::from(name.clone())));
    let digest = text(&listed[0]["digest"]);
    let seen = tool(&space, "skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["Digest"], Value::from(digest.clone()));
    // Pushed on under another name, it keeps its digest, and what the registry has is not sent again.
    let second = format!("{}/team/copy:1", registry.host);
    space.quern(&format!("--state other image tag {name} {second}")).ok();
    let pushed = space.quern(&format!("--state other image push {second}"));
    pushed.ok();
    assert!(pushed.stderr().contains("taken over from another repository"), "{}", pushed.stderr());
    assert!(pushed.stderr().contains(&digest), "{}", pushed.stderr());
    // By digest, too; and another platform is told apart.
    let by_digest = format!("{}/team/copy@{digest}", registry.host);
    space.quern(&format!("--state third image pull -q {by_digest}")).ok();
    space.quern(&format!("--state third image pull --platform linux/s390x {name}")).says(3, &["linux/s390x"]);
}
