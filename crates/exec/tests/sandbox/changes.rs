//! Steps that change their root: what they see, and what the layer holds afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use quern_core::port::{Exit, Layers};
use quern_core::step::{Mount, Network, RootAccess};

use crate::lab::{Lab, Listing, as_root};

checks!(
    what_changed_is_the_layer,
    removals_and_replacements_are_said_in_full,
    renamed_directories_are_whole,
    kinds_of_files_are_kept,
    the_next_step_sees_the_layer,
    places_of_mounts_leave_no_trace,
    places_that_layers_hide_are_made_again,
    failures_keep_nothing,
    many_layers,
    nothing_at_all,
    the_root_itself_keeps_its_attributes,
    what_a_build_sees,
    users_of_a_build,
    the_working_directory_is_made,
);

fn check(lab: &Lab, script: &str, expected: &[(&str, &str)]) {
    let layer = lab.layer(lab.change(script));
    let expected: Listing = expected.iter().map(|(path, what)| ((*path).into(), (*what).into())).collect();
    assert_eq!(lab.entries(&layer), expected, "{script}");
    assert_eq!(lab.layers.open_drafts(), 0);
}

fn what_changed_is_the_layer(lab: &Lab) {
    check(lab, "true", &[]);
    check(lab, "cat /etc/passwd; touch -c /nothing; mkdir /d; rmdir /d", &[]);
    check(
        lab,
        "echo hi > /new; mkdir -p /var/lib/x; echo y > /tmp/kept; ln -s /x /usr/share/link; echo >> /etc/group",
        &[
            ("new", "644 \"hi\\n\""),
            ("var", "dir 755"),
            ("var/lib", "dir 755"),
            ("var/lib/x", "dir 755"),
            ("tmp", "dir 755"),
            ("tmp/kept", "644 \"y\\n\""),
            ("usr", "dir 755"),
            ("usr/share", "dir 755"),
            ("usr/share/link", "-> /x"),
            ("etc", "dir 755"),
            ("etc/group", "644 \"root:x:0:\\nbuild:x:1001:\\nextra:x:44:build\\n\\n\""),
        ],
    );
    check(
        lab,
        "chmod 600 /etc/passwd; cat /etc/passwd > /dev/null",
        &[
            ("etc", "dir 755"),
            (
                "etc/passwd",
                "600 \"root:x:0:0:root:/root:/bin/sh\\nbuild:x:1000:1001::/home/build:/bin/sh\\n\"",
            ),
        ],
    );
}

/// The mark of a directory that hides the one below.
fn opaque() -> &'static str {
    if as_root() { "dir 755 trusted.overlay.opaque" } else { "dir 755 user.overlay.opaque" }
}

fn removals_and_replacements_are_said_in_full(lab: &Lab) {
    check(
        lab,
        "rm /etc/passwd; rm -r /home",
        &[("etc", "dir 755"), ("etc/passwd", "whiteout"), ("home", "whiteout")],
    );
    check(
        lab,
        "rm -r /home && mkdir /home && echo > /home/x",
        &[("home", opaque()), ("home/x", "644 \"\\n\"")],
    );
    check(lab, "rm -r /home && echo > /home", &[("home", "644 \"\\n\"")]);
    check(lab, "rm /data && mkdir /data", &[("data", opaque())]);
}

fn renamed_directories_are_whole(lab: &Lab) {
    // By copying, as programs do where a file system cannot rename: no reference to another layer is left.
    let layer = lab.layer(lab.change("mv /home /moved && ls /moved/build"));
    let entries = lab.entries(&layer);
    assert_eq!(entries["moved"], "dir 755");
    assert_eq!(entries["moved/build"], "dir 755");
    assert_eq!(entries["home"], "whiteout");
    let layer = lab.layer(lab.change("mkdir -p /a/b; echo x > /a/b/c; mv /a /z; mv /etc/passwd /p"));
    let entries = lab.entries(&layer);
    assert_eq!(
        entries.keys().map(String::as_str).collect::<Vec<_>>(),
        ["etc", "etc/passwd", "p", "z", "z/b", "z/b/c"]
    );
    assert_eq!(entries["etc/passwd"], "whiteout");
}

