//! Graphs, selections, staleness and plans.

use std::collections::BTreeMap;

use quern_builds::{
    BuildPlan, DatasetBranch, Facts, Fresh, Freshness, Head, JobSpecId, JobSpecs, LastBuilt, PlanError,
    Request, Selection, SelectionError, SpecError, Staleness, plan,
};
use quern_core::{Digest, Version};

use crate::words::{branch, branches, head, id, spec, specs};

/// What a test knows of the world.
#[derive(Default)]
struct World {
    heads: BTreeMap<DatasetBranch, Head>,
    last: BTreeMap<JobSpecId, LastBuilt>,
}

impl World {
    /// Every dataset at its first commit, every spec built from these.
    fn fresh(specs: &JobSpecs) -> Self {
        let mut world = Self::default();
        for spec in specs.in_order() {
            for branch in spec.inputs.iter().map(|i| &i.source).chain(&spec.outputs) {
                world.heads.insert(branch.clone(), head(1, &branch.dataset));
            }
        }
        for spec in specs.in_order() {
            let heads =
                |of: Vec<&DatasetBranch>| of.into_iter().map(|b| (b.clone(), world.heads[b])).collect();
            let last = LastBuilt {
                version: Version,
                job: id(9),
                logic: spec.logic,
                inputs: heads(spec.inputs.iter().map(|i| &i.source).collect()),
                outputs: heads(spec.outputs.iter().collect()),
            };
            world.last.insert(spec.id.clone(), last);
        }
        world
    }

    fn plan(&self, specs: &JobSpecs, request: &Request) -> Result<BuildPlan, PlanError> {
        plan(request, &Facts { specs, heads: &self.heads, last_built: &self.last })
    }
}

