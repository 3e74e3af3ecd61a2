//! What a build of an image executes, and what it takes from the cache.

use std::fs::{File, FileTimes};
use std::time::SystemTime;

use crate::image_space::{build, dockerfile, space_with_base, tool};
use crate::space::Space;

const TWO_FILES: &str = "FROM base
COPY one /one
RUN cat /one > /first
COPY two /two
RUN cat /two > /second
";

fn with_two_files() -> Space {
    let space = space_with_base();
    dockerfile(&space, TWO_FILES);
    space.write("app/one", "1");
    space.write("app/two", "2");
    space
}

#[test]
fn a_second_build_runs_nothing() {
    let space = with_two_files();
    let first = build(&space, "-t app");
    let steps = ["COPY one /one", "COPY two /two", "RUN cat /one > /first", "RUN cat /two > /second"];
    let ran = first.ran();
    assert!(steps.iter().all(|step| ran.iter().any(|name| name == step)), "{ran:?}");
    let second = build(&space, "-t app");
    assert_eq!(second.ran(), Vec::<String>::new());
    assert_eq!(second.id(), first.id());
}

#[test]
fn times_of_files_do_not_count() {
    let space = with_two_files();
    let id = build(&space, "").id();
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    File::options().write(true).open(space.path("app/one")).unwrap().set_times(times).unwrap();
    let second = build(&space, "");
    assert_eq!((second.ran(), second.id()), (vec![], id));
}

#[test]
fn a_changed_file_runs_what_reads_it_and_what_follows() {
    let space = with_two_files();
    build(&space, "").ran();
    space.write("app/two", "3");
    assert_eq!(build(&space, "").ran(), ["COPY two /two", "RUN cat /two > /second"]);
    space.write("app/unread", "x");
    assert_eq!(build(&space, "").ran(), Vec::<String>::new());
}

#[test]
fn a_stage_that_gives_the_same_again_ends_the_work() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base AS made
COPY in /in
RUN head -n 1 /in > /out
FROM base
COPY --from=made /out /out
RUN cat /out > /copy
",
    );
    space.write("app/in", "same\nfirst\n");
    let first = build(&space, "");
    first.ran();
    space.write("app/in", "same\nsecond\n");
    let second = build(&space, "");
    assert_eq!(second.ran(), ["COPY in /in", "RUN head -n 1 /in > /out"]);
    assert_eq!(second.id(), first.id());
    space.write("app/in", "other\n");
    let third = build(&space, "").ran();
    assert!(third.contains(&"RUN cat /out > /copy".to_owned()), "{third:?}");
}

#[test]
fn stages_that_nothing_needs_do_not_run() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base AS unused
RUN false
FROM base AS other
RUN echo other > /other
FROM base
RUN echo last > /last
",
    );
    let ran = build(&space, "").ran();
    assert_eq!(
        ran.iter().filter(|name| name.starts_with("RUN")).collect::<Vec<_>>(),
        ["RUN echo last > /last"]
    );
    assert_eq!(build(&space, "--target other").ran(), ["RUN echo other > /other"]);
    build(&space, "--target unused").run.fails(1);
}

#[test]
fn independent_stages_run_at_the_same_time() {
    let space = space_with_base();
    // Each waits for the other's mark in a cache that both see: one after the other, neither would end.
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/marks touch /marks/{own}; i=0; while test ! -e /marks/{other}; do i=$((i+1)); test $i -lt 3000 || exit 1; sleep 0.01; done; touch /{own}\n"
        )
    };
    let text = format!(
        "FROM base AS left\n{}FROM base AS right\n{}FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n",
        wait("left", "right"),
        wait("right", "left"),
    );
    dockerfile(&space, &text);
    space.write("quern.toml", "[steps]\nparallelism = 4\n");
    build(&space, "").run.ok();
}

#[test]
fn steps_run_again_when_that_is_asked_for() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base AS one
RUN echo 1 > /1
FROM base AS two
RUN echo 2 > /2
FROM scratch
COPY --from=one /1 /
COPY --from=two /2 /
",
    );
    build(&space, "").ran();
    assert_eq!(build(&space, "").ran(), Vec::<String>::new());
    let runs = |options: &str| {
        let ran = build(&space, options).ran();
        ran.into_iter().filter(|name| name.starts_with("RUN")).collect::<Vec<_>>()
    };
    assert_eq!(runs("--no-cache"), ["RUN echo 1 > /1", "RUN echo 2 > /2"]);
    assert_eq!(runs("--no-cache-filter two"), ["RUN echo 2 > /2"]);
}

#[test]
fn what_comes_out_is_what_the_steps_left() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base AS made
ARG WORD=nothing
ENV GREETING=\"hello $WORD\"
WORKDIR /srv/app
RUN echo \"$GREETING\" > greeting; ln -s greeting link; mkdir empty; rm /bin/wget; echo it is made
COPY --chmod=640 --chown=12:34 one ./
FROM made AS files
FROM scratch AS export
COPY --from=files /srv/app /
FROM made
LABEL a=b
USER 12:34
ENTRYPOINT [\"cat\", \"greeting\"]
",
    );
    space.write("app/one", "1");
    let first = build(&space, "--build-arg WORD=world -t app");
    first.run.ok();
    assert_eq!(first.printed(), ["it is made"]);
    build(&space, "--build-arg WORD=world --target export -o out").run.ok();
    assert_eq!(space.read("out/greeting"), "hello world\n");
    assert_eq!(std::fs::read_link(space.path("out/link")).unwrap().to_str(), Some("greeting"));
    assert!(space.path("out/empty").is_dir());
    let shown = &space.json("image inspect app")[0];
    assert_eq!(shown["Config"]["Entrypoint"], serde_json::json!(["cat", "greeting"]));
    assert_eq!(shown["Config"]["WorkingDir"], "/srv/app");
    assert_eq!(shown["Config"]["User"], "12:34");
    assert_eq!(shown["Config"]["Labels"], serde_json::json!({ "a": "b" }));
    space.quern("image save --format oci -o app.tar app").ok();
    let config = tool(&space, "skopeo", &["inspect", "--config", "oci-archive:app.tar"]);
    assert!(config.contains("GREETING=hello world"), "{config}");
    build(&space, "--build-arg WORD=world --target export -o type=tar,dest=out.tar").run.ok();
    let listed = tool(&space, "tar", &["-tvf", "out.tar", "--numeric-owner"]);
    assert!(
        listed.lines().any(|line| line.starts_with("-rw-r----- 12/34") && line.ends_with(" one")),
        "{listed}"
    );
}

#[test]
fn a_build_may_be_for_its_cache_only() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUN echo 1 > /one\n");
    assert_eq!(build(&space, "-o type=cacheonly -t app").ran(), ["FROM base", "RUN echo 1 > /one"]);
    space.quern("image inspect app").fails(3);
    assert_eq!(build(&space, "-t app").ran(), Vec::<String>::new());
    space.quern("image inspect app").ok();
}
