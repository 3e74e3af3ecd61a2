//! Steps one after the other: a sandbox that is used again is told from a new one by nobody.
//!
//! A probe reports everything it can find out. What it says in a sandbox in which other steps did their worst must be
//! what it says in a new one.

use std::fs;

use quern_core::port::{Cancel, Executor, Exit};
use quern_core::step::{Attempt, Network, Step};

use crate::ends::{long, runs};
use crate::lab::{BUSYBOX, HOST, Lab, step};

checks! {
    sandboxes_are_used_again,
    nothing_is_left_for_the_next_step,
    what_a_step_changes_of_the_first_process_ends_the_sandbox,
    packets_end_the_sandbox,
    a_step_that_is_stopped_ends_the_sandbox,
    no_process_becomes_the_launchers_child,
    another_root_gets_another_sandbox,
    steps_that_change_their_root_share_one,
    a_launcher_is_made_ready_once,
}

/// System calls by number, as Perl wants them: ptrace, mq_open, prlimit64, sched_getaffinity, sched_setaffinity, ioprio_set.
const CALLS: &str = if cfg!(target_arch = "aarch64") {
    "my ($ptrace, $mq_open, $prlimit, $getaff, $setaff, $setio) = (117, 180, 261, 123, 122, 30);"
} else {
    "my ($ptrace, $mq_open, $prlimit, $getaff, $setaff, $setio) = (101, 240, 302, 204, 203, 251);"
};

/// Everything a step can see of its sandbox that does not differ between two new ones.
const PROBE: &str = r#"
my $child = fork // die; if (!$child) { exit 0 } waitpid $child, 0;
print "numbers $$ $child, parent ", getppid(), ", processes @{[sort glob '/proc/[0-9]*']}\n";
for my $dir ('/tmp', '/dev/shm', '/dev/pts', '/pfs/out', '/proc/1') {
  my @at = stat $dir; printf "%s %o %s: %s\n", $dir, $at[2], "@at[3,4,5,7]", join ' ', sort glob "$dir/.* $dir/*";
}
for my $name ('sysvipc/shm', 'sysvipc/sem', 'sysvipc/msg', 'net/unix', 'net/tcp', 'net/udp', 'net/dev', 'self/limits', 'self/cgroup') {
  open my $file, '<', "/proc/$name" or die "$name: $!"; my @lines = <$file>; print "$name\n", @lines;
}
open my $status, '<', '/proc/self/status';
print grep { /^(Sig[PBIC]|Shd|Cap|Cpus|NoNew|Seccomp:|Uid|Gid|Groups|Threads|NS|PPid|Umask)/ } <$status>;
open my $mounts, '<', '/proc/self/mountinfo'; print map { join(' ', (split)[4, 5]) . "\n" } <$mounts>;
my @new = (shmget(0, 4096, 0600), semget(0, 1, 0600), msgget(0, 0600)); print "ipc @new\n";
for my $key (7, 8) { print "key $key: ", join(' ', map { defined $_ ? $_ : 'none' } shmget($key, 1, 0), semget($key, 1, 0), msgget($key, 0)), "\n"; }
print 'queue ', syscall($mq_open, my $queue = "left\0", 0, 0, 0), " $!\n";
for my $pid (0, 1) {
  my ($set, $limits) = ("\0" x 256, ''); syscall $getaff, $pid, 256, $set;
  for my $limit (0 .. 15) { my $both = "\0" x 16; syscall $prlimit, $pid, $limit, 0, $both; $limits .= unpack('H*', $both) . ' ' }
  print "process $pid: nice ", getpriority(0, $pid), ' on ', unpack('H*', $set), " $limits\n";
}
opendir my $open, '/proc/self/fd'; print 'files ', join(' ', sort grep { /^[0-9]/ } readdir $open), "\n";
open my $host, '<', '/proc/sys/kernel/hostname'; print <$host>, "umask ", umask, "\n", map { "$_=$ENV{$_}\n" } sort keys %ENV;
"#;

fn perl(script: &str) -> Step {
    step(HOST, &["perl", "-e", &format!("$| = 1; {CALLS} {script}")])
}

/// The first processes of the sandboxes of a lab, seen from outside.
fn sandboxes(lab: &Lab) -> Vec<i32> {
    let launchers = lab.launchers();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parent.is_some_and(|parent| launchers.contains(&parent))
    })
    .collect()
}

