//! Dockerfiles as a caller reads them.

use quern_spec::diagnostic::{Plain, render};
use quern_spec::dockerfile::{
    Action, BaseConfig, Origin, Platform, Request, Step, parse_dockerfile, plan_stages,
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
