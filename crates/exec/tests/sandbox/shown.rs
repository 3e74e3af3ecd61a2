//! What image builds mount: parts of snapshots, caches that are waited for, secrets and sockets with an owner.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use quern_core::Digest;
use quern_core::port::{Cancel, Exit};
use quern_core::step::{Attempt, Mount, Sharing, Step};

use crate::lab::{Lab, Listing, as_root};

checks!(
    parts_of_snapshots,
    changes_of_snapshots_are_thrown_away,
    snapshots_where_nothing_can_be_changed,
    parts_that_are_not_there,
    links_in_snapshots_stay_inside,
    mounts_inside_of_mounts,
    caches_of_a_build,
    caches_that_start_with_files,
    caches_that_can_only_be_read,
    private_caches,
    a_locked_cache_is_waited_for,
    waiting_for_a_cache_can_be_cancelled,
    caches_are_never_waited_for_in_a_ring,
    secrets_have_a_mode_and_an_owner,
    memory_has_a_limit,
    sockets,
);

fn show(target: &str, snapshot: Digest, path: &str, writable: bool) -> Mount {
    Mount::Snapshot { target: target.into(), snapshot, path: path.into(), writable }
}

fn cache(id: &str, sharing: Sharing) -> Mount {
    cache_at("/c", id, sharing)
}

fn cache_at(target: &str, id: &str, sharing: Sharing) -> Mount {
    let (target, id) = (target.into(), id.into());
    Mount::Cache { target, id, sharing, seed: None, owner: None, mode: None, read_only: false }
}

/// A snapshot of two layers: the upper one adds, replaces and removes.
fn source(lab: &Lab) -> Digest {
    let below = lab.layers.add(|dir| {
        fs::create_dir_all(dir.join("src/inner"))?;
        fs::write(dir.join("src/one"), "1")?;
        fs::write(dir.join("src/gone"), "gone")?;
        fs::write(dir.join("src/inner/two"), "2")
    });
    let above = lab.layer(lab.change_on(
        lab.bare_snapshot(&[below], vec![lab.room.image("busybox")]),
        "rm /src/gone; echo one > /src/one; ln -s inner /src/link",
    ));
    lab.bare_snapshot(&[below, above], Vec::new())
}

fn with(mut step: Step, mounts: Vec<Mount>) -> Step {
    step.mounts = mounts;
    step
}

fn parts_of_snapshots(lab: &Lab) {
    let snapshot = source(lab);
    let script = "ls /all /all/src /dir; cat /dir/one /etc/one /link/two; touch /dir/x || touch /etc/one || echo read-only";
    let mounts = vec![
        show("/all", snapshot, "/", false),
        show("/dir", snapshot, "/src", false),
        // A file in the place of none, in a directory of the image.
        show("/etc/one", snapshot, "src/one", false),
        show("/link", snapshot, "/src/link", false),
    ];
    let ran = lab.run(with(lab.change(script), mounts)).unwrap();
    let said = ran.on(quern_core::event::Stream::Stdout);
    assert_eq!(
        said,
        "/all:\nsrc\n\n/all/src:\ninner\nlink\none\n\n/dir:\ninner\nlink\none\none\none\n2read-only"
    );
    assert_eq!(lab.entries(&ran.outcome.layer.unwrap()), Listing::new());
    // A snapshot of one layer, a file over a file, a directory over a directory of the image.
    let one = lab.layers.add(|dir| fs::write(dir.join("passwd"), "other"));
    let one = lab.bare_snapshot(&[one], Vec::new());
    let mounts = vec![show("/etc/passwd", one, "/passwd", false), show("/home", one, "/", false)];
    let mut step = with(lab.change("cat /etc/passwd /home/passwd"), mounts);
    assert_eq!(lab.said(step.clone()), "otherother");
    // A file cannot be shown in the place of a directory.
    step.mounts = vec![show("/home", one, "/passwd", false)];
    let error = lab.run(step).unwrap_err().to_string();
    assert!(error.contains("the image has a directory there, a file is needed"), "{error}");
}