fn names(plan: &BuildPlan) -> String {
    plan.jobs.iter().map(|job| job.spec.0.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn graphs_that_are_refused() {
    let check = |texts: &[&str], expected: &str| {
        let error = JobSpecs::new(texts.iter().map(|text| spec(text)).collect()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(&["a > a"], "job specs feed each other in a ring: `a` -> `a`");
    check(
        &["x c > a", "a > b", "b > c", "c > d"],
        "job specs feed each other in a ring: `b` -> `c` -> `a` -> `b`",
    );
    check(
        &["a > b c", "a > c"],
        "`c@master` is written by job specs `b+c` and `c`; let one of them write elsewhere",
    );
    check(&["a > b", "x > b"], "job spec `b` is given twice");
    check(&["a > "], "job spec `` has no output; give it one");
    let mut odd = spec("a > b");
    odd.inputs[0].source.dataset = "a@b".into();
    assert!(matches!(JobSpecs::new(vec![odd]), Err(SpecError::Name { .. })));
}

#[test]
fn a_long_chain_needs_no_deep_stack() {
    let texts: Vec<String> = (0..50_000).map(|i| format!("d{} > d{i}", i + 1)).collect();
    let specs = JobSpecs::new(texts.iter().map(|text| spec(text)).collect()).unwrap();
    assert_eq!(specs.in_order()[0].id.0, "d49999");
}

/// The graph of most tests: `a` is raw; `b` and `c` are made from it, `d` from both, `e` from `d`; `z` from raw `y`.
const DIAMOND: &[&str] = &["a > b", "a > c", "b c > d", "d > e", "y > z"];

#[test]
fn selections() {
    let specs = specs(DIAMOND);
    let check = |selection: Selection, expected: &str| {
        let request = Request { force: true, ..Request::of(selection) };
        let plan = World::default().plan(&specs, &request).unwrap();
        let mut found: Vec<&str> = plan.jobs.iter().map(|job| job.spec.0.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), expected, "{request:?}");
    };
    let upstream = |of: &[&str], ignoring: &[&str]| Selection::Upstream {
        of: branches(of),
        ignoring: branches(ignoring),
    };
    let connecting = |from: &[&str], to: &[&str], ignoring: &[&str]| Selection::Connecting {
        from: branches(from),
        to: branches(to),
        ignoring: branches(ignoring),
    };
    check(Selection::All, "b c d e z");
    check(Selection::Datasets { branches: branches(&["d", "z", "d"]), required: true }, "d z");
    check(Selection::Datasets { branches: branches(&["d", "a"]), required: false }, "d");
    check(Selection::JobSpecs { specs: vec![JobSpecId::new("e")], required: true }, "e");
    check(Selection::JobSpecs { specs: vec![JobSpecId::new("none")], required: false }, "");
    check(upstream(&["d"], &[]), "b c d");
    check(upstream(&["e"], &["d"]), "e");
    check(upstream(&["e"], &["b"]), "c d e");
    check(upstream(&["d"], &["d"]), "");
    check(connecting(&["a"], &["d"], &[]), "b c d");
    check(connecting(&["b"], &["e"], &[]), "d e");
    check(connecting(&["b"], &["c"], &[]), "");
    check(connecting(&["a"], &["e"], &["b"]), "c d e");
    check(connecting(&["a", "b"], &["d"], &[]), "b c d");
    check(connecting(&["a"], &["b", "z"], &[]), "b");
    check(connecting(&["d"], &["d"], &[]), "");
    check(Selection::Downstream { of: branches(&["a"]) }, "b c d e");
    check(Selection::Downstream { of: branches(&["c", "y"]) }, "d e z");
    check(Selection::Downstream { of: branches(&["e"]) }, "");
}

#[test]
fn selections_of_what_is_not_there() {
    let specs = specs(DIAMOND);
    let check = |selections: Vec<Selection>, expected: PlanError| {
        let request = Request { selections, force: false, input_failures: BTreeMap::new() };
        assert_eq!(World::default().plan(&specs, &request), Err(expected));
    };
    check(vec![], PlanError::NoSelection);
    check(
        vec![Selection::Datasets { branches: branches(&["a"]), required: true }],
        SelectionError::NoProducer(branch("a")).into(),
    );
    check(
        vec![Selection::JobSpecs { specs: vec![JobSpecId::new("q")], required: true }],
        SelectionError::UnknownSpec(JobSpecId::new("q")).into(),
    );
}

#[test]
fn a_diamond_is_built_once() {
    let specs = specs(DIAMOND);
    let mut world = World::fresh(&specs);
    world.heads.insert(branch("a"), head(2, "a2"));
    let selections = vec![
        Selection::Downstream { of: branches(&["a"]) },
        Selection::Datasets { branches: branches(&["d"]), required: true },
    ];
    let request = Request { selections, force: false, input_failures: BTreeMap::new() };
    let plan = world.plan(&specs, &request).unwrap();
    assert_eq!(names(&plan), "b c d e");
    let reasons: Vec<Vec<String>> =
        plan.jobs.iter().map(|job| job.reasons.iter().map(ToString::to_string).collect()).collect();
    let advanced = "input a@master advanced from 000000000000 to 000000000000";
    assert_eq!(reasons[0], [advanced]);
    assert_eq!(reasons[1], [advanced]);
    assert_eq!(
        reasons[2],
        ["input b@master is rebuilt by `b` in this build", "input c@master is rebuilt by `c` in this build"]
    );
    assert_eq!(plan.jobs[2].waits_for().len(), 2);
}

#[test]
fn staleness_of_one_spec() {
    let specs = specs(&["a b > c"]);
    let c = JobSpecId::new("c");
    let check = |change: &dyn Fn(&mut World, &mut Request), expected: Result<Vec<Staleness>, Fresh>| {
        let mut world = World::fresh(&specs);
        let mut request = Request::of(Selection::All);
        change(&mut world, &mut request);
        let plan = world.plan(&specs, &request).unwrap();
        let found = match (plan.jobs.as_slice(), plan.skipped.as_slice()) {
            ([job], []) => Ok(job.reasons.clone()),
            ([], [skipped]) => Err(skipped.why.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected);
    };
    let advanced = |from: Option<u64>, to: Option<u64>| Staleness::InputAdvanced {
        input: branch("a"),
        from: from.map(id),
        to: to.map(id),
    };
    let other = Digest::of(b"other");
    let logic = Staleness::LogicChanged { from: other, to: Digest::of(b"logic") };
    check(&|_, _| {}, Err(Fresh::Unchanged { since: id(9) }));
    check(&|w, _| w.last.clear(), Ok(vec![Staleness::NeverBuilt]));
    check(&|w, _| w.last.get_mut(&c).unwrap().logic = other, Ok(vec![logic.clone()]));
    check(&|w, _| w.heads.extend([(branch("a"), head(2, "a"))]), Ok(vec![advanced(Some(1), Some(2))]));
    check(&|w, _| w.heads.retain(|b, _| *b != branch("a")), Ok(vec![advanced(Some(1), None)]));
    check(
        &|w, _| w.last.get_mut(&c).unwrap().inputs.retain(|b, _| *b != branch("a")),
        Ok(vec![advanced(None, Some(1))]),
    );
    check(&|_, r| r.force = true, Ok(vec![Staleness::Forced]));
    check(
        &|w, r| {
            (w.last.get_mut(&c).unwrap().logic, r.force) = (other, true);
            w.heads.insert(branch("a"), head(2, "a"));
        },
        Ok(vec![Staleness::Forced, logic.clone(), advanced(Some(1), Some(2))]),
    );
    let nothing_yet = |w: &mut World| {
        w.last.clear();
        w.heads.clear();
    };
    check(&|w, _| nothing_yet(w), Err(Fresh::AwaitsInput));
    check(
        &|w, _| {
            nothing_yet(w);
            w.heads.insert(branch("a"), head(1, "a"));
        },
        Ok(vec![Staleness::NeverBuilt]),
    );
}

#[test]
fn an_input_read_twice_is_one_reason() {
    let specs = specs(&["a a > b"]);
    let mut world = World::fresh(&specs);
    world.heads.insert(branch("a"), head(2, "a2"));
    let plan = world.plan(&specs, &Request::of(Selection::All)).unwrap();
    assert_eq!((plan.jobs[0].reasons.len(), plan.jobs[0].inputs.len()), (1, 1));
}

#[test]
fn kinds_of_freshness() {
    let check = |text: &str, freshness, force, expected: &str| {
        let mut spec = spec(text);
        spec.freshness = freshness;
        let specs = JobSpecs::new(vec![spec]).unwrap();
        let request = Request { force, ..Request::of(Selection::All) };
        let plan = World::fresh(&specs).plan(&specs, &request).unwrap();
        let reasons = plan.jobs.iter().flat_map(|job| &job.reasons).map(ToString::to_string);
        let all: Vec<String> =
            reasons.chain(plan.skipped.iter().map(|skipped| skipped.why.to_string())).collect();
        assert_eq!(all.join("; "), expected);
    };
    let unchanged = "neither its logic nor its inputs changed since job 000000000000";
    check("> a", Freshness::ByInputs, false, unchanged);
    check("> a", Freshness::NeverStale, false, "it is built only when forced");
    check("> a", Freshness::NeverStale, true, "a rebuild was asked for");
    check("x > a", Freshness::AlwaysStale, false, "it is never taken as up to date");
    check("x > a", Freshness::AlwaysStale, true, "a rebuild was asked for; it is never taken as up to date");
}

#[test]
fn only_what_is_built_here_makes_readers_stale() {
    let specs = specs(&["a > b", "b > c"]);
    let mut world = World::fresh(&specs);
    world.heads.insert(branch("a"), head(2, "a2"));
    let only_c = Request::of(Selection::Datasets { branches: branches(&["c"]), required: true });
    let plan = world.plan(&specs, &only_c).unwrap();
    assert_eq!(
        (names(&plan).as_str(), plan.skipped.len()),
        ("", 1),
        "b is not selected, so c sees what there is"
    );
    assert_eq!(names(&world.plan(&specs, &Request::of(Selection::All)).unwrap()), "b c");
}
