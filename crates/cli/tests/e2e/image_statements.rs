//! What is said about an image beside it: provenance, lists of contents, metadata.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::image_space::{Registry, answers, build, dockerfile, free_port, space_with_base, tool};
use crate::space::{Space, text};

/// A document or blob of a registry.
fn fetch(space: &Space, registry: &Registry, path: &str) -> Value {
    let accept =
        "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let got = tool(space, "curl", &["-sSf", "-H", accept, &format!("http://{}/v2/{path}", registry.host)]);
    serde_json::from_str(&got).unwrap_or_else(|error| panic!("{error}: {got}"))
}

/// The statements beside an image, by kind, after everything that ties them to it was compared.
fn statements(space: &Space, registry: &Registry, repository: &str, index: &Value) -> Vec<(String, Value)> {
    let [image, beside] = index["manifests"].as_array().expect("an index").as_slice() else {
        panic!("{index}");
    };
    assert_eq!(image["platform"]["os"], "linux");
    assert_eq!(beside["platform"], json!({ "architecture": "unknown", "os": "unknown" }));
    assert_eq!(beside["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(beside["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = fetch(space, registry, &format!("{repository}/manifests/{}", text(&beside["digest"])));
    let layers = manifest["layers"].as_array().expect("layers");
    let mut found = Vec::new();
    for layer in layers {
        let statement = fetch(space, registry, &format!("{repository}/blobs/{}", text(&layer["digest"])));
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v0.1");
        assert_eq!(statement["predicateType"], layer["annotations"]["in-toto.io/predicate-type"]);
        let subject = format!("sha256:{}", text(&statement["subject"][0]["digest"]["sha256"]));
        assert_eq!(Value::from(subject), image["digest"]);
        found.push((text(&statement["predicateType"]), statement["predicate"].clone()));
    }
    found
}

fn with_arguments() -> (Space, Registry) {
    let (space, registry) = (space_with_base(), Registry::open());
    dockerfile(
        &space,
        "FROM base AS app
ARG WORD
RUN --mount=type=secret,id=key test -s /run/secrets/key && echo \"$WORD\" > /word
",
    );
    space.write("key", "hush-hush");
    (space, registry)
}

#[test]
fn what_is_pushed_says_how_it_was_made() {
    let (space, registry) = with_arguments();
    let name = format!("{}/team/app:1", registry.host);
    build(&space, &format!("--push -t {name} --build-arg WORD=hello --secret id=key,src=key")).run.ok();
    let index = fetch(&space, &registry, "team/app/manifests/1");
    let said = statements(&space, &registry, "team/app", &index);
    let [(kind, provenance)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(kind, "https://slsa.dev/provenance/v1");
    let definition = &provenance["buildDefinition"];
    assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
    let base = &definition["resolvedDependencies"][0];
    assert_eq!(base["uri"], "pkg:docker/base@latest?platform=linux%2Famd64");
    let id = text(&space.json("image inspect base")[0]["Id"]);
    assert_eq!(format!("sha256:{}", text(&base["digest"]["sha256"])), id);
    let metadata = &provenance["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
    assert!(text(&metadata["startedOn"]) <= text(&metadata["finishedOn"]), "{metadata}");
    assert!(!provenance.to_string().contains("hello"), "values of arguments are told with mode=max only");

    // The whole of it: arguments and ids of secrets, never their values.
    let options = "--provenance=mode=max,builder-id=https://example.org/me,reproducible=true";
    build(&space, &format!("--push {options} -t {name} --build-arg WORD=hello --secret id=key,src=key"))
        .run
        .ok();
    let index = fetch(&space, &registry, "team/app/manifests/1");
    let [(_, provenance)] = &*statements(&space, &registry, "team/app", &index) else { panic!("{index}") };
    let request = &provenance["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:WORD"], "hello");
    assert_eq!(request["secrets"], json!([{ "id": "key" }]));
    assert_eq!(provenance["runDetails"]["builder"]["id"], "https://example.org/me");
    assert_eq!(provenance["runDetails"]["metadata"]["buildkit_reproducible"], true);
    let steps = provenance["buildDefinition"]["internalParameters"]["buildConfig"]["steps"].to_string();
    assert!(steps.contains("RUN --mount=type=secret"), "{steps}");
    assert!(!provenance.to_string().contains("hush-hush"));

    // Others find the image in it, and so does a pull.
    let seen = tool(&space, "skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    assert!(seen.contains("\"linux\""), "{seen}");
    space.quern(&format!("--state other image pull {name}")).ok();
}

#[test]
fn provenance_is_attached_where_it_can_be_and_is_wanted() {
    let (space, registry) = with_arguments();
    let with = "--secret id=key,src=key";
    let name = format!("{}/team/app:1", registry.host);
    build(&space, &format!("--push --provenance=false -t {name} {with}")).run.ok();
    let manifest = fetch(&space, &registry, "team/app/manifests/1");
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    build(&space, &format!("-o type=docker,dest=docker.tar -t app {with}")).run.ok();
    build(&space, &format!("-o type=oci,dest=oci.tar -t app {with}")).run.ok();
    let kinds = |file: &str| {
        tool(&space, "tar", &["-xf", file, "index.json"]);
        let index: Value = serde_json::from_str(&space.read("index.json")).unwrap();
        text(&index["manifests"][0]["mediaType"])
    };
    assert!(kinds("oci.tar").ends_with("index.v1+json"));
    assert!(kinds("docker.tar").ends_with("manifest.v2+json"));
    tool(&space, "skopeo", &["copy", "oci-archive:oci.tar", "oci:copied:x"]);
    for bad in ["mode=most", "colour=red", "version=v0.2"] {
        build(&space, &format!("--provenance={bad} {with}")).run.says(2, &["--provenance"]);
    }
}

/// A repository that git's own server offers until this is dropped.
struct GitServer {
    child: Child,
    address: String,
}

impl GitServer {
    fn open(space: &Space) -> Self {
        tool(space, "git", &["-C", "app", "init", "-q", "-b", "main"]);
        tool(space, "git", &["-C", "app", "add", "."]);
        let who = ["-c", "user.name=t", "-c", "user.email=t@t"];
        tool(space, "git", &[&["-C", "app"], &who[..], &["commit", "-q", "-m", "one"]].concat());
        let programs = tool(space, "git", &["--exec-path"]);
        loop {
            let host = free_port();
            let port = host.rsplit_once(':').map_or("", |(_, port)| port);
            let mut child = Command::new(format!("{}/git-daemon", programs.trim()))
                .args(["--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
                .arg(format!("--base-path={}", space.path("").display()))
                .stderr(Stdio::null())
                .spawn()
                .expect("git has a server");
            if answers(&mut child, &host) {
                return Self { child, address: format!("git://{host}/app") };
            }
        }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_was_read_is_complete_if_nothing_came_from_this_machine() {
    let space = space_with_base();
    let last = "FROM base\nCOPY one /one\nRUN --network=none cat /one > /two\n";
    dockerfile(&space, &format!("FROM base AS more\nCOPY --from=more-files one /\n{last}"));
    space.write("app/one", "1");
    let server = GitServer::open(&space);
    let said = |options: &str, context: &str| {
        space.quern(&format!("build --metadata-file meta.json {options} {context}")).ok();
        let metadata: Value = serde_json::from_str(&space.read("meta.json")).unwrap();
        metadata["buildx.build.provenance"].clone()
    };
    let facts = |said: &Value| {
        let metadata = &said["runDetails"]["metadata"];
        let of = |what: &Value| what.as_bool().unwrap_or(false);
        let complete = &metadata["buildkit_completeness"];
        (of(&complete["resolvedDependencies"]), of(&metadata["buildkit_hermetic"]), of(&complete["request"]))
    };
    // Files of this machine are listed nowhere.
    assert_eq!(facts(&said("", "app")), (false, false, true));
    // A repository is, with its commit.
    let fetched = said("", &server.address);
    assert_eq!(facts(&fetched), (true, true, true));
    let commit = tool(&space, "git", &["-C", "app", "rev-parse", "HEAD"]);
    let read = &fetched["buildDefinition"]["resolvedDependencies"];
    let source = json!({ "uri": server.address, "digest": { "sha1": commit.trim() } });
    assert!(read.as_array().unwrap().contains(&source), "{read}");
    // A command that sees the network may read what is listed nowhere; it is told apart, by BuildKit's rule.
    assert_eq!(facts(&said("--target two", &with_network(&space, &server))), (true, false, true));
    // Also directories with names are of this machine, if something reads them, and arguments may be left out.
    assert_eq!(
        facts(&said("--build-context more-files=app --target more", &server.address)),
        (false, false, false)
    );
    let options = "--build-context more-files=app --provenance=mode=max";
    assert_eq!(facts(&said(options, &server.address)), (true, true, true));
}

#[test]
fn an_archive_of_the_web_is_listed_as_what_was_read() {
    let (space, registry) = (space_with_base(), Registry::open());
    dockerfile(&space, "FROM scratch\nCOPY . /\n");
    build(&space, &format!("--provenance=false --push -t {}/context", registry.host)).run.ok();
    // The layer is an archive with a Dockerfile in it.
    let layer = text(&fetch(&space, &registry, "context/manifests/latest")["layers"][0]["digest"]);
    let address = format!("http://{}/v2/context/blobs/{layer}", registry.host);
    space.quern(&format!("build --metadata-file meta.json {address}")).ok();
    let metadata: Value = serde_json::from_str(&space.read("meta.json")).unwrap();
    let said = &metadata["buildx.build.provenance"];
    let source = json!({ "uri": address, "digest": { "sha256": layer.replace("sha256:", "") } });
    assert_eq!(said["buildDefinition"]["resolvedDependencies"], json!([source]));
    assert_eq!(said["buildDefinition"]["externalParameters"]["configSource"]["uri"], source["uri"]);
    assert_eq!(said["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], true);
}

/// The same repository with another commit, of which a stage sees the network.
fn with_network(space: &Space, server: &GitServer) -> String {
    dockerfile(space, "FROM base\nCOPY one /one\nRUN cat /one > /two\nFROM base AS two\nRUN true\n");
    let who = ["-c", "user.name=t", "-c", "user.email=t@t"];
    tool(space, "git", &[&["-C", "app"], &who[..], &["commit", "-q", "-a", "-m", "two"]].concat());
    let address = format!("{}#two", server.address);
    tool(space, "git", &["-C", "app", "branch", "two"]);
    tool(space, "git", &["-C", "app", "reset", "-q", "--hard", "HEAD~1"]);
    address
}

#[test]
fn a_program_lists_what_is_in_an_image() {
    let (space, registry) = (space_with_base(), Registry::open());
    dockerfile(&space, "FROM base\nRUN echo 1 > /listed\n");
    let program = space.write(
        "lister",
        "#!/bin/sh\ntest -f \"$1/listed\" || exit 7\nprintf '{\"spdxVersion\":\"SPDX-2.3\",\"files\":[\"listed\"]}'\n",
    );
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let name = format!("{}/app", registry.host);
    build(&space, &format!("--push -t {name} --sbom=generator={}", program.display())).run.ok();
    let index = fetch(&space, &registry, "app/manifests/latest");
    let said = statements(&space, &registry, "app", &index);
    let kinds: Vec<&str> = said.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
    assert_eq!(said[0].1["files"], json!(["listed"]));
    // One that fails, or writes something else, fails the build; nothing is pushed.
    for (script, says) in [("exit 3", "ended with"), ("echo no", "no JSON"), ("echo '{}'", "spdxVersion")] {
        space.write("lister", format!("#!/bin/sh\n{script}\n"));
        let bad = format!("--push -t {}/bad --sbom=generator={}", registry.host, program.display());
        build(&space, &bad).run.says(1, &[says]);
    }
    build(&space, &format!("--push -t {name} --sbom=generator=/nowhere")).run.fails(3);
    let listed = fetch(&space, &registry, "_catalog");
    assert_eq!(listed["repositories"], json!(["app"]));
}

#[test]
fn metadata_has_the_keys_of_buildx() {
    let (space, registry) = (space_with_base(), Registry::open());
    dockerfile(&space, "FROM base\nRUN echo 1 > /one\n");
    let name = format!("{}/app:1", registry.host);
    let id = build(&space, &format!("--push -t {name} --metadata-file meta.json")).id();
    let metadata: Value = serde_json::from_str(&space.read("meta.json")).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], Value::from(id.clone()));
    assert_eq!(metadata["image.name"], Value::from(name));
    assert_eq!(metadata["containerimage.digest"], metadata["containerimage.descriptor"]["digest"]);
    assert_eq!(
        metadata["buildx.build.provenance"]["buildDefinition"]["resolvedDependencies"][0]["uri"],
        "pkg:docker/base@latest?platform=linux%2Famd64"
    );
    let reference = text(&metadata["buildx.build.ref"]);
    assert!(
        reference
            .ends_with(&text(&metadata["buildx.build.provenance"]["runDetails"]["metadata"]["invocationId"]))
    );
    let digest = text(&metadata["containerimage.digest"]);
    fetch(&space, &registry, &format!("app/manifests/{digest}"));
    // Kept only, it has its id.
    build(&space, "-t app --metadata-file meta.json").run.ok();
    let metadata: Value = serde_json::from_str(&space.read("meta.json")).unwrap();
    assert_eq!(metadata["containerimage.digest"], Value::from(id));
    assert_eq!(metadata["image.name"], "docker.io/library/app:latest");
}
