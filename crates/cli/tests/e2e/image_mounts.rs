//! Secrets, agents and caches of steps: there while a step runs, and nowhere afterwards.

use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::image_space::{build, dockerfile, space_with_base};
use crate::space::Space;

const SECRET: &str = "correct-horse-battery-staple-41";

/// Files below a directory that hold a text.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("it is ours").filter_map(Result::ok) {
            let kind = entry.file_type().expect("its type is known");
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

fn with_secret() -> Space {
    let space = space_with_base();
    space.write("key", SECRET);
    space
}

#[test]
fn secrets_leave_no_trace() {
    let space = with_secret();
    dockerfile(
        &space,
        "FROM base
RUN --mount=type=secret,id=key wc -c < /run/secrets/key > /length
RUN --mount=type=secret,id=key,target=/etc/deep/key,mode=0444,uid=5 ls -ln /etc/deep/key | cut -c 1-10 > /mode
RUN --mount=type=secret,id=key,env=KEY test \"$KEY\" = \"$(echo \"$KEY\")\" && echo ${#KEY} > /env
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
",
    );
    let built = build(&space, "-t app --secret id=key,src=key");
    built.run.ok();
    build(&space, "--secret id=key,src=key -o out").run.ok();
    assert_eq!(space.read("out/length").trim(), SECRET.len().to_string());
    assert_eq!(space.read("out/mode").trim(), "-r--r--r--");
    assert_eq!(space.read("out/env").trim(), SECRET.len().to_string());
    space.quern("image save -o app.tar app").ok();
    space.quern("build -o type=tar,dest=files.tar --secret id=key,src=key app").ok();
    for place in ["state", "out"] {
        assert_eq!(holding(&space.path(place), SECRET), Vec::<String>::new());
    }
    for archive in ["app.tar", "files.tar"] {
        let bytes = std::fs::read(space.path(archive)).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{archive}");
    }
    assert!(!built.run.stderr().contains(SECRET));
    assert!(!space.json("image inspect app").to_string().contains(SECRET));
    // Another value is no other step.
    space.write("key", "another");
    assert_eq!(build(&space, "-t app --secret id=key,src=key").ran(), Vec::<String>::new());
    // One that is needed and not given is told.
    dockerfile(&space, "FROM base\nRUN --mount=type=secret,id=needed,required=true true\n");
    assert!(build(&space, "").run.stderr().contains("needed"));
}

#[test]
fn an_agent_is_there_while_a_step_runs() {
    let space = space_with_base();
    let socket = space.path("agent");
    let _listener = UnixListener::bind(&socket).unwrap();
    dockerfile(
        &space,
        "FROM base\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo yes > /seen\nRUN test -z \"$SSH_AUTH_SOCK\"\n",
    );
    build(&space, &format!("-t app --ssh default={}", socket.display())).run.ok();
    let shown = space.json("image inspect app").to_string();
    assert!(!shown.contains("SSH_AUTH_SOCK="), "{shown}");
    assert_eq!(holding(&space.path("state/layers"), &socket.display().to_string()), Vec::<String>::new());
}

#[test]
fn caches_outlive_builds_and_are_no_part_of_images() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base
RUN --mount=type=cache,target=/cache,id=count echo x >> /cache/lines; wc -l < /cache/lines > /count
",
    );
    build(&space, "-t app -o first").run.ok();
    build(&space, "--no-cache -o second").run.ok();
    assert_eq!((space.read("first/count").trim(), space.read("second/count").trim()), ("1", "2"));
    assert!(!space.path("second/cache/lines").exists());
}

#[test]
fn a_cache_that_is_only_read_stays_as_it_is() {
    let space = space_with_base();
    let text = |third: &str| {
        format!(
            "FROM base
RUN --mount=type=cache,target=/cache echo 1 > /cache/one
RUN --mount=type=cache,target=/cache,ro cat /cache/one > /one; touch /cache/two 2> /refusal || cat /refusal > /why
RUN --mount=type=cache,target=/cache{third} ls /cache > /holds
"
        )
    };
    dockerfile(&space, &text(""));
    build(&space, "-o out").run.ok();
    assert_eq!((space.read("out/one").trim(), space.read("out/holds").trim()), ("1", "one"));
    assert!(space.read("out/why").contains("Read-only file system"), "{}", space.read("out/why"));
    // Whether it can be written to is a part of what a step sees.
    dockerfile(&space, &text(",readonly"));
    let third = "RUN --mount=type=cache,target=/cache,readonly ls /cache > /holds";
    assert_eq!(build(&space, "").ran(), [third]);
    assert_eq!(build(&space, "").ran(), Vec::<String>::new());
}

#[test]
fn names_of_machines_are_given_to_steps() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUN grep -e db -e gate /etc/hosts > /names\n");
    let with = "--add-host db:10.0.0.5 --add-host db=[fd00::5] --add-host gate:host-gateway";
    build(&space, &format!("-o out {with}")).run.ok();
    assert_eq!(space.read("out/names"), "10.0.0.5\tdb\nfd00::5\tdb\n127.0.0.1\tgate\n");
    assert!(!space.path("out/etc/hosts").exists(), "names are no part of the image");
    // They are a part of what a step sees, and of nothing else.
    assert_eq!(build(&space, with).ran(), Vec::<String>::new());
    let step = "RUN grep -e db -e gate /etc/hosts > /names";
    assert_eq!(build(&space, "--add-host db:10.0.0.6").ran(), [step]);
    for bad in ["db", "db:nowhere"] {
        build(&space, &format!("--add-host {bad}")).run.says(2, &["--add-host", bad]);
    }
}
