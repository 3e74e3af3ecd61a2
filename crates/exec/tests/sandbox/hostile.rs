//! Steps of image builds that try to leave their root, or to break what keeps it.

use std::fs;

use quern_core::port::Exit;
use quern_core::step::Network;

use crate::lab::{Lab, as_root};

checks!(
    the_kernel_does_not_obey_builds,
    devices_cannot_be_opened,
    what_the_sandbox_shows_cannot_be_changed,
    another_root_is_no_way_out,
    a_root_that_is_emptied,
    what_builds_leave_running_ends,
    ten_thousand_files,
    the_image_below_stays_as_it_is,
    a_hostile_image_cannot_lead_mounts_astray,
);

/// Runs commands of which each must fail, and gives what the root holds afterwards.
fn all_fail(lab: &Lab, network: Network, commands: &[&str]) -> crate::lab::Listing {
    let script: String = commands
        .iter()
        .map(|command| {
            format!("({command}) > /dev/null 2>&1 && echo 'did: {}'\n", command.replace('\'', "\""))
        })
        .collect();
    let mut step = lab.change(&format!("{script}true"));
    step.network = network;
    let ran = lab.run(step).unwrap();
    assert_eq!((ran.text().as_str(), ran.outcome.exit), ("", Exit::Code(0)));
    lab.entries(&ran.outcome.layer.unwrap())
}

fn the_kernel_does_not_obey_builds(lab: &Lab) {
    for network in [Network::None, Network::Host] {
        let left = all_fail(
            lab,
            network,
            &[
                "mount -t tmpfs none /usr",
                "mount -o remount,rw /proc",
                "mount -o remount,rw,dev /",
                "mount -t proc none /home",
                "mount --bind / /home",
                "umount /proc",
                "umount -l /etc/hosts",
                "unshare -m true",
                "unshare -r true",
                "unshare -p true",
                "pivot_root . .",
                "hostname other",
                "date -s 2000-01-01; [ $(date +%Y) = 2000 ]",
                "swapoff -a",
                "echo 1 > /proc/sys/kernel/sysrq",
                "echo h > /proc/sysrq-trigger",
                "echo core > /proc/sys/kernel/core_pattern",
                "echo 1 > /sys/kernel/uevent_helper",
                "echo 0 > /sys/kernel/mm/transparent_hugepage/enabled",
                "touch /sys/x",
                "[ -s /proc/kcore ]",
                "[ -s /proc/keys ]",
                "[ -n \"$(ls -A /sys/firmware)\" ]",
                "ls /proc/1/root/",
                "cat /proc/1/environ",
                "readlink /proc/1/cwd",
            ],
        );
        assert_eq!(left, crate::lab::Listing::new());
    }
}

fn devices_cannot_be_opened(lab: &Lab) {
    if !as_root() {
        all_fail(lab, Network::None, &["mknod /disk b 254 0", "mknod /dev/mem c 1 1"]);
        return;
    }
    // They can be made, as layers may hold them, wherever the step can write.
    let script = "for at in / /dev/ /dev/shm/ /home/; do \
                    mknod ${at}disk b 254 0 || exit 9; mknod ${at}mem c 1 1 || exit 9; mknod ${at}zero2 c 1 5 || exit 9; \
                    for name in disk mem zero2; do chmod 666 $at$name; (head -c 1 $at$name || echo > $at$name) 2>/dev/null && echo opened $at$name; done; \
                  done; true";
    let ran = lab.run(lab.change(script)).unwrap();
    assert_eq!((ran.text().as_str(), ran.outcome.exit), ("", Exit::Code(0)));
    assert_eq!(lab.entries(&ran.outcome.layer.unwrap())["disk"], "b 254:0 666");
}

fn what_the_sandbox_shows_cannot_be_changed(lab: &Lab) {
    let machine = |path: &str| fs::read(path).unwrap_or_default();
    let before = (machine("/etc/hosts"), machine("/etc/resolv.conf"));
    let null = || {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata("/dev/null").unwrap();
        (found.uid(), found.mode(), found.rdev())
    };
    let device = null();
    for network in [Network::None, Network::Host] {
        let left = all_fail(
            lab,
            network,
            &[
                "echo x >> /etc/hosts",
                "echo x > /etc/resolv.conf",
                "rm /etc/hosts",
                "mv /etc/resolv.conf /x",
                "ln -sf /x /etc/hosts",
                "chmod 777 /etc/hosts",
                "chmod 600 /dev/null",
                "chown 1:1 /dev/null",
                "rm /dev/null",
                "rm -r /proc",
                "rmdir /sys",
            ],
        );
        assert!(left.keys().all(|path| path == "etc"), "{left:?}");
    }
    assert_eq!((machine("/etc/hosts"), machine("/etc/resolv.conf")), before);
    assert_eq!(null(), device);
}