fn changes_of_snapshots_are_thrown_away(lab: &Lab) {
    let snapshot = source(lab);
    let script = "cd /dir; echo new > new; echo more >> one; rm -r inner; ls; cat one; cp one /kept; echo changed > /file";
    let mounts = vec![show("/dir", snapshot, "/src", true), show("/file", snapshot, "/src/one", true)];
    for _ in 0..2 {
        let ran = lab.run(with(lab.change(script), mounts.clone())).unwrap();
        assert_eq!(ran.text(), "link\nnew\none\none\nmore");
        let entries = lab.entries(&ran.outcome.layer.unwrap());
        assert_eq!(entries, Listing::from([("kept".into(), "644 \"one\\nmore\\n\"".into())]));
    }
    assert_eq!(lab.layers.open_drafts(), 0);
}

fn snapshots_where_nothing_can_be_changed(lab: &Lab) {
    let snapshot = source(lab);
    let mounts = vec![show("/data", snapshot, "/src", false), show("/new/f", snapshot, "/src/one", false)];
    let ran =
        lab.run(with(lab.sh("cat /data/one /new/f; touch /data/x; touch /x; touch /tmp/x; id -u"), mounts));
    let ran = ran.unwrap();
    let lines = "one\none\ntouch: /data/x: Read-only file system\ntouch: /x: Read-only file system\n0";
    // The two streams are pipes of their own.
    let mut expected: Vec<&str> = lines.lines().collect();
    expected.sort_unstable();
    let text = ran.text();
    let mut said: Vec<&str> = text.lines().collect();
    said.sort_unstable();
    assert_eq!(said, expected);
    assert_eq!((ran.outcome.exit, ran.outcome.layer), (Exit::Code(0), None));
}

fn parts_that_are_not_there(lab: &Lab) {
    let snapshot = source(lab);
    for path in ["/src/gone", "/nothing", "/src/one/x", "/../../etc/shadow"] {
        let error = lab.run(with(lab.change("true"), vec![show("/x", snapshot, path, false)])).unwrap_err();
        let expected = format!("nothing can be mounted at /x: what should be shown there has no {path}");
        assert_eq!(error.to_string(), expected);
    }
    let empty = lab.bare_snapshot(&[], Vec::new());
    assert_eq!(lab.said(with(lab.change("ls -A /x"), vec![show("/x", empty, "/", false)])), "");
    let error = lab.run(with(lab.change("true"), vec![show("/x", empty, "/a", false)])).unwrap_err();
    assert!(error.to_string().contains("has no /a"), "{error}");
    let unknown = Digest::of(b"never made");
    assert!(lab.run(with(lab.change("true"), vec![show("/x", unknown, "/", true)])).is_err());
    assert_eq!(lab.layers.open_drafts(), 0);
}

fn links_in_snapshots_stay_inside(lab: &Lab) {
    let hostile = lab.layers.add(|dir| {
        symlink("/etc", dir.join("absolute"))?;
        symlink("../../../../etc", dir.join("up"))?;
        symlink("/proc/self/fd", dir.join("fd"))?;
        symlink("loop", dir.join("loop"))
    });
    let other = lab.layers.add(|dir| fs::write(dir.join("other"), ""));
    for layers in [vec![hostile], vec![hostile, other, hostile]] {
        let snapshot = lab.bare_snapshot(&layers, Vec::new());
        for path in ["/absolute", "/up", "/fd", "/fd/0", "/loop", "/absolute/../etc"] {
            let shown = vec![show("/x", snapshot, path, false)];
            let error = lab.run(with(lab.change("ls /x"), shown)).unwrap_err().to_string();
            assert!(error.contains("has no"), "{path}: {error}");
        }
    }
}

fn mounts_inside_of_mounts(lab: &Lab) {
    let snapshot = source(lab);
    let mounts = vec![
        show("/w", snapshot, "/src", false),
        // Its place is there.
        Mount::Tmpfs { target: "/w/inner".into(), size: None },
        show("/z", snapshot, "/src", true),
        // Its place is made.
        Mount::cache("/z/made/deep", "one"),
        show("/z/made/deep/file", snapshot, "/src/one", false),
    ];
    let script = "touch /w/inner/x && ls /w/inner && cat /z/made/deep/file && touch /z/made/deep/y";
    assert_eq!(lab.said(with(lab.change(script), mounts)), "x\none");
    let mounts = vec![show("/w", snapshot, "/src", false), Mount::cache("/w/absent", "one")];
    let error = lab.run(with(lab.change("true"), mounts)).unwrap_err().to_string();
    assert!(error.contains("making room for /w/absent: Read-only file system"), "{error}");
}