fn kinds_of_files_are_kept(lab: &Lab) {
    let script = "cd /usr; cp /bin/busybox s; chmod 6755 s; mkfifo -m 640 f; echo 1 > a; ln a b; ln -s a c; mkdir -m 1777 d; truncate -s 100M sparse; echo end >> sparse";
    let layer = lab.layer(lab.change(script));
    let entries = lab.entries(&layer);
    assert!(entries["usr/s"].starts_with("6755 "), "{entries:?}");
    assert_eq!(entries["usr/f"], "fifo 640");
    assert_eq!(entries["usr/b"], "= usr/a");
    assert_eq!(entries["usr/c"], "-> a");
    assert_eq!(entries["usr/d"], "dir 1777");
    assert!(
        entries["usr/sparse"].starts_with("644 104857604 bytes in 8 blocks"),
        "{}",
        entries["usr/sparse"]
    );
    if as_root() {
        check(
            lab,
            "cd /usr; mknod n c 1 3; mknod -m 600 d b 254 9; chown 12:34 d",
            &[("usr", "dir 755"), ("usr/n", "c 1:3 644"), ("usr/d", "b 254:9 600 12:34")],
        );
    }
}

fn the_next_step_sees_the_layer(lab: &Lab) {
    let one = lab.layer(lab.change("echo 1 > /one; rm -r /home; rm /data; mkdir /data; echo d > /data/file"));
    let two = lab.layer(
        lab.change_on(lab.snapshot(&[one]), "cat /one /data/file; rm /one; echo 2 > /two; mkdir /home"),
    );
    let seen = lab.said(lab.change_on(lab.snapshot(&[one, two]), "ls -A / /home /data; cat /two"));
    assert!(
        !seen.contains("one") && seen.contains("two") && seen.contains("file") && !seen.contains("build"),
        "{seen}"
    );
    assert_eq!(lab.entries(&two)["one"], "whiteout");
    // What it hides was hidden before.
    assert_eq!(lab.entries(&two)["home"], "dir 755");
    // A step that changes nothing sees the same.
    let mut read_only = lab.sh("cat /two /data/file; ls /home; touch /x");
    read_only.image = lab.snapshot(&[one, two]);
    let ran = lab.run(read_only).unwrap();
    assert_eq!(ran.outcome.exit, Exit::Code(1));
    assert_eq!(ran.outcome.layer, None);
    assert_eq!(ran.text(), "2\nd\ntouch: /x: Read-only file system");
}

