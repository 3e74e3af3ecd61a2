//! Attempts to leave the sandbox, or to change what is not the step's.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use quern_core::event::Stream;
use quern_core::port::Exit;

use crate::lab::{BUSYBOX, HOST, Lab, as_root, input, step};

checks! {
    nothing_but_outputs_can_be_written,
    the_kernel_does_not_obey,
    the_first_process_cannot_be_touched,
    files_of_the_machine_are_not_there,
    links_in_outputs_are_kept_and_not_followed,
    setuid_programs_have_no_effect,
    caches_cannot_lead_mounts_astray,
    links_in_an_image_stay_inside,
    the_machines_own_root_is_protected,
}

/// Runs each script, which must fail.
fn all_fail(lab: &Lab, scripts: &[&str]) {
    let tree = lab.room.directory(&[("file", "x")]);
    let inline = lab.room.inline(&[("file", "x")]);
    for script in scripts {
        let mut step = lab.sh(&format!("if {script}; then echo done; else echo refused; fi"));
        step.inputs = vec![input("/pfs/in", tree), input("/pfs/inline", inline)];
        let ran = lab.run(step).unwrap();
        assert_eq!(ran.on(Stream::Stdout).lines().last(), Some("refused"), "{script}: {ran:?}");
    }
}

fn nothing_but_outputs_can_be_written(lab: &Lab) {
    all_fail(
        lab,
        &[
            "touch /new",
            "touch /usr/new",
            "touch /pfs/new",
            "touch /pfs/in/new",
            "touch /pfs/inline/new",
            "echo y > /pfs/in/file",
            "echo y > /pfs/inline/file",
            "rm /pfs/in/file",
            "rm -r /bin/true",
            "chmod 777 /pfs/in/file",
            "chmod 777 /pfs/inline/file",
            "chown 1 /bin/busybox",
            "echo x >> /etc/passwd",
            "touch /dev/new",
            "chmod 600 /dev/null",
            "chown 7 /dev/null",
            "chmod 600 /dev/stdin",
            "chown 7 /proc/self/fd/0",
            "chmod 600 /proc/keys",
            "chmod 700 /dev",
            "touch /dev/pts/new",
            "ln /pfs/in/file /pfs/out/hard",
        ],
    );
}

fn the_kernel_does_not_obey(lab: &Lab) {
    all_fail(
        lab,
        &[
            "mount -o remount,rw /",
            "mount -o remount,rw /pfs/in",
            "mount -t tmpfs none /tmp",
            "mount -t proc none /tmp",
            "mount --bind /pfs/out /usr",
            "umount /proc",
            "umount -l /tmp",
            "unshare -m true",
            "unshare -U true",
            "unshare -r -m true",
            "unshare -n true",
            "chroot / true",
            "(mkdir /tmp/r && chroot /tmp/r /bin/sh)",
            "(cd /tmp && pivot_root . .)",
            "mknod /tmp/disk b 254 0",
            "mknod /pfs/out/disk b 254 0",
            "mknod /tmp/null c 1 3",
            "hostname other",
            "(date -s 2000-01-01; [ $(date +%Y) = 2000 ])",
            "swapoff -a /pfs/in/file",
            "(echo 1 > /proc/sys/kernel/sysrq)",
            "(echo h > /proc/sysrq-trigger)",
            "(echo core > /proc/sys/kernel/core_pattern)",
            "(echo 0 > /proc/self/oom_score_adj)",
            "(echo 1 > /sys/kernel/uevent_helper)",
            "[ -s /proc/kcore ]",
            "[ -s /proc/keys ]",
            "[ -s /proc/timer_list ]",
            "ip link set lo down",
            "ip link add dummy0 type dummy",
            "ls /sys/fs/cgroup",
        ],
    );
}

fn the_first_process_cannot_be_touched(lab: &Lab) {
    all_fail(
        lab,
        &[
            "ls /proc/1/root/",
            "[ $(ls /proc/1/fd | wc -l) -gt 7 ]",
            "readlink /proc/1/fd/0",
            "cat /proc/1/fd/0",
            "(echo x > /proc/1/fd/6)",
            "readlink /proc/1/cwd",
            "cat /proc/1/environ",
            "cat /proc/1/maps",
            "(echo x > /proc/1/mem)",
        ],
    );
    // It ignores what comes from inside, and no other process of the machine can be named.
    let said = lab.said(lab.sh("kill -9 1; kill -TERM 1; kill -STOP 1; echo $$; echo /proc/[0-9]*"));
    assert_eq!(said, "2\n/proc/1 /proc/2");
    let ran = lab.run(lab.sh("kill -9 -1; echo alone")).unwrap();
    assert!(matches!(ran.outcome.exit, Exit::Code(0) | Exit::Signal(9)), "{ran:?}");
    assert_eq!(lab.said(lab.sh("echo next")), "next");
}

