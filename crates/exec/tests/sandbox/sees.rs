//! What a step sees, and what it does not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quern_core::event::Stream;
use quern_core::step::{Attempt, Mount, Network};

use crate::lab::{BUSYBOX, HOST, LAYERED, Lab, as_root, input, step};

checks! {
    exactly_these_mounts,
    no_privileges,
    exactly_this_environment,
    only_declared_data,
    trees_from_memory_and_from_disk,
    private_memory_is_fresh,
    no_network_but_loopback,
    the_machines_network_on_request,
    its_own_names_and_processes,
    working_directory,
    users,
    caches_last,
    secrets,
    places_the_image_lacks,
    layers,
    the_image_stays_as_it_is,
    a_new_image_at_an_old_place,
    an_image_cannot_stall_the_start,
    devices,
}

fn exactly_these_mounts(lab: &Lab) {
    let mut step = lab.sh("while read a b c d at flags rest; do echo $at ${flags%%,*} ${rest#*- }; done < /proc/self/mountinfo | cut -d' ' -f1-3");
    step.inputs =
        vec![input("/pfs/dir", lab.room.directory(&[])), input("/pfs/in", lab.room.inline(&[("a", "b")]))];
    let said = lab.said(step);
    let mut mounts: Vec<_> = said.lines().collect();
    // Nobody but root can make devices; others are shown the machine's, each by a mount.
    mounts.retain(|line| as_root() || !line.ends_with(" devtmpfs"));
    mounts.sort_unstable();
    let disk = mounts.iter().find_map(|line| line.strip_prefix("/pfs/out rw ")).unwrap().to_owned();
    let mut expected = vec![
        "/ ro overlay".to_owned(),
        "/dev ro tmpfs".into(),
        "/dev/pts rw devpts".into(),
        "/dev/shm rw tmpfs".into(),
        format!("/pfs/dir ro {disk}"),
        "/pfs/in ro tmpfs".into(),
        format!("/pfs/out rw {disk}"),
        "/proc ro proc".into(),
        "/proc/1 ro tmpfs".into(),
        "/tmp rw tmpfs".into(),
    ];
    let masked =
        ["/proc/kcore", "/proc/keys", "/proc/timer_list"].into_iter().filter(|path| Path::new(path).exists());
    if as_root() {
        expected.extend(masked.map(|path| format!("{path} ro tmpfs")));
    }
    expected.sort_unstable();
    assert_eq!(mounts, expected);
}

fn no_privileges(lab: &Lab) {
    let script = "grep -E '^(NoNewPrivs|Seccomp|Cap...):' /proc/self/status | tr -d '\\t'; umask";
    let root = "CapInh:0000000000000000\nCapPrm:00000000000004fb\nCapEff:00000000000004fb\nCapBnd:00000000000004fb\n\
                CapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n0022";
    assert_eq!(lab.said(lab.sh(script)), root);
    if as_root() {
        let mut step = lab.sh(script);
        step.user = Some("1000".into());
        let none = "0000000000000000";
        let user = root.replace(
            "CapPrm:00000000000004fb\nCapEff:00000000000004fb",
            &format!("CapPrm:{none}\nCapEff:{none}"),
        );
        assert_eq!(lab.said(step), user);
    }
}

fn exactly_this_environment(lab: &Lab) {
    let mut plain = step(BUSYBOX, &["env"]);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lab.said(plain.clone()), path);
    for (name, value) in [("A", "1"), ("B", "two words = \"x\""), ("PATH", "/bin"), ("odd-name", "")] {
        plain.env.insert(name.into(), value.into());
    }
    let mut attempt = Attempt::first(plain);
    attempt.env.insert("A".into(), "over".into());
    attempt.env.insert("JOB".into(), "7".into());
    let said = lab.attempt(&attempt, &quern_core::port::Cancel::default()).unwrap().text();
    assert_eq!(said, "A=over\nB=two words = \"x\"\nJOB=7\nPATH=/bin\nodd-name=");
}