fn places_of_mounts_leave_no_trace(lab: &Lab) {
    let mounts = vec![
        Mount::cache("/root/.cache/pip", "pip"),
        Mount::secret("/run/secrets/token", "token"),
        Mount::Tmpfs { target: "/usr/share/deep/er".into(), size: None },
        Mount::cache("/usr/share/deep/er/cache", "other"),
    ];
    let run = |script: &str| {
        let mut step = lab.change(script);
        step.mounts = mounts.clone();
        let mut attempt = quern_core::step::Attempt::first(step);
        attempt.secrets.insert("token".into(), b"hunter2".to_vec());
        let ran = lab.attempt(&attempt, &quern_core::port::Cancel::default()).unwrap();
        assert_eq!(ran.outcome.exit, Exit::Code(0), "{}", ran.text());
        lab.entries(&ran.outcome.layer.unwrap())
    };
    let script = "cat /run/secrets/token; echo > /root/.cache/pip/x; echo > /usr/share/deep/er/x; echo > /usr/share/deep/er/cache/y; \
                  ls /dev /proc /sys /etc/hosts /etc/resolv.conf; echo > /dev/shm/x; echo > /dev/x";
    assert_eq!(run(script), Listing::new());
    // What is made beside such places is kept, and they are not.
    let entries = run("echo > /root/.cache/x; echo > /run/y; rm -rf /run/secrets /etc/hosts; true");
    let expected = ["root", "root/.cache", "root/.cache/x", "run", "run/y"];
    assert_eq!(entries.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(entries["root"], "dir 700");
    let cache = lab.dir.path().join("cache");
    assert!(entries_below(&cache).contains("x") && entries_below(&cache).contains("y"));
}

fn entries_below(dir: &std::path::Path) -> String {
    crate::lab::entries(dir).into_keys().collect::<Vec<_>>().join(" ")
}

fn places_that_layers_hide_are_made_again(lab: &Lab) {
    let gone = lab.layer(lab.change("mkdir -p /run/inner /opt; touch /run/inner/x"));
    let dangling = |dir: &std::path::Path| {
        fs::create_dir(dir.join("etc"))?;
        symlink("/nowhere", dir.join("etc/hosts"))
    };
    let gone = [
        gone,
        lab.layer(lab.change_on(lab.snapshot(&[gone]), "rm -r /run /opt /tmp /usr; mkdir /run")),
        lab.layers.add(dangling),
    ];
    let mut step = lab.change_on(lab.snapshot(&gone), "[ -d /opt/a ]; [ -d /run/inner/b ]; [ -d /usr/share/c ]; cat /etc/hosts; ls -A /run/inner; echo > /run/z");
    step.mounts = ["/opt/a", "/run/inner/b", "/usr/share/c"]
        .map(|target| Mount::Tmpfs { target: target.into(), size: None })
        .into();
    let ran = lab.run(step).unwrap();
    assert_eq!(ran.outcome.exit, Exit::Code(0), "{}", ran.text());
    assert!(ran.text().contains("localhost") && ran.text().ends_with("\nb"), "{}", ran.text());
    let entries = lab.entries(&ran.outcome.layer.unwrap());
    assert_eq!(entries.keys().map(String::as_str).collect::<Vec<_>>(), ["run", "run/z"]);
}

fn failures_keep_nothing(lab: &Lab) {
    let ran = lab.run(lab.change("echo > /x; exit 3")).unwrap();
    assert_eq!((ran.outcome.exit, ran.outcome.layer), (Exit::Code(3), None));
    let mut accepted = lab.change("echo > /x; exit 3");
    accepted.accept.push(3);
    assert!(lab.run(accepted).unwrap().outcome.layer.is_some());
    let mut slow = lab.change("echo > /x; sleep 100");
    slow.timeout = Some(std::time::Duration::from_millis(200));
    let ran = lab.run(slow).unwrap();
    assert_eq!((ran.outcome.exit, ran.outcome.layer), (Exit::TimedOut, None));
    let absent = crate::lab::step(crate::lab::BUSYBOX, &["/no/such/program"]);
    let error = lab.run(quern_core::Step { root: RootAccess::Writable, ..absent }).unwrap_err().to_string();
    assert!(error.starts_with("program not found: /no/such/program"), "{error}");
    assert_eq!(lab.layers.open_drafts(), 0);
}

fn many_layers(lab: &Lab) {
    let layers: Vec<_> = (0..200)
        .map(|n| {
            lab.layers.add(|dir| {
                fs::write(dir.join(format!("f{n}")), n.to_string())
                    .and_then(|()| fs::write(dir.join("last"), n.to_string()))
            })
        })
        .collect();
    let layer = lab.layer(lab.change_on(
        lab.snapshot(&layers),
        "[ $(ls /f* | wc -l) = 200 ] && [ $(cat /last) = 199 ] && echo top > /last",
    ));
    assert_eq!(lab.entries(&layer), Listing::from([("last".into(), "644 \"top\\n\"".into())]));
}

fn nothing_at_all(lab: &Lab) {
    let scratch = lab.bare_snapshot(&[], Vec::new());
    let error = lab.run(lab.change_on(scratch, "true")).unwrap_err().to_string();
    assert!(error.starts_with("program not found: sh"), "{error}");
    // With nothing but a program, it runs.
    let only = lab.layers.add(|dir| fs::copy("/usr/bin/busybox", dir.join("sh")).map(drop));
    let mut step = lab.change_on(lab.bare_snapshot(&[only], Vec::new()), "echo x > /made; echo $HOME");
    step.argv[0] = "/sh".into();
    let ran = lab.run(step).unwrap();
    assert_eq!(ran.text(), "/");
    assert_eq!(lab.entries(&ran.outcome.layer.unwrap()).keys().collect::<Vec<_>>(), ["made"]);
}

fn the_root_itself_keeps_its_attributes(lab: &Lab) {
    let image = lab.room.image("busybox");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o751)).unwrap();
    let layer = lab.layer(lab.change("[ $(stat -c %a /) = 751 ]"));
    let (below, made) = (fs::metadata(&image).unwrap(), fs::metadata(lab.layers.path(&layer)).unwrap());
    assert_eq!((made.mode(), made.uid(), made.mtime()), (below.mode(), below.uid(), below.mtime()));
    let layer = lab.layer(lab.change("chmod 700 /"));
    assert_eq!(fs::metadata(lab.layers.path(&layer)).unwrap().mode() & 0o7777, 0o700);
}