fn files_of_the_machine_are_not_there(lab: &Lab) {
    let secret = lab.dir.path().join("host-secret");
    fs::write(&secret, "x").unwrap();
    let path = secret.display();
    all_fail(
        lab,
        &[
            &format!("cat {path}"),
            &format!("cat /proc/self/root{path}"),
            &format!("cat /pfs/out/../../../../../..{path}"),
            &format!("(cd /proc/self/cwd/../../.. && cat .{path})"),
            "[ -n \"$(ls -A /root)\" ]",
            "[ -n \"$(ls -A /tmp)\" ]",
            "[ -n \"$(ls -A /dev/shm)\" ]",
            "ls /sys",
            "ls /boot",
            "ls /var",
            "[ -b /dev/vda -o -b /dev/sda -o -e /dev/mem -o -e /dev/kmsg -o -e /dev/fuse ]",
        ],
    );
    let mut linked = lab.sh("cat /pfs/in/away || cat /pfs/in/up");
    let up = format!("-> ../../../..{path}");
    linked.inputs.push(input("/pfs/in", lab.room.directory(&[("away", &format!("-> {path}")), ("up", &up)])));
    assert_eq!(lab.run(linked).unwrap().outcome.exit, Exit::Code(1));
}

fn links_in_outputs_are_kept_and_not_followed(lab: &Lab) {
    let script = "cd /pfs/out; ln -s /etc/passwd a; ln -s ../../../../etc b; ln -s /proc/1/root c; ln -s d d";
    let ran = lab.run(lab.sh(script)).unwrap();
    let expected =
        r#"{"a": "-> /etc/passwd", "b": "-> ../../../../etc", "c": "-> /proc/1/root", "d": "-> d"}"#;
    assert_eq!(format!("{:?}", ran.outputs[0]), expected);
}

fn setuid_programs_have_no_effect(lab: &Lab) {
    if !as_root() {
        return;
    }
    let program = lab.room.image("busybox").join("home/busybox");
    fs::copy("/usr/bin/busybox", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut step = step(
        BUSYBOX,
        &[
            "sh",
            "-c",
            "cp /bin/busybox /pfs/out/; chmod 6755 /pfs/out/busybox; /home/busybox id -u; /pfs/out/busybox id -u; grep -E 'Cap(Eff|Bnd)' /proc/self/status",
        ],
    );
    step.user = Some("build".into());
    let said = lab.said(step);
    assert_eq!(said, "1000\n1000\nCapEff:\t0000000000000000\nCapBnd:\t00000000000004fb");
}

fn caches_cannot_lead_mounts_astray(lab: &Lab) {
    use quern_core::step::Mount;
    let cache = |target: &str, id: &str| Mount::cache(target, id);
    let mut plant = lab.sh("ln -s /etc /cache/inner");
    plant.mounts = vec![cache("/cache", "outer")];
    lab.said(plant);
    let mut step = lab.sh("touch /cache/inner/x; ls /etc/x");
    step.mounts = vec![cache("/cache", "outer"), cache("/cache/inner", "inner")];
    let machine = fs::metadata("/etc").unwrap().modified().unwrap();
    // Whether it is refused or lands on the sandbox's own /etc, the machine's stays as it is.
    let _ = lab.run(step);
    assert_eq!(fs::metadata("/etc").unwrap().modified().unwrap(), machine);
    assert!(!fs::exists("/etc/x").unwrap());
    assert_eq!(lab.said(lab.sh("echo next")), "next");
}

fn links_in_an_image_stay_inside(lab: &Lab) {
    let image = lab.room.image("busybox");
    for (name, target) in [("dev", "/etc"), ("proc", "../../../../usr/share")] {
        std::os::unix::fs::symlink(target, image.join(name)).unwrap();
    }
    fs::remove_dir(image.join("tmp")).unwrap();
    std::os::unix::fs::symlink("/../../home", image.join("tmp")).unwrap();
    lab.said(step(BUSYBOX, &["true"]));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", lab.launchers()[0])).unwrap();
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in ["/etc", "/usr/share", "/home"] {
        assert!(!points.contains(&point), "{points:?}");
    }
}

fn the_machines_own_root_is_protected(lab: &Lab) {
    let script = "touch /usr/x /etc/x /x /usr/bin/x; ls /root /home /var /boot /sys; cat /etc/shadow; cat /etc/passwd | wc -l; ls /";
    let ran = lab.run(step(HOST, &["sh", "-c", script])).unwrap();
    let out = ran.on(Stream::Stdout);
    let out: Vec<&str> = out.lines().collect();
    assert_eq!(out.first(), Some(&"2"), "{}", ran.text());
    assert!(
        out[1..].iter().all(|name| "bin dev etc lib lib64 pfs proc sbin tmp usr".contains(name)),
        "{out:?}"
    );
}
