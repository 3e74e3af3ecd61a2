//! Dockerfiles as a caller reads them.

use quern_spec::diagnostic::{Plain, render};
use quern_spec::dockerfile::{
    Action, BaseConfig, DockerIgnore, Origin, Platform, Request, Step, parse_dockerfile, plan_stages,
};
use quern_spec::source::SourceText;

/// The steps of the target, and everything that was reported.
fn steps(text: &str, request: &Request) -> (Vec<Step>, String) {
    let source = SourceText::new("Dockerfile", text);
    let (dockerfile, mut problems) = parse_dockerfile(&source);
    let mut steps = Vec::new();
    if !problems.has_errors() {
        let (plan, more) = plan_stages(&dockerfile, request);
        problems.extend(more);
        if let Some(plan) = plan {
            let mut scopes = std::collections::BTreeMap::new();
            for index in &plan.order {
                let stage = &plan.stages[*index];
                let mut scope = match stage.base {
                    Origin::Stage(base) => quern_spec::dockerfile::Scope::child(&scopes[&base]),
                    _ => plan.scope(&BaseConfig::default()),
                };
                steps.clear();
                for instruction in &stage.instructions {
                    steps.extend(scope.apply(instruction, &mut problems));
                }
                scopes.insert(*index, scope);
            }
        }
    }
    (steps, render(&problems, &source, &Plain))
}

fn request() -> Request {
    Request::new(Platform::new("linux", "amd64", ""))
}

#[track_caller]
fn check_history(text: &str, expected: &[&str]) {
    let (steps, shown) = steps(text, &request());
    let history: Vec<&str> = steps.iter().map(|step| step.created_by.as_str()).collect();
    assert_eq!(history, expected, "{text}\n{shown}");
}

/// The first line of every diagnostic, without the name of the file.
#[track_caller]
fn check_problems(text: &str, expected: &[&str]) {
    let (_, shown) = steps(text, &request());
    let heads: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("Dockerfile:")).collect();
    assert_eq!(heads, expected, "{text}\n{shown}");
}

#[test]
fn one_instruction_sees_one_environment() {
    check_history(
        "FROM scratch\nENV a=1\nENV a=2 b=$a\nRUN echo\n",
        &["ENV a=1", "ENV a=2 b=1", "RUN /bin/sh -c echo # buildkit"],
    );
    check_history(
        "ARG g=global\nFROM scratch\nARG g h=$g i\nRUN x\n",
        &["ARG g=global h=global i", "RUN |3 g=global h=global i= /bin/sh -c x # buildkit"],
    );
}

#[test]
fn here_documents_are_commands_scripts_or_files() {
    let text = "FROM scratch\nRUN <<EOF\necho $x\nEOF\nRUN <<-A cat <<B\n\ta\n\tA\nb\nB\nCOPY <<\"X\" <<Y /d/\n$x\nX\n${x:-y}\nY\n";
    let (steps, shown) = steps(text, &request());
    let Action::Run(run) = &steps[0].action else { panic!("{shown}") };
    assert_eq!(run.argv, ["/bin/sh", "-c", "echo $x\n"]);
    let Action::Run(run) = &steps[1].action else { panic!("{shown}") };
    assert_eq!(run.argv[2], "<<-A cat <<B\n\ta\nA\nb\nB");
    let Action::Copy(copy) = &steps[2].action else { panic!("{shown}") };
    let files: Vec<_> = copy.files.iter().map(|file| (file.path.as_str(), file.content.as_str())).collect();
    assert_eq!(files, [("X", "$x\n"), ("Y", "y\n")]);
}

#[test]
fn every_problem_is_reported_at_its_place() {
    check_problems(
        "FORM x\nFROM scratch\nRUM a\nCOPY --frm=x a b\nRUN --mount=type=cach,target=/a x\n",
        &[
            "1:1: error[unknown-instruction]: unknown instruction `FORM`",
            "3:1: error[unknown-instruction]: unknown instruction `RUM`",
            "4:6: error[unknown-flag]: COPY has no flag `--frm`",
            "5:5: error[invalid-mount]: unknown mount type `cach`: did you mean `cache`?",
        ],
    );
}

/// Names of what a stage of the plan needs, and the order.
fn plan(text: &str, request: &Request) -> Result<quern_spec::dockerfile::Plan, String> {
    let source = SourceText::new("Dockerfile", text);
    let (dockerfile, problems) = parse_dockerfile(&source);
    assert!(!problems.has_errors(), "{}", render(&problems, &source, &Plain));
    let (plan, problems) = plan_stages(&dockerfile, request);
    plan.ok_or_else(|| render(&problems, &source, &Plain))
}

const STAGES: &str = "FROM alpine AS base\nFROM base AS tools\nRUN --mount=from=data,target=/d x\nFROM scratch AS docs\n\
    COPY --from=tools /a /b\nCOPY --from=busybox:latest /a /b\nFROM base\nCOPY --from=tools /x /\nCOPY --from=3 /self /\n";