fn another_root_is_no_way_out(lab: &Lab) {
    let outside = lab.dir.path().join("outside");
    fs::write(&outside, "x").unwrap();
    let path = outside.display();
    lab.program("leave", LEAVE);
    // `chroot` works there, as package tools need; the old way out of it ends in the sandbox's own root.
    let script = format!(
        "mkdir /in && chroot / true && leave && ! cat {path} 2>/dev/null && ! cat /proc/self/root{path} 2>/dev/null && echo inside"
    );
    assert_eq!(lab.said(lab.change(&script)), "/in\ninside");
}

/// Leaves a root below its own by a directory kept open, and says where it comes to be.
const LEAVE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    int kept = open("/", O_RDONLY);
    if (chroot("/in") != 0 || fchdir(kept) != 0) return 1;
    for (int up = 0; up < 100; up++) if (chdir("..") != 0) return 2;
    if (chroot(".") != 0) return 3;
    if (access("/in", F_OK) != 0 || access("/bin/leave", F_OK) != 0) return 4;
    puts("/in");
    return 0;
}
"#;

fn a_root_that_is_emptied(lab: &Lab) {
    let image = lab.room.image("busybox");
    let before = crate::lab::entries(&image);
    let layer = lab.layer(lab.change("busybox rm -rf /* 2>/dev/null; echo > /left"));
    let entries = lab.entries(&layer);
    assert_eq!(entries["left"], "644 \"\\n\"");
    for name in ["bin", "home", "usr", "root", "data"] {
        assert_eq!(entries[name], "whiteout", "{name}");
    }
    // Of the sandbox's own places nothing is left but what the image had.
    assert!(["proc", "dev", "sys"].iter().all(|name| !entries.contains_key(*name)), "{entries:?}");
    assert_eq!(crate::lab::entries(&image), before);
    let error = lab.run(lab.change_on(lab.snapshot(&[layer]), "true")).unwrap_err().to_string();
    assert!(error.starts_with("program not found: sh"), "{error}");
    assert_eq!(lab.said(lab.change("echo next")), "next");
}

fn what_builds_leave_running_ends(lab: &Lab) {
    let script = "setsid sh -c 'trap \"\" TERM HUP INT; while :; do echo x >> /log; done' & nohup sleep 1000 & \
                  while [ ! -s /log ]; do usleep 1000; done; echo done";
    let layer = lab.layer(lab.change(script));
    let length = || fs::metadata(lab.layers.path(&layer).join("log")).unwrap().len();
    let first = length();
    assert_eq!(lab.said(lab.change("ps | grep -c '[s]leep 1000' || true")), "0");
    assert_eq!(length(), first, "nobody writes to a layer that is kept");
    assert_eq!(lab.layers.open_drafts(), 0);
}

fn ten_thousand_files(lab: &Lab) {
    let script = "mkdir /many && cd /many && for d in $(seq 100); do mkdir $d && for f in $(seq 100); do echo > $d/$f; done; done";
    let layer = lab.layer(lab.change(script));
    assert_eq!(lab.entries(&layer).len(), 1 + 100 + 10_000);
    let layer = lab.layer(lab.change_on(lab.snapshot(&[layer]), "rm -r /many/1* && mv /many/2 /two"));
    let entries = lab.entries(&layer);
    assert_eq!(entries.values().filter(|what| *what == "whiteout").count(), 12 + 1);
    assert_eq!(entries.keys().filter(|path| path.starts_with("two/")).count(), 100);
}

fn the_image_below_stays_as_it_is(lab: &Lab) {
    let image = lab.room.image("busybox");
    let before = crate::lab::entries(&image);
    lab.layer(lab.change("chmod -R 700 /etc /home; echo x >> /etc/passwd; ln /bin/busybox /linked; rm /data; mkdir /data; echo > /usr/share/x; : > /etc/group"));
    assert_eq!(crate::lab::entries(&image), before);
}

fn a_hostile_image_cannot_lead_mounts_astray(lab: &Lab) {
    use std::os::unix::fs::symlink;
    let layer = lab.layers.add(|dir| {
        for name in ["dev", "proc", "sys"] {
            symlink(["../../../../etc", "/usr/share", "/home"][name.len() % 3], dir.join(name))?;
        }
        fs::create_dir(dir.join("etc"))?;
        symlink("/proc/self/fd/0", dir.join("etc/hosts"))?;
        symlink("../../../../../../etc/resolv.conf", dir.join("etc/resolv.conf"))?;
        symlink("/proc/self/fd", dir.join("run"))
    });
    let mut step = lab.change_on(lab.snapshot(&[layer]), "true");
    step.mounts =
        vec![quern_core::step::Mount::cache("/run/0", "c"), quern_core::step::Mount::cache("/run/x/y", "d")];
    let machine = fs::metadata("/etc").unwrap().modified().unwrap();
    // Whether it is refused or runs, the machine's files stay as they are.
    let _ = lab.run(step);
    let mut cwd = lab.change_on(lab.snapshot(&[layer]), "true");
    cwd.cwd = "/run/7/made".into();
    let _ = lab.run(cwd);
    assert_eq!(fs::metadata("/etc").unwrap().modified().unwrap(), machine);
    assert_eq!(lab.said(lab.change("echo next")), "next");
    assert_eq!(lab.layers.open_drafts(), 0);
}