fn caches_of_a_build(lab: &Lab) {
    let owned = |owner, mode| {
        let (target, id) = ("/c".into(), "id".into());
        vec![Mount::Cache { target, id, sharing: Sharing::Shared, seed: None, owner, mode, read_only: false }]
    };
    let script = "stat -c '%a %u:%g' /c; ls -A /c; echo > /c/x";
    assert_eq!(lab.said(with(lab.change(script), owned(Some((0, 0)), None))), "755 0:0");
    assert_eq!(lab.said(with(lab.change(script), owned(Some((0, 0)), None))), "755 0:0\nx");
    // Other owners and modes are other caches.
    assert_eq!(lab.said(with(lab.change(script), owned(None, Some(0o1777)))), "1777 0:0");
    if as_root() {
        let mut step = with(lab.change(script), owned(Some((1000, 7)), Some(0o700)));
        step.user = Some("1000".into());
        assert_eq!(lab.said(step), "700 1000:7");
        // A cache of root's is not writable to a user.
        let mut step = with(lab.change("touch /c/y"), owned(Some((0, 0)), None));
        step.user = Some("1000".into());
        assert_eq!(lab.run(step).unwrap().outcome.exit, Exit::Code(1));
    }
}

fn caches_that_start_with_files(lab: &Lab) {
    let snapshot = source(lab);
    let seeded = |sharing, path: &str| {
        let seed = Some((snapshot, path.to_owned()));
        let (target, id) = ("/c".into(), "id".into());
        vec![Mount::Cache { target, id, sharing, seed, owner: None, mode: None, read_only: false }]
    };
    for sharing in [Sharing::Shared, Sharing::Locked, Sharing::Private] {
        let run = |script: &str| lab.said(with(lab.change(script), seeded(sharing, "/src")));
        let first = if sharing == Sharing::Shared {
            "inner\nlink\none\none\n2"
        } else {
            "inner\nlink\nmore\none\none\n2"
        };
        assert_eq!(run("ls /c; cat /c/one /c/link/two; echo x > /c/more"), first, "{sharing:?}");
        assert_eq!(run("cat /c/more"), "x");
    }
    // The snapshot is as it was, and another seed is another cache.
    assert_eq!(lab.said(with(lab.change("ls /c"), seeded(Sharing::Shared, "/src/inner"))), "two");
    for path in ["/nothing", "/src/one"] {
        let error = lab.run(with(lab.change("true"), seeded(Sharing::Shared, path))).unwrap_err().to_string();
        assert!(error.contains(&format!("filling a new cache with {path} of a snapshot")), "{error}");
        assert!(lab.run(with(lab.change("true"), seeded(Sharing::Shared, path))).is_err());
    }
}

fn caches_that_can_only_be_read(lab: &Lab) {
    let snapshot = source(lab);
    for seed in [None, Some((snapshot, "/src".to_owned()))] {
        let cache = |read_only| {
            let (target, id, sharing) = ("/c".into(), "id".into(), Sharing::Shared);
            Mount::Cache {
                target,
                id,
                sharing,
                seed: seed.clone(),
                owner: Some((0, 0)),
                mode: None,
                read_only,
            }
        };
        let run = |script: &str, read_only| lab.said(with(lab.change(script), vec![cache(read_only)]));
        // Also the step that makes it cannot write to it.
        let write = "touch /c/x 2> /dev/null || echo no; rm -r /c/one 2> /dev/null; ls /c | grep -c x";
        assert_eq!(run(&format!("{write} || true"), true), "no\n0");
        run("echo written > /c/x", false);
        assert_eq!(run(&format!("{write}; cat /c/x"), true), "no\n1\nwritten");
    }
}