fn only_declared_data(lab: &Lab) {
    let unseen = lab.room.directory(&[("unseen", "x")]);
    let mut step = lab.sh("find /pfs | sort");
    step.inputs = vec![input("/pfs/in", lab.room.inline(&[("a/b", "x")]))];
    assert_eq!(lab.said(step), "/pfs\n/pfs/in\n/pfs/in/a\n/pfs/in/a/b\n/pfs/out");
    let mut other = lab.sh("find /pfs | sort");
    other.inputs = vec![input("/pfs/else", unseen)];
    assert_eq!(lab.said(other), "/pfs\n/pfs/else\n/pfs/else/unseen\n/pfs/out");
}

fn trees_from_memory_and_from_disk(lab: &Lab) {
    let files = [
        ("d/e/file", "text"),
        ("run", "#!/bin/sh\necho ran"),
        ("z-link", "-> d/e/file"),
        ("näme \n2", "odd"),
    ];
    for tree in [lab.room.inline(&files), lab.room.directory(&files)] {
        let mut step = lab.sh("cd /pfs/in; cat d/e/file; echo; ./run; readlink z-link; cat z-link; echo; cat n*; [ ! -x d/e/file ] && echo plain");
        step.inputs = vec![input("/pfs/in", tree)];
        assert_eq!(lab.said(step), "text\nran\nd/e/file\ntext\noddplain");
    }
}

fn private_memory_is_fresh(lab: &Lab) {
    for _ in 0..2 {
        let said = lab.said(lab.sh("ls -A /tmp /dev/shm | wc -l; echo x > /tmp/x; echo y > /dev/shm/y; cp /bin/busybox /tmp/; /tmp/busybox echo runs"));
        assert_eq!(said, "3\nruns");
    }
}

fn no_network_but_loopback(lab: &Lab) {
    let counters = "sed 1,2d /proc/net/dev | tr -s ' ' | sed 's/^ //'; ls /proc/net/tcp > /dev/null";
    let silent = format!("lo:{}", " 0".repeat(16));
    assert_eq!(lab.said(lab.sh(counters)), silent);
    // A server, and a client that has nothing to say (nobody types at a terminal of its own).
    let talk = "echo answer | nc -l -p 8080 127.0.0.1 & \
                while ! nc 127.0.0.1 8080 < /dev/ptmx 2> /dev/null; do usleep 1000; done";
    assert_eq!(lab.said(lab.sh(talk)), "answer");
    // The next step does not see that there was one before it.
    assert_eq!(lab.said(lab.sh(counters)), silent);
    assert_eq!(lab.said(lab.sh(talk)), "answer");
    let outside = lab.said(lab.sh("ip route | wc -l; nc -w 1 192.0.2.1 80 2>&1 | grep -c unreachable"));
    assert_eq!(outside, "0\n1");
}

fn the_machines_network_on_request(lab: &Lab) {
    let names = |table: &str| -> BTreeSet<String> {
        table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    };
    for network in [Network::Host, Network::None, Network::Host] {
        let mut step = lab.sh("cat /proc/net/dev");
        step.network = network;
        let seen = names(&lab.said(step));
        let expected = match network {
            Network::Host => names(&fs::read_to_string("/proc/net/dev").unwrap()),
            Network::None => BTreeSet::from(["lo".to_owned()]),
        };
        assert_eq!(seen, expected);
    }
    for image in [BUSYBOX, HOST] {
        let mut step = step(image, &["cat", "/etc/hosts"]);
        step.network = Network::Host;
        let machine = fs::read_to_string("/etc/hosts").unwrap();
        // The prepared /etc of the machine's own root has no such file here, and gets none.
        let ran = lab.run(step).unwrap();
        assert_eq!(ran.on(Stream::Stdout), if image == BUSYBOX { machine.trim_end() } else { "" });
    }
}

