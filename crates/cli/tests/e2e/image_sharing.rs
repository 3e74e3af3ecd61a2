//! Images and caches between processes, state folders, registries and other programs.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::image_space::{
    BuildLog, Registry, build, dockerfile, make_base, space_with_base, space_with_pushed_base, tool,
};
use crate::space::{Space, pfs, shell, sleeps, text, wait_until};

/// A base image in a registry, and a Dockerfile of two stages on it.
fn with_registry() -> (Space, Registry) {
    let (space, registry, base) = space_with_pushed_base();
    dockerfile(
        &space,
        &format!(
            "FROM {base} AS made
COPY in /in
RUN cat /in > /made; echo unused > /unused
FROM {base}
RUN echo own > /own
COPY --from=made /made /made
"
        ),
    );
    space.write("app/in", "1");
    (space, registry)
}

#[test]
fn many_builds_of_the_same_do_each_step_once() {
    let space = space_with_base();
    let count = "--mount=type=cache,target=/c echo x >> /c/lines";
    dockerfile(
        &space,
        &format!(
            "FROM base\nCOPY in /in\nRUN {count}; cat /in > /one\nRUN {count}; cat /one > /two\nRUN --mount=type=cache,target=/c wc -l < /c/lines > /ran\n"
        ),
    );
    space.write("app/in", "1");
    let ids: Vec<String> = thread::scope(|scope| {
        let builds: Vec<_> = (0..8).map(|_| scope.spawn(|| build(&space, "-t app").id())).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(text(&space.json("image inspect app")[0]["Id"]), ids[0]);
    build(&space, "-o out").run.ok();
    assert_eq!(space.read("out/ran").trim(), "2");
}

/// Starts a build of `app` with its log in a file.
fn start_build(space: &Space, log: &str) -> Child {
    let mut command = space.command(&["build", "--progress", "plain", "app"]);
    let log = fs::File::create(space.path(log)).expect("writable");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("quern starts")
}

#[test]
fn a_build_waits_for_one_of_the_same_and_takes_over_if_that_is_killed() {
    let space = space_with_base();
    dockerfile(
        &space,
        "FROM base\nCOPY in /in\nRUN --mount=type=cache,target=/c [ -e /c/begun ] || { touch /c/begun; sleep 98761; }\nRUN cat /in > /out\n",
    );
    space.write("app/in", "1");
    let mut first = start_build(&space, "first");
    wait_until("the first build comes to its step", || sleeps("98761"));
    let mut others: Vec<Child> =
        (0..3).map(|number| start_build(&space, &format!("other-{number}"))).collect();
    first.kill().unwrap();
    first.wait().unwrap();
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let logs: Vec<String> = (0..3).map(|number| space.read(&format!("other-{number}"))).collect();
    let image = |log: &str| log.lines().find(|line| line.starts_with("image ")).map(str::to_owned);
    assert!(logs.iter().all(|log| image(log).is_some() && image(log) == image(&logs[0])), "{logs:?}");
    let locks = fs::read_dir(space.path("state/layers/.making")).unwrap().flatten();
    assert!(locks.into_iter().all(|lock| fs::File::open(lock.path()).unwrap().try_lock().is_ok()));
}

#[test]
fn many_builds_of_files_that_nobody_read_wait_for_one() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nCOPY in /in\nRUN cat /in > /one\nRUN cat /one > /two\n");
    let file = space.write("app/in", "1");
    // Files that were written a moment ago are read by everybody.
    let written = fs::metadata(file).unwrap().modified().unwrap();
    wait_until("the file is old", || written.elapsed().unwrap().as_secs() >= 3);
    let logs: Vec<BuildLog> = thread::scope(|scope| {
        let builds: Vec<_> = (0..6).map(|_| scope.spawn(|| build(&space, "-t app"))).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    let ran: Vec<Vec<String>> = logs.iter().map(BuildLog::ran).filter(|ran| !ran.is_empty()).collect();
    assert_eq!(ran.len(), 1, "{ran:?}");
    assert!(ran[0].contains(&"RUN cat /one > /two".to_owned()), "{ran:?}");
}

#[test]
fn clean_builds_give_the_same_bytes() {
    let digests = [(), ()].map(|()| {
        let space = Space::new();
        make_base(&space);
        dockerfile(&space, "FROM base\nCOPY dir /dir\nRUN echo 1 > /one; ln /one /two; mkdir -p /a/b; date > /dev/null\nADD in.tar /\n");
        space.write("app/dir/file", "1");
        tool(&space, "tar", &["-cf", "app/in.tar", "base/Dockerfile"]);
        let id = build(&space, "--build-arg SOURCE_DATE_EPOCH=1700000000 -o type=oci,dest=app.tar,name=app --provenance=false").id();
        (id, fs::read(space.path("app.tar")).unwrap())
    });
    assert_eq!(digests[0].0, digests[1].0);
    assert!(digests[0].1 == digests[1].1, "the archives differ");
}

#[test]
fn a_cache_in_a_registry_spares_another_machine_every_step() {
    let (space, registry) = with_registry();
    let cache = format!("{}/cache", registry.host);
    let id = build(&space, &format!("--build-arg SOURCE_DATE_EPOCH=1 --cache-to type=registry,ref={cache}:max,mode=max --cache-to type=registry,ref={cache}:min,mode=min --cache-to type=local,dest=cache,mode=max")).id();
    for (state, from) in [
        ("max", format!("type=registry,ref={cache}:max")),
        ("min", format!("type=registry,ref={cache}:min")),
        ("local", "type=local,src=cache".to_owned()),
    ] {
        let log = build(
            &space,
            &format!("--state other-{state} --build-arg SOURCE_DATE_EPOCH=1 --cache-from {from} -t app"),
        );
        let ran = log.ran();
        assert!(ran.iter().all(|name| name.starts_with("FROM")), "{state}: {ran:?}");
        assert_eq!(log.id(), id, "{state}");
        space.quern(&format!("--state other-{state} image save -o {state}.tar app")).ok();
    }
    // A cache that is not there is told, and no reason to fail.
    let log = build(&space, &format!("--state none --cache-from type=registry,ref={cache}:none"));
    assert!(log.run.stderr().contains("warning"), "{}", log.run.stderr());
    log.run.ok();
}

#[test]
fn a_cache_inside_an_image_spares_another_machine_its_steps() {
    let (space, registry) = with_registry();
    let name = format!("{}/team/app:1", registry.host);
    build(&space, &format!("--push -t {name} --cache-to type=inline")).run.ok();
    let log = build(&space, &format!("--state other --cache-from type=registry,ref={name}"));
    let ran = log.ran();
    assert!(!ran.iter().any(|name| name == "RUN echo own > /own"), "{ran:?}");
}

#[test]
fn an_image_runs_in_another_runtime() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nRUN echo hello from the image > /hello\nCMD [\"cat\", \"/hello\"]\n");
    build(&space, "-t app -o bundle/rootfs").run.ok();
    build(&space, "-t app -o type=oci,dest=app.tar").run.ok();
    let config: Value =
        serde_json::from_str(&tool(&space, "skopeo", &["inspect", "--config", "oci-archive:app.tar"]))
            .unwrap();
    tool(&space, "crun", &["spec", "-b", "bundle"]);
    let mut spec: Value = serde_json::from_str(&space.read("bundle/config.json")).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = config["config"]["Cmd"].clone();
    spec["process"]["env"] = config["config"]["Env"].clone();
    space.write("bundle/config.json", spec.to_string());
    let name = format!("quern-test-{}", std::process::id());
    let root = space.path("crun").display().to_string();
    // crun refuses machines that mount version 2 of control groups beside version 1, unless it does not see that.
    let script = "umount /sys/fs/cgroup/unified 2> /dev/null; exec \"$@\"";
    let run = ["crun", "--root", &root, "--cgroup-manager=disabled", "run", "-b", "bundle", &name];
    let said = tool(&space, "unshare", &[&["-m", "sh", "-c", script, "sh"], &run[..]].concat());
    assert_eq!(said, "hello from the image\n");
}

#[test]
fn a_pipeline_runs_in_an_image_of_a_registry() {
    let (space, registry) = with_registry();
    let name = format!("{}/team/tool:1", registry.host);
    dockerfile(
        &space,
        "FROM base\nRUN printf '#!/bin/sh\\nsed s/1/one/\\n' > /bin/words; chmod 755 /bin/words\n",
    );
    build(&space, &format!("--push -t {name}")).run.ok();
    let other = Space::with_repos(&["texts"]);
    other.put("texts@master:/a", "1 2");
    let mut spec = shell("words", pfs("texts", "/*"), &["words < /pfs/texts/a > /pfs/out/a"]);
    spec["transform"]["image"] = json!(name);
    other.create(&spec);
    other.flush("texts@master").ran();
    assert_eq!(other.get("words@master:/a"), "one 2");
    drop(registry);
    // The registry is not asked for what is here.
    other.put("texts@master:/a", "1 3");
    other.flush("texts@master").ran();
    assert_eq!(other.get("words@master:/a"), "one 3");
}

#[test]
fn pruning_keeps_images_that_have_names_whole() {
    let space = space_with_base();
    dockerfile(&space, "FROM base\nCOPY in /in\nRUN cat /in > /out\n");
    space.write("app/in", "1");
    let id = build(&space, "-t app").id();
    space.write("app/in", "2");
    build(&space, "-t gone").run.ok();
    space.quern("image rm gone").ok();
    space.quern("prune --all").ok();
    space.quern("image save -o app.tar app").ok();
    let loaded = space.quern("--state other image load -i app.tar").ok();
    assert!(loaded.contains("app:latest"), "{loaded}");
    assert_eq!(text(&space.json("--state other image inspect app")[0]["Id"]), id);
    dockerfile(&space, "FROM app\nRUN cat /out > /copy\n");
    build(&space, "-o out").run.ok();
    assert_eq!(space.read("out/copy"), "1");
    space.quern("doctor").ok();
    // Without names, everything goes.
    space.quern("image rm app base").ok();
    for unnamed in space.names("image ls", "id") {
        space.quern(&format!("image rm -f {unnamed}")).ok();
    }
    space.quern("prune --all").ok();
    let layers =
        space.json("du").as_array().unwrap().iter().find(|row| row["kind"] == "layers").unwrap().clone();
    assert_eq!(layers["count"], 0, "{layers}");
}

#[test]
fn an_authority_of_ones_own_is_trusted_where_docker_looks_for_it() {
    let space = space_with_base();
    let registry = Registry::secured(&space);
    let name = format!("{}/app:1", registry.host);
    dockerfile(&space, "FROM base\n");
    build(&space, &format!("-t {name}")).run.ok();
    let push = || space.quern(&format!("image push {name}"));
    push().says(3, &["speaks https", &format!("certs.d/{}/ca.crt", registry.host)]);
    for folder in ["home/.docker", "home/.config/docker"] {
        let own = space.path(format!("{folder}/certs.d/{}", registry.host));
        fs::create_dir_all(&own).unwrap();
        push().says(3, &["no secure connection", "certificate", "/ca.crt"]);
        fs::copy(space.path("cert.pem"), own.join("ca.crt")).unwrap();
        push().ok();
        space.quern(&format!("--state {folder}/state image pull {name}")).ok();
        fs::remove_dir_all(&own).unwrap();
    }
    push().says(3, &["speaks https"]);
}