/// Runs steps at the same time and gives what they said, in their order.
fn together(lab: &Lab, steps: Vec<Step>) -> Vec<String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = steps.into_iter().map(|step| scope.spawn(|| lab.said(step))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Says when it has the cache, waits for the other one to say so, and leaves.
const MEET: &str =
    "touch /meet/$0; while [ ! -e /meet/$1 ]; do usleep 10000; done; echo $0 >> /c/log; wc -l < /c/log";

fn meet(lab: &Lab, sharing: Sharing, own: &str, other: &str) -> Step {
    let mut step = lab.change(MEET);
    step.timeout = Some(std::time::Duration::from_secs(60));
    step.argv.extend([own.to_owned(), other.to_owned()]);
    with(step, vec![cache("id", sharing), Mount::cache("/meet", "meet")])
}

fn private_caches(_: &Lab) {
    let lab = &Lab::new(2);
    let said =
        together(lab, vec![meet(lab, Sharing::Private, "a", "b"), meet(lab, Sharing::Private, "b", "a")]);
    assert_eq!(said, ["1", "1"], "each has its own");
    // One after the other they have the same.
    assert_eq!(lab.said(meet(lab, Sharing::Private, "a", "b")), "2");
    // Shared ones meet in one.
    fs::remove_dir_all(lab.dir.path().join("cache/meet/data")).unwrap();
    let mut said =
        together(lab, vec![meet(lab, Sharing::Shared, "a", "b"), meet(lab, Sharing::Shared, "b", "a")]);
    said.sort();
    assert!(said.iter().any(|said| said == "4"), "{said:?}");
}

fn a_locked_cache_is_waited_for(_: &Lab) {
    let lab = &Lab::new(4);
    // Whoever finds another one in it says so.
    let script = "mkdir /c/inside && usleep 50000 && rmdir /c/inside && echo alone";
    for sharing in [Sharing::Locked, Sharing::Shared] {
        let steps = (0..4).map(|n| {
            let sharing = if n == 0 { Sharing::Locked } else { sharing };
            let script = if sharing == Sharing::Locked { script } else { "[ ! -e /c/inside ] && echo alone" };
            with(lab.change(script), vec![cache("id", sharing)])
        });
        assert_eq!(together(lab, steps.collect()), ["alone"; 4]);
    }
    // Twice in one step is once.
    let twice = vec![cache("id", Sharing::Locked), cache_at("/d", "id", Sharing::Shared)];
    assert_eq!(lab.said(with(lab.change("touch /c/y; ls /d"), twice)), "y");
}

fn waiting_for_a_cache_can_be_cancelled(_: &Lab) {
    let lab = &Lab::new(1);
    lab.said(with(lab.change("true"), vec![cache("id", Sharing::Locked)]));
    // Held by another process, as far as the kernel is concerned.
    let lock = fs::File::open(lab.dir.path().join("cache/id/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let attempt = Attempt::first(with(lab.change("true"), vec![cache("id", Sharing::Locked)]));
    let cancel = Cancel::default();
    let ran = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.attempt(&attempt, &cancel).unwrap());
        // Meanwhile the only worker is free.
        assert_eq!(lab.said(lab.change("echo free")), "free");
        cancel.set();
        waiting.join().unwrap()
    });
    assert_eq!((ran.outcome.exit, ran.outcome.layer), (Exit::Cancelled, None));
    // What it would be given, had it not to be alone.
    assert_eq!(lab.said(with(lab.change("echo copy"), vec![cache("id", Sharing::Private)])), "copy");
    drop(lock);
    assert_eq!(lab.attempt(&attempt, &Cancel::default()).unwrap().outcome.exit, Exit::Code(0));
}

fn caches_are_never_waited_for_in_a_ring(_: &Lab) {
    let lab = &Lab::new(2);
    let both = |one: &str, other: &str| {
        with(
            lab.change("usleep 1000; echo done"),
            vec![cache_at("/a", one, Sharing::Locked), cache_at("/b", other, Sharing::Locked)],
        )
    };
    for _ in 0..10 {
        assert_eq!(together(lab, vec![both("one", "two"), both("two", "one")]), ["done"; 2]);
    }
}