fn its_own_names_and_processes(lab: &Lab) {
    assert_eq!(lab.said(lab.sh("hostname; echo $$; echo /proc/[0-9]*")), "quern\n2\n/proc/1 /proc/2");
    let own = lab.said(lab.sh("for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done"));
    for (name, seen) in ["mnt", "pid", "ipc", "uts", "net"].iter().zip(own.lines()) {
        let machine = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(machine.to_str(), Some(seen));
    }
}

fn working_directory(lab: &Lab) {
    for cwd in ["/", "/usr/share", "/made/for/this", "/pfs/out", "/tmp", "/tmp/sub/dir", "/data/below"] {
        let mut step = lab.sh("pwd -P");
        step.cwd = cwd.into();
        assert_eq!(lab.said(step), cwd.replace("/data", "/usr/share"), "{cwd}");
    }
    let mut missing = lab.sh("pwd");
    missing.cwd = "/pfs/out/nowhere".into();
    assert!(lab.run(missing).unwrap_err().to_string().contains("working directory /pfs/out/nowhere"));
}

fn users(lab: &Lab) {
    if !as_root() {
        let mut step = lab.sh("id -u; id -g; touch /pfs/out/f");
        assert_eq!(lab.said(step.clone()), "0\n0");
        step.user = Some("build".into());
        assert!(lab.run(step).unwrap_err().to_string().contains("user `build`"));
        return;
    }
    let null = || fs::metadata("/dev/null").map(|found| (found.uid(), found.gid(), found.mode())).unwrap();
    let before = null();
    for (user, expected) in [
        (None, "0 0 0"),
        (Some("build"), "1000 1001 44 1001"),
        (Some("1000:44"), "1000 44 44"),
        (Some("77:88"), "77 88 88"),
    ] {
        let mut step = lab.sh("echo $(id -u) $(id -g) $(tr '\\t' ' ' < /proc/self/status | grep ^Groups: | cut -d: -f2); touch /pfs/out/f /cache/$(id -u); echo x > /dev/stdout; cat /s");
        step.user = user.map(str::to_owned);
        step.mounts = vec![Mount::cache("/cache", "c"), Mount::secret("/s", "s")];
        let mut attempt = Attempt::first(step);
        attempt.secrets.insert("s".into(), b"secret".to_vec());
        let ran = lab.attempt(&attempt, &quern_core::port::Cancel::default()).unwrap();
        assert_eq!(ran.text(), format!("{expected}\nx\nsecret"), "{user:?}");
        assert!(ran.outputs[0].contains_key("f"));
        assert_eq!(null(), before, "the null device of the machine stays as it is");
    }
}

fn caches_last(lab: &Lab) {
    let mut step = lab.sh("echo x >> /root/.cache/log; echo y >> /root/.cache/deep/er/log; cat /root/.cache/log /root/.cache/deep/er/log");
    step.mounts = vec![Mount::cache("/root/.cache", "one"), Mount::cache("/root/.cache/deep/er", "two")];
    assert_eq!(lab.said(step.clone()), "x\ny");
    assert_eq!(lab.said(step), "x\nx\ny\ny");
    let mut in_tmp = lab.sh("ls /tmp/c; touch /tmp/other");
    in_tmp.mounts = vec![Mount::cache("/tmp/c", "two")];
    assert_eq!(lab.said(in_tmp), "log");
}

fn secrets(lab: &Lab) {
    let value = "hunter2 with\nlines";
    let mut step = lab.sh("cat /run/secrets/token; echo; ls -l /run/secrets/token | cut -c1-10; env; cat /proc/self/mountinfo; ls -A /tmp; (echo x > /run/secrets/token) 2>/dev/null || echo kept; cp /tmp/in/token /pfs/out/");
    step.mounts = vec![Mount::secret("/run/secrets/token", "token"), Mount::secret("/tmp/in/token", "token")];
    let mut attempt = Attempt::first(step);
    attempt.secrets.insert("token".into(), value.as_bytes().to_vec());
    let ran = lab.attempt(&attempt, &quern_core::port::Cancel::default()).unwrap();
    let text = ran.text();
    let rest = text.strip_prefix(&format!("{value}\n-r--------\n")).unwrap();
    assert!(!rest.contains("hunter2") && rest.ends_with("\nkept"), "{text}");
    assert_eq!(ran.outputs[0]["token"], value);
}

