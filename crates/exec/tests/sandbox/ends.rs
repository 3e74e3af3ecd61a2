//! How steps end, and what comes back of them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quern_core::event::Stream;
use quern_core::port::{Cancel, Exit};
use quern_core::step::Attempt;

use crate::lab::{BUSYBOX, HOST, Lab, input, step};

checks! {
    exit_codes_and_signals,
    outputs_come_in_order_and_only_on_success,
    programs_that_cannot_start,
    standard_input,
    streams_are_told_apart,
    a_flood_of_log_is_clipped,
    what_a_step_leaves_behind_ends_with_it,
    timeouts_end_even_the_stubborn,
    cancelling,
    usage_is_counted,
    steps_that_make_no_sense,
    missing_content_is_named,
    many_steps_at_once,
}

fn exit_codes_and_signals(lab: &Lab) {
    for (script, expected) in [
        ("exit 0", Exit::Code(0)),
        ("exit 3", Exit::Code(3)),
        ("exit 255", Exit::Code(255)),
        ("kill -TERM $$", Exit::Signal(15)),
        ("kill -KILL $$", Exit::Signal(9)),
        ("kill -SEGV $$", Exit::Signal(11)),
        ("kill -PIPE $$", Exit::Signal(13)),
        ("sh -c 'kill -TERM $$'; exit 7", Exit::Code(7)),
    ] {
        assert_eq!(lab.run(lab.sh(script)).unwrap().outcome.exit, expected, "{script}");
    }
    assert_eq!(lab.room.scratch_left(), 0);
}

fn outputs_come_in_order_and_only_on_success(lab: &Lab) {
    let mut two = lab.sh("mkdir -p /b/sub; echo 1 > /b/sub/x; echo 2 > /a/y; ln -s y /a/z; exit $CODE");
    two.outputs = vec!["/b".into(), "/a".into()];
    two.accept = vec![3];
    for (code, accepted) in [("0", true), ("3", true), ("4", false)] {
        two.env.insert("CODE".into(), code.into());
        let ran = lab.run(two.clone()).unwrap();
        if accepted {
            let text = format!("{:?}", ran.outputs);
            assert_eq!(text, r#"[{"sub/x": "1\n"}, {"y": "2\n", "z": "-> y"}]"#, "exit {code}");
        } else {
            assert!(ran.outcome.outputs.is_empty(), "exit {code}");
        }
    }
    assert_eq!((lab.room.scratch_left(), lab.room.discarded.load(Ordering::SeqCst)), (0, 2));
}

fn programs_that_cannot_start(lab: &Lab) {
    let files = [("orphan", "#!/no/such/interpreter\n"), ("plain", "data")];
    let tree = lab.room.directory(&files);
    for (program, expected) in [
        ("nowhere", "program not found: nowhere"),
        ("/bin/nowhere", "program not found: /bin/nowhere"),
        ("/pfs/in/orphan", "program /pfs/in/orphan cannot start: the interpreter"),
        ("/pfs/in/plain", "program /pfs/in/plain cannot be executed: Permission denied"),
        ("/pfs", "program /pfs cannot be executed: Permission denied"),
        ("/bin/sh/x", "program not found: /bin/sh/x"),
    ] {
        let mut step = step(BUSYBOX, &[program]);
        step.inputs.push(input("/pfs/in", tree));
        let error = lab.run(step).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{program}: {error}");
    }
    let long = "x".repeat(100_000);
    let error = lab.run(step(BUSYBOX, &[&long])).unwrap_err().to_string();
    assert!(error.contains("xxx") && error.len() < 5000, "{error}");
    let mut elsewhere = lab.sh("true");
    elsewhere.env.insert("PATH".into(), "/usr/share:/nowhere".into());
    assert!(lab.run(elsewhere).unwrap_err().to_string().starts_with("program not found: sh"));
    assert_eq!(lab.room.scratch_left(), 0);
    assert_eq!(lab.said(lab.sh("echo still works")), "still works");
}

fn standard_input(lab: &Lab) {
    let mut step = lab.sh("wc -c; readlink /proc/self/fd/0 | cut -c1-7");
    assert_eq!(lab.said(step.clone()), "0\n/dev/nu");
    step.stdin = vec![b'x'; 3 << 20];
    assert_eq!(lab.said(step).lines().next(), Some("3145728"));
    let mut unread = lab.sh("true");
    unread.stdin = vec![b'x'; 3 << 20];
    assert_eq!(lab.said(unread), "");
}

fn streams_are_told_apart(lab: &Lab) {
    let ran = lab.run(lab.sh("echo out; echo err >&2; printf last")).unwrap();
    let of =
        |stream| ran.lines.iter().filter(|(s, _)| *s == stream).map(|(_, l)| l.as_str()).collect::<Vec<_>>();
    assert_eq!((of(Stream::Stdout), of(Stream::Stderr)), (vec!["out", "last"], vec!["err"]));
}

fn a_flood_of_log_is_clipped(lab: &Lab) {
    let ran =
        lab.run(lab.sh("yes 0123456789 | head -c 50000000; head -c 9000000 /dev/zero >&2; exit 5")).unwrap();
    assert_eq!(ran.outcome.exit, Exit::Code(5));
    let bytes: usize = ran.lines.iter().map(|(_, line)| line.len() + 1).sum();
    assert!(bytes < 3 << 20, "{bytes}");
    assert!(ran.lines.last().unwrap().1.starts_with("quern: the step said more than 2 MiB"));
}

/// A number of seconds to sleep that no other test process uses.
pub fn long(tag: u32) -> String {
    format!("{tag}.{}", std::process::id())
}

/// Whether a process with this word in its command line runs on this machine.
pub fn runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}