#[test]
fn only_needed_stages_are_planned_each_after_what_it_needs() {
    let text = STAGES.replace("COPY --from=3 /self /\n", "");
    let found = plan(&text, &request()).unwrap();
    assert_eq!((found.order.clone(), found.target), (vec![0, 1, 3], 3));
    assert_eq!(found.stages[1].base, Origin::Stage(0));
    assert_eq!(found.stages[1].takes, [Origin::Image("data".to_owned())]);
    assert_eq!(found.stages[3].name, "stage-3");
    let docs = plan(&text, &Request { target: Some("DOCS".to_owned()), ..request() }).unwrap();
    assert_eq!(docs.order, [0, 1, 2]);
    let number = plan(&text, &Request { target: Some("1".to_owned()), ..request() }).unwrap();
    assert_eq!(number.order, [0, 1]);
    let all = plan(&text, &Request { all_stages: true, ..request() }).unwrap();
    assert_eq!(all.order, [0, 1, 2, 3]);
}

#[test]
fn targets_that_do_not_exist_and_circles_are_refused() {
    let text = STAGES.replace("COPY --from=3 /self /\n", "");
    let problem = plan(&text, &Request { target: Some("tool".to_owned()), ..request() }).unwrap_err();
    assert!(problem.contains("there is no stage `tool`") && problem.contains("did you mean `tools`?"));
    let problem = plan(STAGES, &request()).unwrap_err();
    assert!(
        problem.contains("Dockerfile:9:1: error[unknown-stage]: the stage takes files from itself"),
        "{problem}"
    );
}

#[test]
fn named_contexts_stand_in_for_stages_and_images() {
    let contexts = ["tools", "docker.io/library/busybox", "alpine"].map(str::to_owned).into();
    let request = Request { contexts, target: Some("docs".to_owned()), ..request() };
    let found = plan(&STAGES.replace("COPY --from=3 /self /\n", ""), &request).unwrap();
    assert_eq!(found.order, [1, 2], "nothing of the stage that is replaced is needed");
    assert_eq!(found.stages[1].base, Origin::Context("tools".to_owned()));
    assert!(found.stages[1].instructions.is_empty());
    assert_eq!(found.stages[2].takes, [Origin::Context("docker.io/library/busybox".to_owned())]);
    assert_eq!(found.stages[0].base, Origin::Context("alpine".to_owned()));
}

#[test]
fn triggers_of_images_come_first_and_may_need_more_stages() {
    let text = "FROM a AS tools\nFROM b AS unused\nFROM trigger\nRUN last\n";
    let mut found = plan(text, &request()).unwrap();
    assert_eq!(found.order, [2]);
    let triggers = ["COPY --from=tools /x /y".to_owned(), "RUN <<E\nx\nE".to_owned()];
    let problems = found.add_triggers(2, &triggers);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(found.order, [0, 2]);
    let kinds: Vec<&str> =
        found.stages[2].instructions.iter().map(|instruction| instruction.kind.name()).collect();
    assert_eq!((kinds, found.stages[2].triggers), (vec!["COPY", "RUN", "RUN"], 2));
    let problems = found.add_triggers(2, &["RUNN x".to_owned()]);
    assert_eq!(
        problems.iter().next().unwrap().span,
        Some(found.stages[2].span),
        "it stands where FROM stands"
    );
}

#[test]
fn build_arguments_nobody_declares_are_told() {
    let names = ["USED", "GLOBAL", "OTHER", "HTTP_PROXY", "TARGETARCH", "BUILDKIT_INLINE_CACHE"];
    let build_args = names.map(|name| (name.to_owned(), "1".to_owned())).into();
    let text = "ARG GLOBAL\nFROM scratch AS unused\nARG OTHER\nFROM scratch\nARG USED\nRUN x\n";
    let request = Request { build_args, ..request() };
    assert_eq!(plan(text, &request).unwrap().unused_build_args(), ["OTHER"]);
    let (steps, shown) = steps(text, &request);
    let Action::Run(run) = &steps[1].action else { panic!("{shown}") };
    let both = ["HTTP_PROXY", "http_proxy"].map(|name| (name.to_owned(), "1".to_owned()));
    assert_eq!(run.proxies, both, "programs look for either spelling");
    assert!(run.env.iter().all(|(name, _)| !name.eq_ignore_ascii_case("HTTP_PROXY")));
}

