//! Builds of images that fail, are interrupted, or are given something hostile.

use std::process::{Child, Command, Stdio};

use crate::image_space::{build, dockerfile, space_with_base};
use crate::space::{Space, sleeps, wait_until};

#[test]
fn a_command_that_fails_is_shown_where_it_stands() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUN true\nRUN echo about to fail; \\\n    exit 7\nRUN echo never\n");
    let built = build(&space, "-t app");
    built.run.says(1, &["Dockerfile:3", "about to fail", "exit code: 7"]);
    assert_eq!(built.ended("ERROR").len(), 1);
    assert!(!built.run.stderr().contains("echo never\n#"), "{}", built.run.stderr());
    space.quern("image inspect app").fails(3);
}

#[test]
fn every_mistake_is_shown_at_once() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUNN true\nCOPY one\nRUN true\nHEALTHCHECK SOMETIMES\n");
    build(&space, "-t app").run.says(2, &["Dockerfile:2", "Dockerfile:3", "Dockerfile:5"]);
    space.quern("image inspect app").fails(3);
    dockerfile(&space, "FROM nowhere.invalid/app:1\nRUN true\n");
    build(&space, "").run.says(3, &["nowhere.invalid/app"]);
    space.quern("build absent").fails(3);
    space.quern("build -f absent app").fails(3);
    build(&space, "--target absent").run.fails(2);
}

/// A step that sleeps the first time it is run, and one before it.
fn sleeper(space: &Space, seconds: &str) {
    let text = format!(
        "FROM base
RUN --mount=type=cache,target=/c echo before >> /c/before
RUN --mount=type=cache,target=/c if test -e /c/again; then cp /c/before /ok; else touch /c/again; sleep {seconds}; fi
"
    );
    dockerfile(space, &text);
}

fn started(space: &Space) -> Child {
    let mut command = space.command(&["build", "--progress", "plain", "-t", "app", "app"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("quern runs")
}

#[test]
fn a_killed_build_is_carried_on() {
    let space = space_with_base();
    sleeper(&space, "73510");
    let mut child = started(&space);
    wait_until("the step runs", || sleeps("73510"));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("nothing is left", || !sleeps("73510"));
    space.quern("image inspect app").fails(3);
    build(&space, "-t app -o out").run.ok();
    assert_eq!(space.read("out/ok"), "before\n", "what was done before the end is not done again");
    space.quern("doctor").ok();
}

#[test]
fn an_interrupted_build_leaves_nothing_running() {
    let space = space_with_base();
    sleeper(&space, "73520");
    let mut child = started(&space);
    wait_until("the step runs", || sleeps("73520"));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The kernel ends them; that takes it a moment.
    wait_until("nothing is left", || !sleeps("73520"));
    space.quern("image inspect app").fails(3);
    build(&space, "-t app -o out").run.ok();
    assert_eq!(space.read("out/ok"), "before\n");
}

#[test]
fn a_context_leads_nowhere_else() {
    let space = space_with_base();
    space.write("outside", "not yours");
    space.write("app/dir/inside", "1");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, space.path(name)).unwrap();
    link("/etc/hostname", "app/absolute");
    link("../outside", "app/relative");
    link("../../outside", "app/dir/link");
    link("loop", "app/loop");
    for source in ["absolute", "relative", "../outside", "/../outside", "loop"] {
        dockerfile(&space, &format!("FROM scratch\nCOPY {source} /got\n"));
        let built = build(&space, "-o out");
        let code = built.run.code();
        assert!(matches!(code, Some(1 | 2)), "{source}: {code:?}\n{}", built.run.stderr());
    }
    // A link in a directory is copied as the link it is.
    dockerfile(&space, "FROM scratch\nCOPY dir /dir\n");
    build(&space, "-o out").run.ok();
    assert_eq!(std::fs::read_link(space.path("out/dir/link")).unwrap().to_str(), Some("../../outside"));
    assert_eq!(space.read("out/dir/inside"), "1");
}

#[test]
fn what_is_ignored_is_not_there() {
    let space = space_with_base();
    space.write("app/.dockerignore", "Dockerfile\n.dockerignore\nhidden*\n!hidden-not\n");
    for name in ["shown", "hidden", "hidden-not"] {
        space.write(&format!("app/{name}"), name);
    }
    dockerfile(&space, "FROM scratch\nCOPY . /\n");
    build(&space, "-o out").run.ok();
    let mut names: Vec<String> = std::fs::read_dir(space.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["hidden-not", "shown"]);
    space.write("app/hidden", "other");
    assert_eq!(build(&space, "").ran(), Vec::<String>::new());
    dockerfile(&space, "FROM scratch\nCOPY hidden /\n");
    build(&space, "").run.says(1, &["hidden"]);
}

#[test]
fn a_pipe_in_a_context_is_not_waited_for() {
    let space = space_with_base();
    dockerfile(&space, "FROM scratch\nCOPY . /\n");
    space.write("app/file", "1");
    let made = Command::new("mkfifo").arg(space.path("app/pipe")).status().unwrap();
    assert!(made.success());
    let built = build(&space, "-o out");
    // It ends in time, whatever becomes of the pipe.
    assert!(matches!(built.run.code(), Some(0 | 1)), "{}", built.run.stderr());
}