/// Whether a process runs on this machine whose command line contains a word.
fn anything_has(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| line.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// Whether this machine lets process numbers be set back, without which no sandbox is used again.
fn can_be_used_again() -> bool {
    fs::File::options().write(true).open("/proc/sys/kernel/ns_last_pid").is_ok()
}

fn sandboxes_are_used_again(lab: &Lab) {
    assert_eq!(lab.said(lab.sh("echo $$ $PPID /proc/[0-9]*")), "2 0 /proc/1 /proc/2");
    let first = sandboxes(lab);
    assert_eq!(first.len(), 1);
    for _ in 0..3 {
        assert_eq!(lab.said(lab.sh("true & wait; true & echo $$ $!")), "2 4");
        // Another failed, which is no reason to trust the next with it any less.
        assert_eq!(lab.run(lab.sh("exit 3")).unwrap().outcome.exit, Exit::Code(3));
    }
    assert_eq!(sandboxes(lab) == first, can_be_used_again());
    assert_eq!(sandboxes(lab).len(), 1);
}

fn nothing_is_left_for_the_next_step(lab: &Lab) {
    let expected = Lab::new(1).said(perl(PROBE));
    assert!(expected.contains("numbers 2 3, parent 0, processes /proc/1 /proc/2"), "{expected}");
    assert_eq!(lab.said(perl(PROBE)), expected, "two new sandboxes look alike");
    let first = sandboxes(lab);
    let long = long(43210);
    let forked = |what: &str| format!("my $left = fork // die; if (!$left) {{ {what}; sleep {long} }} ");
    let worst = [
        // Processes: orphans of orphans in sessions of their own, deaf, stopped, traced, tracing.
        format!("system \"setsid sh -c 'setsid sleep {long} & setsid sleep {long} &'\";"),
        forked("$SIG{$_} = 'IGNORE' for qw(TERM HUP INT QUIT USR1); setpgrp") + "select undef, undef, undef, 0.02;",
        forked("kill STOP => $$") + "waitpid $left, 2;",
        forked("syscall $ptrace, 0, 0, 0, 0; kill STOP => $$") + "waitpid $left, 0;",
        forked("1") + &forked("syscall $ptrace, 16, $left, 0, 0") + "select undef, undef, undef, 0.02;",
        "fork for 1 .. 7;".into(),
        "for (1 .. 99) { my $one = fork // die; exit 0 if !$one; }".into(),
        // What is left without a process.
        "mkdir '/tmp/left'; mkdir '/dev/shm/left'; open my $f, '>', '/tmp/left/file'; print $f 'x' x 9999; chmod 0700, '/tmp', '/dev/shm'; utime 1, 1, '/tmp';".into(),
        "shmget(7, 4096, 01666) // die; semget(7, 3, 01666) // die; msgget(7, 01666) // die; my $gone = shmget(8, 1, 01666); shmctl $gone, 0, 0;".into(),
        "syscall($mq_open, my $queue = \"left\\0\", 0102, 0600, 0) >= 0 or die \"no queue: $!\";".into(),
        forked("use Socket; socket my $s, AF_UNIX, SOCK_STREAM, 0; bind $s, pack('Sa*', AF_UNIX, \"\\0left\"); listen $s, 5") + "select undef, undef, undef, 0.02;",
        forked("use Socket; socket my $s, AF_INET, SOCK_STREAM, 0; bind $s, sockaddr_in(7777, INADDR_LOOPBACK); listen $s, 5") + "select undef, undef, undef, 0.02;",
        forked("open my $p, '+<', '/dev/ptmx'; chmod 0700, '/dev/pts'") + "select undef, undef, undef, 0.02;",
        // Against itself, its parent and everybody.
        "kill KILL => -1; kill KILL => 1; kill STOP => 1; kill TERM => 1; kill KILL => getppid();".into(),
        "umask 0; $ENV{LEFT} = 1; chdir '/tmp'; $0 = 'left'; setpriority 0, 0, 9; syscall $prlimit, 0, 7, my $both = pack('QQ', 20, 20), 0;".into(),
    ];
    for script in worst {
        let ran = lab.run(perl(&script)).unwrap();
        let ended = matches!(ran.outcome.exit, Exit::Code(0) | Exit::Signal(9));
        assert!(ended && ran.text().is_empty(), "{script}: {ran:?}");
        assert!(!anything_has(&long), "{script}");
        assert_eq!(lab.said(perl(PROBE)), expected, "{script}");
        assert_eq!(sandboxes(lab) == first, can_be_used_again(), "{script}");
    }
}

fn what_a_step_changes_of_the_first_process_ends_the_sandbox(lab: &Lab) {
    let expected = lab.said(perl(PROBE));
    for script in [
        "syscall($prlimit, 1, 7, my $both = pack('QQ', 20, 20), 0) == 0 or print \"refused\\n\";",
        "setpriority(0, 1, 7) or print \"refused\\n\";",
        // Everybody of this user, the first process included.
        "setpriority(2, 0, 7) or print \"refused\\n\";",
        "syscall($setaff, 1, 8, my $set = pack('Q', 1)) == 0 or print \"refused\\n\";",
        "syscall($setio, 1, 1, 3 << 13) == 0 or print \"refused\\n\";",
    ] {
        let before = sandboxes(lab);
        let changed = lab.said(perl(script)) != "refused";
        assert_eq!(lab.said(perl(PROBE)), expected, "{script}");
        // One processor has nothing but one affinity.
        let alone = script.contains("setaff") && std::thread::available_parallelism().unwrap().get() == 1;
        assert!(!changed || alone || sandboxes(lab) != before, "{script}");
    }
}

fn packets_end_the_sandbox(lab: &Lab) {
    let expected = lab.said(perl(PROBE));
    let before = sandboxes(lab);
    lab.said(perl("use Socket; socket my $s, AF_INET, SOCK_DGRAM, 0; send $s, 'x', 0, sockaddr_in(9, INADDR_LOOPBACK) or die;"));
    assert_eq!(lab.said(perl(PROBE)), expected);
    assert_ne!(sandboxes(lab), before);
}

fn a_step_that_is_stopped_ends_the_sandbox(lab: &Lab) {
    lab.said(lab.sh("true"));
    let before = sandboxes(lab);
    let long = long(32109);
    let cancel = Cancel::default();
    let attempt = Attempt::first(lab.sh(&format!("setsid sleep {long} & sleep {long}")));
    let ran = std::thread::scope(|scope| {
        let run = scope.spawn(|| lab.attempt(&attempt, &cancel));
        while !runs(&long) {
            std::thread::yield_now();
        }
        cancel.set();
        run.join().unwrap().unwrap()
    });
    assert_eq!(ran.outcome.exit, Exit::Cancelled);
    assert!(!runs(&long));
    assert_eq!(lab.said(lab.sh("echo $$")), "2");
    assert_ne!(sandboxes(lab), before);
}

/// With CLONE_PARENT a process makes a sibling; the first one of a step would make a child of the launcher.
fn no_process_becomes_the_launchers_child(lab: &Lab) {
    let clone = if cfg!(target_arch = "aarch64") { 220 } else { 56 };
    let script = format!("print syscall({clone}, 0x8000 | 17, 0, 0, 0, 0) < 0 ? \"$!\\n\" : \"done\\n\";");
    assert_eq!(lab.said(perl(&script)), "Operation not permitted");
    assert_eq!(sandboxes(lab).len(), 1);
}

fn another_root_gets_another_sandbox(lab: &Lab) {
    let words = |image| step(image, &["sh", "-c", "echo $$; echo x > /tmp/x"]);
    let mut network = words(BUSYBOX);
    network.network = Network::Host;
    for step in [words(BUSYBOX), words(HOST), network.clone(), network, words(BUSYBOX)] {
        assert_eq!(lab.said(step), "2");
        assert_eq!(sandboxes(lab).len(), 1, "one at a time");
    }
}

/// Each has a root of its own, and nothing else that the one before could have left something in.
fn steps_that_change_their_root_share_one(lab: &Lab) {
    let see =
        "echo $$ $PPID /proc/[0-9]*; ls -A /tmp /dev/shm /dev/pts; cat /proc/sys/kernel/hostname; ls /left";
    let seen = |step| {
        let ran = lab.run(step).unwrap();
        assert!(ran.outcome.layer.is_some() || ran.outcome.exit != Exit::Code(0));
        ran.text()
    };
    let expected = seen(lab.change(see));
    assert!(expected.contains("2 0 /proc/1 /proc/2"), "{expected}");
    let first = sandboxes(lab);
    let long = long(54321);
    let leave = format!("setsid sleep {long} & touch /left /tmp/left /dev/shm/left; setsid sleep {long} &");
    let layer = lab.layer(lab.change(&leave));
    assert!(lab.entries(&layer).contains_key("tmp/left"));
    assert!(!runs(&long));
    assert_eq!(seen(lab.change(see)), expected);
    assert_eq!(sandboxes(lab) == first, can_be_used_again());
}

fn a_launcher_is_made_ready_once(lab: &Lab) {
    lab.executor.prepare();
    let launchers = lab.launchers();
    assert_eq!(launchers.len(), 1);
    lab.executor.prepare();
    lab.said(lab.sh("true"));
    assert_eq!(lab.launchers(), launchers);
}
