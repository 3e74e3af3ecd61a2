//! Steps that want too much.

use std::time::Duration;

use quern_core::event::Stream;
use quern_core::port::Exit;
use quern_core::step::{Mount, Resources};

use crate::lab::{Lab, as_root};

checks! {
    processes,
    a_fork_bomb_is_contained,
    memory,
    files_in_memory,
    no_core_dumps_and_a_bounded_number_of_files,
}

fn processes(lab: &Lab) {
    let mut step = lab.sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done; echo all");
    step.resources.pids = Some(5);
    let ran = lab.run(step.clone()).unwrap();
    assert!(ran.text().contains("can't fork") && !ran.text().contains("all"), "{ran:?}");
    step.resources.pids = Some(11);
    assert_eq!(lab.said(step.clone()), "all");
    step.resources.pids = None;
    assert_eq!(lab.said(step), "all");
}

fn a_fork_bomb_is_contained(lab: &Lab) {
    let mut bomb = lab.sh("bomb() { bomb | bomb & }; bomb; sleep 60");
    bomb.timeout = Some(Duration::from_millis(700));
    for pids in [Some(200), None] {
        bomb.resources.pids = pids;
        assert_eq!(lab.run(bomb.clone()).unwrap().outcome.exit, Exit::TimedOut);
        assert_eq!(lab.said(lab.sh("echo next")), "next");
    }
}

fn memory(lab: &Lab) {
    // tail keeps what it may have to print.
    let mut step = lab.sh("head -c 200000000 /dev/zero | tail -c 200000000 | wc -c");
    let limited = Resources { memory: Some(64 << 20), ..Resources::default() };
    for _ in 0..2 {
        step.resources = limited.clone();
        let ran = lab.run(step.clone()).unwrap();
        // The program killed is not the last of the pipe, whose success is the step's; the kernel may end others too.
        let end = (ran.outcome.exit, ran.on(Stream::Stdout));
        assert!(end == (Exit::Code(0), "0".into()) || end.0 == Exit::OutOfMemory, "{ran:?}");
        step.resources = Resources::default();
        assert_eq!(lab.said(step.clone()), "200000000");
    }
    let mut main = lab.sh("exec tail -c 200000000 /dev/zero");
    main.resources = limited.clone();
    let expected = if as_root() { Exit::OutOfMemory } else { Exit::Code(1) };
    assert_eq!(lab.run(main).unwrap().outcome.exit, expected);
    let mut failing = lab.sh("exit 9");
    failing.resources = limited;
    assert_eq!(lab.run(failing).unwrap().outcome.exit, Exit::Code(9));
}

fn files_in_memory(lab: &Lab) {
    let mut step = lab.sh(
        "dd if=/dev/zero of=/m/x bs=1M count=9 2>/dev/null || echo full; [ -d /m ] && ls -ld /m | cut -c1-10",
    );
    step.mounts = vec![Mount::Tmpfs { target: "/m".into(), size: Some(4 << 20) }];
    assert_eq!(lab.said(step.clone()), "full\ndrwxrwxrwt");
    step.mounts = vec![Mount::Tmpfs { target: "/m".into(), size: None }];
    assert_eq!(lab.said(step), "drwxrwxrwt");
}

fn no_core_dumps_and_a_bounded_number_of_files(lab: &Lab) {
    let said = lab.said(lab.sh("ulimit -c; ulimit -H -c; [ $(ulimit -H -n) -le 65536 ] && echo bounded"));
    assert_eq!(said, "0\n0\nbounded");
}