fn places_the_image_lacks(lab: &Lab) {
    let mut step = lab.sh("cat /data/new/in/f /deep/er/f /usr/share/new/in/f; ls -ld /root /home/build | cut -c1-10; ls /root /usr");
    let tree = lab.room.inline(&[("f", "seen\n")]);
    step.inputs = vec![input("/data/new/in", tree), input("/deep/er", tree), input("/root/in", tree)];
    assert_eq!(lab.said(step), "seen\nseen\nseen\ndrwxr-xr-x\ndrwx------\n/root:\nin\n\n/usr:\nshare");
}

fn layers(lab: &Lab) {
    let mut step = step(
        LAYERED,
        &["sh", "-c", "cat /etc/layer; echo; cat /pfs/in/f; id -u; touch /etc/x || echo read-only"],
    );
    step.inputs = vec![input("/pfs/in", lab.room.inline(&[("f", "seen\n")]))];
    assert!(lab.said(step).starts_with("upper\nseen\n0\n"));
    assert_eq!(
        lab.said(crate::lab::step(HOST, &["sh", "-c", "readlink /bin; cat /etc/passwd | wc -l"])),
        "usr/bin\n2"
    );
}

fn the_image_stays_as_it_is(lab: &Lab) {
    let listing = || {
        let image = lab.room.image("busybox");
        let mut names: Vec<_> = walk(&image)
            .into_iter()
            .map(|path| (fs::symlink_metadata(&path).unwrap().modified().unwrap(), path))
            .collect();
        names.sort();
        names
    };
    let before = listing();
    let mut step = lab.sh("touch /bin/x /x /etc/x; rm -rf /bin /etc /usr; mkdir /new; true");
    step.cwd = "/place/dir".into();
    step.inputs =
        vec![input("/in/put", lab.room.inline(&[("f", "x")])), input("/bin/deep", lab.room.directory(&[]))];
    lab.said(step);
    assert_eq!(listing(), before);
}

fn a_new_image_at_an_old_place(lab: &Lab) {
    let (image, old) = (lab.room.image("busybox"), lab.room.image("old"));
    let script = "cat /etc/version 2> /dev/null || echo none";
    assert!(lab.said(lab.sh(script)).ends_with("none"));
    fs::rename(&image, &old).unwrap();
    assert!(lab.run(lab.sh(script)).unwrap_err().to_string().contains("a part of the image"));
    copy(&old, &image);
    fs::write(image.join("etc/version"), "2").unwrap();
    assert_eq!(lab.said(lab.sh(script)), "2");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&from, &to),
            kind if kind.is_symlink() => {
                std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
            }
            _ => drop(fs::copy(from, to).unwrap()),
        }
    }
}

fn an_image_cannot_stall_the_start(lab: &Lab) {
    let passwd = lab.room.image("busybox").join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut step = lab.sh("true");
    step.user = Some("build".into());
    assert!(lab.run(step).unwrap_err().to_string().contains("user `build` cannot be used"));
    assert_eq!(lab.said(lab.sh("echo next")), "next");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below =
        entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] });
    below.chain([dir.to_owned()]).collect()
}

fn devices(lab: &Lab) {
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
                  (echo x > /dev/full) 2> /dev/null || echo full; [ -t 0 ] || echo no terminal; \
                  (exec 3<> /dev/ptmx && ls /dev/pts); echo to-stderr > /dev/stderr; ls /dev";
    let expected = "3\n3\nfull\nno terminal\n0\nptmx\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero";
    let ran = lab.run(lab.sh(script)).unwrap();
    assert_eq!((ran.on(Stream::Stdout).as_str(), ran.on(Stream::Stderr).as_str()), (expected, "to-stderr"));
}