#[test]
fn mounts_have_the_defaults_of_their_types() {
    use quern_spec::dockerfile::{MountKind, Sharing};
    let text = "FROM a AS s\nFROM a\nWORKDIR /w\nENV d=deps\nRUN --mount=from=s,target=m --mount=type=cache,target=/c/$d/ \
        --mount=type=cache,id=k,target=x,sharing=private,uid=5,ro --mount=type=tmpfs,target=/t,size=1.5g \
        --mount=type=secret,target=/etc/key,required,mode=0440 --mount=type=secret,id=dir/tok,env=TOK \
        --mount=type=ssh x\n";
    let (steps, shown) = steps(text, &request());
    let Action::Run(run) = &steps[2].action else { panic!("{shown}") };
    let [bind, cache, private, tmpfs, file, variable, ssh] = run.mounts.as_slice() else { panic!("{run:?}") };
    assert_eq!((&bind.kind, &bind.from, bind.read_only), (&MountKind::Bind, &Some(Origin::Stage(0)), true));
    assert_eq!(bind.target, "/w/m");
    assert_eq!(cache.kind, MountKind::Cache { id: "/c/deps".to_owned(), sharing: Sharing::Shared });
    assert_eq!((cache.target.as_str(), cache.read_only, &cache.from), ("/c/deps", false, &None));
    assert_eq!(private.kind, MountKind::Cache { id: "k".to_owned(), sharing: Sharing::Private });
    assert_eq!((private.uid, private.read_only), (Some(5), true));
    assert_eq!(tmpfs.kind, MountKind::Tmpfs { size: Some(3 << 29) });
    let secret = |id: &str, env: Option<&str>, file: Option<&str>, required| MountKind::Secret {
        id: id.to_owned(),
        env: env.map(str::to_owned),
        file: file.map(str::to_owned),
        required,
    };
    assert_eq!((&file.kind, file.mode), (&secret("key", None, Some("/etc/key"), true), Some(0o440)));
    assert_eq!(variable.kind, secret("dir/tok", Some("TOK"), None, false));
    assert_eq!(ssh.kind, MountKind::Ssh { id: "default".to_owned(), required: false });
}

#[test]
fn sources_that_stay_behind_are_told() {
    let ignore = |lines| DockerIgnore::parse(&SourceText::new(".dockerignore", lines)).0;
    let warned = |lines, text| {
        let (_, shown) = steps(text, &Request { ignore: ignore(lines), ..request() });
        shown.matches("warning[CopyIgnoredFile]").count()
    };
    let text = "FROM scratch AS s\nFROM scratch\nCOPY a/b ./c /x/\nADD . /y/\nCOPY --from=s /a /z\n";
    assert_eq!(warned("a\nc\n", text), 2);
    assert_eq!(warned("*\n", text), 3);
    assert_eq!(warned("*\n!c\n", text), 0, "what comes back cannot be foreseen");
}

/// Shapes that a careless reader takes minutes or gigabytes for, and what becomes of them.
#[test]
fn hostile_files_are_read_or_refused() {
    let check = |about: &str, text: &str, expected: &str| {
        let (steps, shown) = steps(text, &request());
        let found = match shown.contains(": error[") {
            true => {
                shown.split("error[").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("").to_owned()
            }
            false => format!("{} steps", steps.len()),
        };
        assert_eq!(found, expected, "{about}: {}", shown.chars().take(1000).collect::<String>());
    };
    check("a line of a megabyte", &format!("FROM a\nRUN {}\n", "x ".repeat(500_000)), "1 steps");
    check("a million continuations", &format!("FROM a\nRUN x{}\n", " \\\n".repeat(1_000_000)), "1 steps");
    check("as many empty lines", &format!("FROM a\nRUN x \\\n{}y\n", "\n# c\n".repeat(500_000)), "1 steps");
    check("many variables", &format!("FROM a\nENV{}\n", " a=b".repeat(100_000)), "1 steps");
    check(
        "many names",
        &format!("FROM a\n{}", (0..3000).map(|n| format!("ARG n{n}=$x{n}\n")).collect::<String>()),
        "3000 steps",
    );
    check("deep substitutions", &format!("FROM a\nENV a={}\n", "${a:-".repeat(100_000)), "invalid-word");
    check("deep in FROM", &format!("FROM {}\n", "${a:-".repeat(100_000)), "invalid-word");
    check(
        "doubling variables",
        &format!("FROM a\nENV a=0123456789\n{}", "ENV a=$a$a\n".repeat(24)),
        "invalid-word",
    );
    check(
        "a large here-document",
        &format!("FROM a\nCOPY <<E /x\n{}E\n", "$x \"'\\\n".repeat(200_000)),
        "1 steps",
    );
    check("an open here-document", &format!("FROM a\nRUN <<E\n{}", "x\n".repeat(500_000)), "open-heredoc");
    check(
        "many here-documents",
        &format!("FROM a\nCOPY {}/x\n{}", "<<E ".repeat(2000), "E\n".repeat(2000)),
        "1 steps",
    );
    check("a long array", &format!("FROM a\nRUN [{}\"\"]\n", "\"a\",".repeat(100_000)), "1 steps");
    check("a deep array", &format!("FROM a\nRUN {}\n", "[".repeat(100_000)), "1 steps");
    check("all ports, often", &format!("FROM a\nEXPOSE{}\n", " 0-65535".repeat(1000)), "too-large");
    check("many triggers", &format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(50_000)), "invalid-trigger");
    check("characters of no width", "FROM a\nRUN \0x\u{200b}\u{7}\n\0\n", "unknown-instruction");
    check("many mistakes", &"FORM\n".repeat(200_000), "unknown-instruction");
}