fn secrets_have_a_mode_and_an_owner(lab: &Lab) {
    let secret = |mode, owner| Mount::Secret { target: "/run/s".into(), name: "s".into(), mode, owner };
    let owners: &[_] = if as_root() { &[(0, 0), (1000, 33)] } else { &[(0, 0)] };
    for (uid, gid) in owners {
        let script = "stat -c '%a %u:%g' /run/s; cat /run/s; (echo x > /run/s) 2>/dev/null || echo kept; grep /run/s /proc/self/mountinfo | cut -d' ' -f6";
        let step = with(lab.change(script), vec![secret(0o440, Some((*uid, *gid)))]);
        let mut attempt = Attempt::first(step);
        attempt.secrets.insert("s".into(), b"value\n".to_vec());
        let ran = lab.attempt(&attempt, &Cancel::default()).unwrap();
        let text = ran.text();
        let mount =
            text.strip_prefix(&format!("440 {uid}:{gid}\nvalue\nkept\n")).unwrap_or_else(|| panic!("{text}"));
        assert!(mount.starts_with("ro,nosuid,nodev,noexec"), "{mount}");
        assert_eq!(lab.entries(&ran.outcome.layer.unwrap()), Listing::new());
    }
    // A value may also travel as a variable, which no key knows.
    let step = lab.change("echo $TOKEN");
    let key = step.key();
    let mut attempt = Attempt::first(step);
    attempt.env.insert("TOKEN".into(), "hunter2".into());
    assert_eq!(attempt.step.key(), key);
    assert_eq!(lab.attempt(&attempt, &Cancel::default()).unwrap().text(), "hunter2");
}

fn memory_has_a_limit(lab: &Lab) {
    let mounts = vec![Mount::Tmpfs { target: "/m".into(), size: Some(1 << 20) }];
    let script = "head -c 3000000 /dev/zero > /m/x 2>/dev/null || stat -c %s /m/x";
    assert_eq!(lab.said(with(lab.change(script), mounts)), (1 << 20).to_string());
}

/// Says hello to a socket and prints the answer.
const HELLO: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    char answer[64];
    strncpy(place.sun_path, words[1], sizeof place.sun_path - 1);
    int end = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(end, (struct sockaddr *)&place, sizeof place) != 0) return 1;
    if (write(end, "hello\n", 6) != 6) return 2;
    int length = read(end, answer, sizeof answer);
    return length > 0 && write(1, answer, length) == length ? 0 : 3;
}
"#;

fn sockets(lab: &Lab) {
    lab.program("hello", HELLO);
    let place = lab.dir.path().join("agent");
    let agent = UnixListener::bind(&place).unwrap();
    // As an ssh agent's: its owner's alone.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
    let owner = as_root().then_some((1000, 33));
    let socket = Mount::Socket { target: "/run/ssh/agent".into(), name: "ssh".into(), mode: 0o600, owner };
    let mut step =
        with(lab.change("stat -c '%F %a %u:%g' $SSH_AUTH_SOCK; hello $SSH_AUTH_SOCK"), vec![socket]);
    step.env.insert("SSH_AUTH_SOCK".into(), "/run/ssh/agent".into());
    step.user = owner.map(|_| "1000".to_owned());
    let mut attempt = Attempt::first(step);
    assert!(lab.attempt(&attempt, &Cancel::default()).unwrap_err().to_string().contains("the socket `ssh`"));
    attempt.sockets.insert("ssh".into(), place.clone());
    // Not waited for if nobody comes: then the assertion below says so.
    std::thread::spawn(move || {
        let (mut end, _) = agent.accept().unwrap();
        let mut text = [0; 6];
        end.read_exact(&mut text).unwrap();
        // Whoever asks, this process answers for it.
        let peer = rustix::net::sockopt::socket_peercred(&end).unwrap().pid.as_raw_nonzero().get();
        let known = &text == b"hello\n" && peer as u32 == std::process::id();
        end.write_all(if known { b"key\n" } else { b"who?\n" }).unwrap();
    });
    let ran = lab.attempt(&attempt, &Cancel::default()).unwrap();
    let owner = owner.map_or("0:0".to_owned(), |(uid, gid)| format!("{uid}:{gid}"));
    assert_eq!(ran.text(), format!("socket 600 {owner}\nkey"));
    assert_eq!(ran.outcome.exit, Exit::Code(0));
    assert_eq!(lab.entries(&ran.outcome.layer.unwrap()), Listing::new());
    assert_eq!(lab.room.scratch_left(), 0);
}