fn what_a_build_sees(lab: &Lab) {
    let said = |script: &str| lab.said(lab.change(script));
    assert_eq!(
        said("env | sort"),
        "HOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1"
    );
    assert_eq!(
        said("cat /etc/hosts /etc/resolv.conf; hostname"),
        "127.0.0.1\tlocalhost quern\n::1\tlocalhost ip6-localhost ip6-loopback\nquern"
    );
    assert_eq!(said("ls -d /proc/1 /dev/null /dev/pts/ptmx /sys; echo x > /dev/null; [ -z \"$(head -c 4 /dev/zero | tr -d '\\0')\" ]").lines().count(), 4);
    let mut networked = lab.change("cat /etc/resolv.conf; ls /sys/class/net | wc -l");
    networked.network = Network::Host;
    let said = lab.said(networked);
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(said.starts_with(machine.trim_end()), "{said}");
    let mut with_names = lab.change("tail -n 2 /etc/hosts");
    with_names.hosts = vec![("one".into(), [10, 0, 0, 1].into()), ("one".into(), "fd00::1".parse().unwrap())];
    assert_eq!(lab.said(with_names), "10.0.0.1\tone\nfd00::1\tone");
    let mut own = lab.change("env");
    own.env.insert("HOME".into(), "/elsewhere".into());
    assert!(lab.said(own).contains("HOME=/elsewhere\n"));
}

fn users_of_a_build(lab: &Lab) {
    if !as_root() {
        return;
    }
    let run = |user: &str, script: &str| {
        let mut step = lab.change(script);
        step.user = Some(user.into());
        lab.said(step)
    };
    let script = "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status";
    let none = "CapEff:\t0000000000000000";
    assert_eq!(run("build", script), format!("1000\n1001\n1001 44\n/home/build\n{none}"));
    assert_eq!(run("1000:44", script), format!("1000\n44\n44\n/home/build\n{none}"));
    assert_eq!(run("77", script), format!("77\n0\n0\n/\n{none}"));
    assert_eq!(run("root", script), "0\n0\n0\n/root\nCapEff:\t00000000a80425fb");
    // A step owns what it makes, and may not change what is not its own.
    let mut own = lab.change("touch /home/build/x /etc/x 2>&1; true");
    own.user = Some("build".into());
    let image = lab.room.image("busybox");
    std::os::unix::fs::chown(image.join("home/build"), Some(1000), Some(1001)).unwrap();
    let entries = lab.entries(&lab.layer(own));
    assert_eq!(entries["home/build/x"], "644 \"\" 1000:1001");
    assert!(!entries.contains_key("etc/x"));
    // Setuid programs work, up to the capabilities of a build.
    let program = lab.program("as-owner", WHO);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(run("build", "as-owner"), "0\nCapEff:\t00000000a80425fb");
}

/// Prints who it is, not who called it.
const WHO: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(void) {
    char line[256];
    printf("%d\n", (int)geteuid());
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "CapEff", 6) == 0) fputs(line, stdout);
    return 0;
}
"#;

fn the_working_directory_is_made(lab: &Lab) {
    let mut step = lab.change("pwd; echo > x");
    step.cwd = "/work/deep".into();
    let layer = lab.layer(step);
    let expected = [("work", "dir 755"), ("work/deep", "dir 755"), ("work/deep/x", "644 \"\\n\"")];
    assert_eq!(
        lab.entries(&layer),
        expected.iter().map(|(path, what)| ((*path).into(), (*what).into())).collect()
    );
    assert!(lab.layers.open(&[layer]).is_ok());
}
