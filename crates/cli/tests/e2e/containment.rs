//! What a step can see and do: its datum, its output, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::space::{Space, pfs, shell, sleeps, text};

fn two_texts() -> Space {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/a", "one");
    space.put("texts@master:/b", "two");
    space
}

/// What a script prints for the first of two datums.
fn printed(lines: &[&str]) -> Vec<String> {
    let space = two_texts();
    space.create(&shell("look", pfs("texts", "/a"), lines));
    let flushed = space.flush("texts@master");
    flushed.ran();
    flushed.lines("look")
}

#[test]
fn a_datum_sees_its_own_files_only() {
    let seen = printed(&["find /pfs -type f -o -type l | sort", "ls /pfs"]);
    assert_eq!(seen, ["/pfs/texts/a", "out", "texts"]);
}

#[test]
fn the_environment_is_the_documented_one() {
    let space = two_texts();
    let mut spec = shell("look", pfs("texts", "/a"), &["env | sort", "pwd"]);
    spec["transform"]["env"] = json!({ "MINE": "yes" });
    spec["transform"]["working_dir"] = json!("/tmp");
    space.create(&spec);
    let ran = {
        let mut command = space.command(&["flush", "commit", "texts@master", "--progress=rawjson"]);
        command.env("SECRET_OF_THE_CALLER", "x");
        command.output().expect("quern runs")
    };
    assert!(ran.status.success());
    let seen = space.quern("logs -p look").ok();
    let head = space.names("list commit texts", "id")[0].clone();
    let job = text(&space.newest_job("look")["id"]);
    for line in [
        "MINE=yes".to_owned(),
        "texts=/pfs/texts/a".into(),
        format!("texts_COMMIT={head}"),
        format!("PACH_JOB_ID={job}"),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in\n{seen}");
    }
    assert!(!seen.contains("SECRET_OF_THE_CALLER") && !seen.contains("QUERN_STATE"), "{seen}");
    assert!(!seen.contains(&space.path("home").display().to_string()), "{seen}");
    assert_eq!(seen.lines().last(), Some("/tmp"), "the working directory is the spec's");
}

#[test]
fn only_the_output_and_tmp_can_be_written() {
    let space = two_texts();
    let attempt = "try() { if (echo x > \"$1\") 2>/dev/null; then echo \"wrote $1\"; fi; }";
    let paths = [
        "/etc/x",
        "/usr/bin/x",
        "/x",
        "/pfs/x",
        "/pfs/texts/x",
        "/pfs/texts/a",
        "/proc/sys/kernel/hostname",
        "/sys/x",
        "/bin/sh",
    ];
    let mut lines = vec![attempt.to_owned()];
    lines.extend(paths.iter().map(|path| format!("try {path}")));
    lines.extend(["try /pfs/out/mine", "try /tmp/mine", "cat /pfs/texts/a"].map(str::to_owned));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    space.create(&shell("look", pfs("texts", "/a"), &lines));
    let flushed = space.flush("texts@master");
    flushed.ran();
    let seen = flushed.lines("look");
    let harmless = ["wrote /pfs/out/mine", "wrote /tmp/mine", "wrote /pfs/texts/x", "wrote /pfs/texts/a"];
    let bad: Vec<&String> =
        seen.iter().filter(|l| l.starts_with("wrote") && !harmless.contains(&l.as_str())).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(
        seen.contains(&"wrote /pfs/out/mine".to_owned()) && seen.contains(&"wrote /tmp/mine".to_owned()),
        "{seen:?}"
    );
    assert_eq!(space.names("glob file look@master:/**", "path"), ["/mine"]);
    assert_eq!(space.get("texts@master:/a"), "one", "an input cannot be changed");
    space.quern("doctor").ok();
}

#[test]
fn a_step_is_alone_and_without_network() {
    let seen = printed(&[
        "echo processes $(ls /proc | grep -c '^[0-9]*$')",
        "echo interfaces $(ls /sys/class/net 2>/dev/null | grep -vc '^lo$')",
        "if (exec 3<>/dev/tcp/1.1.1.1/53) 2>/dev/null; then echo connected; fi",
        "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 2)\" 2>/dev/null && echo connected || true",
        "hostname",
    ]);
    let processes: u32 = seen[0].trim_start_matches("processes ").parse().expect("a number");
    assert!(processes < 12, "only its own: {seen:?}");
    assert!(!seen.contains(&"connected".to_owned()), "{seen:?}");
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has it");
    assert_ne!(seen.last().map(String::as_str), Some(own.trim()), "a host name of its own");
}

#[test]
fn the_callers_files_are_not_shown() {
    let space = two_texts();
    space.write("secret", "secret");
    let secret = space.path("secret").display().to_string();
    let state = space.path("state").display().to_string();
    let lines = [
        format!("if [ -e {secret} ] || [ -e {state} ]; then echo seen; fi"),
        "ls -A /tmp /home /root 2>/dev/null | grep -v : || true".into(),
    ];
    space.create(&shell("look", pfs("texts", "/a"), &lines.each_ref().map(String::as_str)));
    let flushed = space.flush("texts@master");
    flushed.ran();
    let seen: Vec<String> = flushed.lines("look").into_iter().filter(|line| !line.is_empty()).collect();
    assert_eq!(seen, [] as [&str; 0]);
}

