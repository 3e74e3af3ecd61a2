//! Image builds by an ordinary user: with subordinate ids, and without.
//!
//! The user exists only in a mount namespace whose `/etc` says so.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::space::{Ran, Space};

/// Number of the ordinary user and its group.
const USER: u32 = 4321;
/// The first of its subordinate ids, which is 1 in its builds.
const FIRST: u32 = 500_000;

const BASE: &str = "FROM scratch
COPY busybox /bin/
COPY --chown=33:34 --chmod=640 file /srv/secret
COPY --chown=1000:1001 dir /srv/dir/
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox --install -s /bin\"]
";
const MINE: &str = "FROM base
RUN stat -c '%u:%g %a %n' /srv/secret /srv/dir/file && echo x > /x && chown 1000:1000 /x
COPY --chown=1000:1000 file /copied
RUN rm -r /srv/dir && mkdir /srv/dir && chown 7:8 /srv/dir
USER 1000:1000
WORKDIR /home
USER root
RUN mkdir -m 700 /locked && touch /locked/in && chown -R 1000:1000 /locked && chmod 0 /locked
USER 1000:1000
RUN echo I am $(id -u):$(id -g)
";

/// A folder of the user's own, with an OCI layout of a base image in `base`.
fn space() -> Space {
    let space = Space::new();
    fs::set_permissions(space.path(""), fs::Permissions::from_mode(0o777)).expect("own folder");
    for dir in ["made-of", "context"] {
        space.write(&format!("{dir}/file"), "x\n");
    }
    space.write("made-of/dir/file", "deep");
    space.write("made-of/Dockerfile", BASE);
    space.write("context/Dockerfile", MINE);
    space.write("etc/passwd", format!("root:x:0:0::/root:/bin/sh\nann:x:{USER}:{USER}::/:/bin/sh\n"));
    space.write("etc/group", format!("root:x:0:\nann:x:{USER}:\n"));
    space.write("etc/subuid", format!("ann:{FIRST}:65536\n"));
    space.write("etc/subgid", format!("ann:{FIRST}:65536\n"));
    // The originals may lie where only root can read.
    let copies = "cp \"$0\" quern; cp \"$(command -v busybox)\" made-of";
    let build = "\"$0\" build --state of-root -o type=oci,dest=base.tar made-of; mkdir base; tar -xf base.tar -C base";
    space.script(&format!("set -e; {copies}; {build}")).ok();
    space
}

/// Runs a script as the user.
fn as_user(space: &Space, script: &str) -> Ran {
    let become_it = format!("setpriv --reuid={USER} --regid={USER} --clear-groups");
    space.write("script", script);
    space.script(&format!(
        "exec unshare --mount sh -ec 'mount --bind etc /etc; exec {become_it} sh -e script'"
    ))
}

const BUILD: &str =
    "./quern build --progress=plain --build-context base=oci-layout://base -o type=oci,dest=out.tar context";

/// Owner and name of everything in the layers of `out.tar`.
fn owners(space: &Space) -> BTreeSet<String> {
    let each = "for blob in out/blobs/sha256/*; do tar --numeric-owner -tvzf $blob 2>/dev/null || true; done";
    let listed = space.script(&format!("set -e; rm -rf out; mkdir out; tar -xf out.tar -C out; {each}")).ok();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words[1], words[5])
    };
    listed.lines().map(entry).collect()
}

/// Owners of everything below a directory, as the disk has them.
fn owners_on_disk(dir: &Path) -> BTreeSet<u32> {
    let mut owners = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        let metadata = entry.metadata().expect("it stays");
        owners.insert(metadata.uid());
        if metadata.is_dir() {
            owners.extend(owners_on_disk(&entry.path()));
        }
    }
    owners
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn files_can_belong_to_anybody_with_subordinate_ids() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make another user");
        return;
    }
    let space = space();
    let first = as_user(&space, BUILD);
    first.ok();
    let said = first.stderr();
    for line in ["33:34 640 /srv/secret", "1000:1001 644 /srv/dir/file", "I am 1000:1000"] {
        assert!(said.contains(line), "`{line}` is not in\n{said}");
    }
    let owners = owners(&space);
    for entry in [
        "33/34 srv/secret",
        "1000/1001 srv/dir/file",
        "1000/1000 x",
        "1000/1000 copied",
        "7/8 srv/dir/",
        "0/0 srv/dir/.wh..wh..opq",
        "1000/1000 locked/",
        "1000/1000 locked/in",
        "0/0 bin/busybox",
    ] {
        assert!(owners.contains(entry), "`{entry}` is not in {owners:#?}");
    }
    assert!(fs::metadata(space.path("out.tar")).expect("it was made").uid() == USER);
    let state = space.path("state");
    let expected = [0, 7, 33, 1000].map(|inside| if inside == 0 { USER } else { FIRST + inside - 1 });
    assert_eq!(owners_on_disk(&state), BTreeSet::from(expected));

    let again = as_user(&space, BUILD);
    again.ok();
    let said = again.stderr();
    assert!(said.contains("CACHED") && !said.contains("DONE"), "nothing is done twice:\n{said}");

    // Commands that only read do so without those ids; others remove everything.
    as_user(&space, "./quern list repo; ./quern du; ./quern doctor; ./quern prune --all").ok();
    assert_eq!(owners_on_disk(&state), BTreeSet::from([USER]));
    let layers = fs::read_dir(state.join("layers"))
        .expect("it stays")
        .map(|entry| entry.expect("an entry").file_name());
    assert_eq!(layers.filter(|name| name.len() == 64).count(), 0);
}

#[test]
fn without_subordinate_ids_files_belong_to_root_and_a_failure_says_so() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make another user");
        return;
    }
    let space = space();
    space.write("context/Dockerfile", "FROM base\nRUN stat -c '%u:%g %n' /srv/secret && echo x > /x\n");
    fs::remove_file(space.path("etc/subgid")).expect("it was made");
    let ran = as_user(&space, BUILD);
    ran.ok();
    assert!(ran.stderr().contains("0:0 /srv/secret") && !ran.stderr().contains("note:"), "{}", ran.stderr());
    assert_eq!(owners_on_disk(&space.path("state")), BTreeSet::from([USER]));

    space.write("context/Dockerfile", "FROM base\nCOPY --chown=1000:1000 file /\n");
    as_user(&space, BUILD).says(1, &["note: ", "no subordinate ids", "/etc/subgid"]);
    space.write("etc/subgid", format!("{USER}:{FIRST}:65536\n"));
    let ran = as_user(&space, &format!("export PATH=/nowhere; {BUILD}"));
    ran.says(1, &["note: ", "newuidmap is missing", "package `uidmap`"]);
    // More than the machine grants to anybody else.
    space.write("etc/subuid", format!("bob:{FIRST}:65536\n4321:x:y\n"));
    as_user(&space, BUILD).says(1, &["note: ", "/etc/subuid"]);
}