fn what_a_step_leaves_behind_ends_with_it(lab: &Lab) {
    // They hold the pipes open and one has left the session; the step ends with its main process all the same.
    let long = long(86399);
    let ran = lab.run(lab.sh(&format!("sleep {long} & (setsid sleep {long} &) ; echo done"))).unwrap();
    assert_eq!((ran.outcome.exit, ran.text().as_str()), (Exit::Code(0), "done"));
    assert!(!runs(&long));
}

fn timeouts_end_even_the_stubborn(lab: &Lab) {
    let long = long(86398);
    let script = format!("trap '' TERM INT HUP; sleep {long} & echo begun; while :; do sleep {long}; done");
    let mut step = lab.sh(&script);
    step.timeout = Some(Duration::from_millis(1500));
    let ran = lab.run(step.clone()).unwrap();
    assert_eq!((ran.outcome.exit, ran.text().as_str()), (Exit::TimedOut, "begun"));
    assert!(ran.outcome.outputs.is_empty() && !runs(&long));
    step.timeout = Some(Duration::ZERO);
    assert_eq!(lab.run(step).unwrap().outcome.exit, Exit::TimedOut);
    let mut quick = lab.sh("true");
    quick.timeout = Some(Duration::MAX);
    assert_eq!(lab.run(quick).unwrap().outcome.exit, Exit::Code(0));
    assert_eq!(lab.room.scratch_left(), 0);
}

fn cancelling(lab: &Lab) {
    let long = long(86397);
    let attempt = Attempt::first(lab.sh(&format!("sleep {long}")));
    let set = Cancel::default();
    set.set();
    assert_eq!(lab.attempt(&attempt, &set).unwrap().outcome.exit, Exit::Cancelled);

    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        // The lab has one worker: one of the two runs and the other waits for it.
        let both = [0, 1].map(|_| scope.spawn(|| lab.attempt(&attempt, &cancel).unwrap().outcome.exit));
        while !runs(&long) && !both.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.set();
        for one in both {
            assert_eq!(one.join().unwrap(), Exit::Cancelled);
        }
    });
    assert!(!runs(&long));
    assert_eq!(lab.said(lab.sh("echo next")), "next");
    assert_eq!(lab.room.scratch_left(), 0);
}

fn usage_is_counted(lab: &Lab) {
    let mut step = lab.sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 20000000 /dev/zero | tail -c 20000000 | wc -c");
    step.outputs.clear();
    let usage = lab.run(step).unwrap().outcome.usage;
    assert!(usage.cpu_micros > 1000 && usage.wall_micros >= 1000, "{usage:?}");
    assert!(usage.peak_memory > 15 << 20, "{usage:?}");
}

fn steps_that_make_no_sense(lab: &Lab) {
    use quern_core::step::{Mount, Step};
    type Change = fn(&mut Step);
    let cases: [(Change, &str); 16] = [
        (|s| s.argv.clear(), "names no program"),
        (|s| s.argv.push("a\0b".into()), "NUL"),
        (|s| drop(s.env.insert("A=B".into(), String::new())), "environment variable"),
        (|s| s.platform.arch = "riscv64".into(), "linux/riscv64"),
        (|s| s.resources.gpus = Some(1), "accelerator"),
        (|s| s.cwd = "relative".into(), "working directory `relative`"),
        (|s| s.outputs.push("/a/../b".into()), "mount `/a/../b`"),
        (|s| s.outputs.push("/a/".into()), "mount `/a/`"),
        (|s| s.outputs.push("/".into()), "mount `/`"),
        (|s| s.outputs.push("/proc/x".into()), "/proc"),
        (|s| s.outputs.push("/dev".into()), "/dev"),
        (|s| s.outputs.push("/pfs/out".into()), "already"),
        (|s| s.outputs.push("/pfs/out/sub".into()), "inside"),
        (|s| s.mounts.push(Mount::secret("/s", "n")), "secret `n`"),
        (|s| s.outputs.push("/bin/sh/x".into()), "file in the image"),
        (|s| s.user = Some("nobody-knows".into()), "user `nobody-knows`"),
    ];
    for (change, expected) in cases {
        let mut step = lab.sh("true");
        change(&mut step);
        let error = lab.run(step).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(lab.room.scratch_left(), 0);
}

fn missing_content_is_named(lab: &Lab) {
    let nothing = quern_core::Digest::of(b"nothing");
    let mut step = lab.sh("true");
    step.inputs.push(input("/pfs/in", nothing));
    assert!(matches!(lab.run(step.clone()), Err(quern_core::port::PortError::Missing(d)) if d == nothing));
    step.inputs.clear();
    step.image = nothing;
    assert!(matches!(lab.run(step), Err(quern_core::port::PortError::Missing(d)) if d == nothing));
    let gone = lab.room.directory(&[]);
    fs::remove_dir_all(lab.dir.path().join("trees")).unwrap();
    let mut step = lab.sh("true");
    step.inputs.push(input("/pfs/in", gone));
    assert!(lab.run(step).unwrap_err().to_string().contains("opening /"));
}

fn many_steps_at_once(_: &Lab) {
    let lab = Arc::new(Lab::new(3));
    let threads: Vec<_> = (0..6)
        .map(|thread| {
            let lab = lab.clone();
            std::thread::spawn(move || {
                for number in 0..10 {
                    let word = format!("{thread}-{number}");
                    let image = [BUSYBOX, HOST][number % 2];
                    let script = format!("echo {word} > /pfs/out/f; cat /pfs/out/f");
                    let ran = lab.run(step(image, &["sh", "-c", &script])).unwrap();
                    assert_eq!(ran.text(), word);
                    assert_eq!(ran.outputs[0]["f"], format!("{word}\n"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(lab.room.scratch_left(), 0);
}