#[test]
fn privileges_are_gone() {
    let seen = printed(&[
        "grep NoNewPrivs /proc/self/status",
        "grep Seccomp: /proc/self/status",
        "mount -t tmpfs none /tmp 2>/dev/null && echo mounted || true",
        "unshare -U true 2>/dev/null && echo unshared || true",
        "mknod /pfs/out/device c 1 3 2>/dev/null && echo made || true",
        "chroot /tmp true 2>/dev/null && echo rooted || true",
    ]);
    assert_eq!(seen, ["NoNewPrivs:\t1", "Seccomp:\t2"]);
}

#[test]
fn outputs_that_lead_elsewhere_are_refused() {
    for make in [
        "ln -s /etc/passwd /pfs/out/link",
        "ln -s ../../../../etc/passwd /pfs/out/link",
        "mkfifo /pfs/out/pipe",
    ] {
        let space = two_texts();
        let mut spec = shell("leak", pfs("texts", "/a"), &[make]);
        spec["datum_tries"] = json!(1);
        space.create(&spec);
        space.flush("texts@master").fails(1);
        let reason = text(&space.newest_job("leak")["reason"]);
        assert!(reason.contains("link") || reason.contains("pipe"), "{make}: {reason}");
    }
    let space = two_texts();
    space.create(&shell(
        "fine",
        pfs("texts", "/a"),
        &["cp /pfs/texts/a /pfs/out/a; ln -s a /pfs/out/b; mkdir /pfs/out/empty"],
    ));
    space.flush("texts@master").ran();
    assert_eq!(space.names("glob file fine@master:/**", "path"), ["/a", "/b", "/empty"]);
}

#[test]
fn a_step_that_forks_without_end_is_contained() {
    let space = two_texts();
    let mut spec = shell("bomb", pfs("texts", "/a"), &["while :; do sleep 1234 & done"]);
    spec["datum_tries"] = json!(1);
    spec["datum_timeout"] = json!("3s");
    space.create(&spec);
    let start = Instant::now();
    space.flush("texts@master").fails(1);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(!sleeps("1234"), "nothing is left over");
    space.update(&shell("bomb", pfs("texts", "/a"), &["true"]));
    space.flush("texts@master").ran();
}

#[test]
fn locked_outputs_and_much_text_do_no_harm() {
    let space = two_texts();
    let lines = [
        "mkdir /pfs/out/d; echo x > /pfs/out/d/f; chmod 000 /pfs/out/d/f /pfs/out/d",
        "yes 'many words on a line' | head -n 20000",
        "printf 'no end of line'",
    ];
    space.create(&shell("much", pfs("texts", "/a"), &lines));
    space.quern("flush commit texts@master --progress=quiet").ok();
    assert_eq!(space.get("much@master:/d/f"), "x\n");
    let logs = space.quern("logs -p much").ok();
    assert!(logs.ends_with("no end of line\n") || logs.ends_with("no end of line"), "{}", logs.len());
    assert!(logs.lines().count() > 10_000, "{}", logs.lines().count());
}

#[test]
fn the_executable_bit_is_kept() {
    let space = Space::with_repos(&["tools"]);
    let path = space.write("run", "#!/bin/sh\necho it ran\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
    space.quern("put file tools@master -f run").ok();
    assert_eq!(space.json("inspect file tools@master:/run")["executable"], json!(true));
    space.create(&shell(
        "use",
        pfs("tools", "/*"),
        &["/pfs/tools/run > /pfs/out/said; cp /pfs/tools/run /pfs/out/run"],
    ));
    space.flush("tools@master").ran();
    assert_eq!(space.get("use@master:/said"), "it ran\n");
    assert_eq!(space.json("inspect file use@master:/run")["executable"], json!(true));
}

#[test]
fn an_ordinary_user_needs_no_privileges() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: these tests run as an ordinary user, so all others show it");
        return;
    }
    let space = Space::new();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(space.path(""), open).expect("own folder");
    space.write("data/a", "one");
    let spec = shell(
        "look",
        pfs("texts", "/*"),
        &["cp /pfs/texts/a /pfs/out/a; if (echo x > /etc/x) 2>/dev/null; then exit 1; fi"],
    );
    space.write("look.json", spec.to_string());
    let steps = "set -eu; $run \"$0\" create repo texts; $run \"$0\" put file texts@master:/ -r -f data; \
        $run \"$0\" create pipeline -f look.json; $run \"$0\" flush commit texts@master; $run \"$0\" get file look@master:/a";
    let run = "run='setpriv --reuid=65534 --regid=65534 --clear-groups'; ";
    let ran = space.script(&format!("{run}{steps}"));
    assert!(ran.ok().ends_with("one"), "{}", ran.stderr());
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(space.path("state")).expect("it was made"));
    assert_eq!(owner, 65534);
}
