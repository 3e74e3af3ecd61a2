//! Random graphs, random schedules, random trouble.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assume, proptest};
use proptest::test_runner::Config;
use quern_builds::{
    AttemptEnd, BuildPolicy, BuildStatus, DatasetBranch, Fresh, JobSpec, JobSpecs, Request, Selection,
};

use crate::words::{branch, spec};
use crate::world::{ALL, NONE, Trouble, World};

/// Specs `s0` to `s<n>`; each reads raw datasets `r0` to `r2` or the outputs of earlier ones. Given in random order.
fn graphs() -> impl Strategy<Value = JobSpecs> {
    let one = (vec(any::<u8>(), 1..4), any::<bool>());
    vec(one, 1..9).prop_shuffle().prop_map(|descriptions| {
        let specs: Vec<JobSpec> = descriptions
            .into_iter()
            .enumerate()
            .map(|(i, (inputs, second))| describe(i, &inputs, second))
            .collect();
        JobSpecs::new(specs).unwrap()
    })
}

fn describe(i: usize, inputs: &[u8], second_output: bool) -> JobSpec {
    let inputs: Vec<String> = inputs
        .iter()
        .map(|n| match usize::from(*n) % (i + 3) {
            raw @ 0..3 => format!("r{raw}"),
            earlier => format!("s{}", earlier - 3),
        })
        .collect();
    let second = if second_output { format!("t{i}") } else { String::new() };
    spec(&format!("{} > s{i} {second}", inputs.join(" ")))
}

fn world(specs: &JobSpecs) -> World {
    let mut world = World::new(specs.clone());
    for raw in ["r0", "r1", "r2"] {
        world.commit(&branch(raw), raw);
    }
    world
}

fn everything() -> Request {
    Request::of(Selection::All)
}

fn policy(attempts: u32) -> BuildPolicy {
    BuildPolicy { attempts, ..BuildPolicy::default() }
}

proptest! {
    #![proptest_config(Config::with_cases(100))]

    #[test]
    fn a_plan_is_in_order_and_holds_each_spec_once(specs in graphs(), picks in vec(any::<usize>(), 1..4)) {
        let world = world(&specs);
        let ids: Vec<_> = specs.in_order().iter().map(|s| s.id.clone()).collect();
        let wanted = picks.iter().map(|n| ids[n % ids.len()].clone()).collect();
        let selections = vec![
            Selection::JobSpecs { specs: wanted, required: true },
            Selection::Downstream { of: vec![branch("r0")] },
        ];
        let plan = world.plan(&Request { selections, force: false, input_failures: BTreeMap::new() });
        let mut seen = BTreeSet::new();
        for (i, job) in plan.jobs.iter().enumerate() {
            prop_assert!(seen.insert(job.spec.clone()));
            prop_assert!(!job.reasons.is_empty());
            prop_assert!(job.waits_for().iter().all(|other| (other.0 as usize) < i));
            for input in &job.inputs {
                let writer = plan.jobs.iter().position(|other| other.outputs.contains(&input.source));
                prop_assert_eq!(input.producer.map(|p| p.0 as usize), writer);
            }
        }
    }

    #[test]
    fn after_a_build_everything_is_fresh(specs in graphs(), choices in vec(any::<u32>(), 0..200)) {
        let mut world = world(&specs);
        let plan = world.plan(&everything());
        prop_assert_eq!(plan.jobs.len(), specs.in_order().len());
        let progress = world.open(plan, policy(1));
        let build = world.run(progress, &choices, NONE);
        prop_assert_eq!(build.status(), BuildStatus::Succeeded);
        prop_assert_eq!(world.executed.len(), specs.in_order().len());
        let again = world.plan(&everything());
        prop_assert!(again.jobs.is_empty());
        let unchanged = again.skipped.iter().all(|s| matches!(s.why, Fresh::Unchanged { .. }));
        prop_assert!(unchanged);
    }

    #[test]
    fn a_change_runs_each_job_downstream_at_most_once_and_ends_like_a_clean_build(
        specs in graphs(), edits in vec((0..3usize, "[ab]"), 1..5), choices in vec(any::<u32>(), 0..200),
    ) {
        let mut world = world(&specs);
        let progress = { let plan = world.plan(&everything()); world.open(plan, policy(1)) };
        world.run(progress, &choices, NONE);
        for (raw, content) in edits {
            let raw = branch(&format!("r{raw}"));
            world.commit(&raw, &content);
            world.executed.clear();
            let plan = world.plan(&Request::of(Selection::Downstream { of: vec![raw] }));
            let planned: BTreeSet<_> = plan.jobs.iter().map(|job| job.spec.clone()).collect();
            let progress = world.open(plan, policy(1));
            world.run(progress, &choices, NONE);
            let executed: Vec<_> = world.executed.iter().map(|(spec, _)| spec.clone()).collect();
            prop_assert_eq!(executed.iter().collect::<BTreeSet<_>>().len(), executed.len());
            prop_assert!(executed.iter().all(|spec| planned.contains(spec)));
        }
        let mut clean = World::new(specs.clone());
        clean.heads = world.heads.iter().filter(|(b, _)| b.dataset.starts_with('r')).map(|(b, h)| (b.clone(), *h)).collect();
        let progress = { let plan = clean.plan(&everything()); clean.open(plan, policy(1)) };
        clean.run(progress, &choices, NONE);
        let contents = |world: &World| -> BTreeMap<DatasetBranch, _> {
            world.heads.iter().map(|(branch, head)| (branch.clone(), head.content)).collect()
        };
        prop_assert_eq!(contents(&world), contents(&clean));
        prop_assert!(world.plan(&everything()).jobs.is_empty());
    }

    #[test]
    fn trouble_ends_in_order(
        specs in graphs(), choices in vec(any::<u32>(), 0..300), attempts in 0u32..4, finish_on_failure: bool,
    ) {
        let mut world = world(&specs);
        let plan = world.plan(&everything());
        let progress = world.open(plan, BuildPolicy { finish_on_failure, ..policy(attempts) });
        let build = world.run(progress, &choices, ALL);
        for job in build.jobs() {
            let failures = job.attempts.iter().filter(|a| matches!(a.ended, Some((_, AttemptEnd::Failed(_))))).count();
            prop_assert!(failures as u32 <= attempts.max(1));
            prop_assert!(job.attempts.iter().all(|attempt| attempt.ended.is_some()));
            prop_assert!(job.attempts.is_sorted_by(|a, b| a.number < b.number), "every execution has a number of its own");
            prop_assert!(job.state().has_ended());
        }
        // Once trouble is over, one more build puts everything right.
        let plan = world.plan(&everything());
        let progress = world.open(plan, policy(1));
        prop_assert_eq!(world.run(progress, &choices, NONE).status(), BuildStatus::Succeeded);
        prop_assert!(world.plan(&everything()).jobs.is_empty());
    }

    #[test]
    fn crashes_alone_change_no_outcome(specs in graphs(), choices in vec(any::<u32>(), 0..60)) {
        let crashes = choices.iter().filter(|c| **c % 16 == 15).count();
        prop_assume!(crashes < 10);
        let outcome = |trouble: Trouble| {
            let mut world = world(&specs);
            let progress = { let plan = world.plan(&everything()); world.open(plan, policy(1)) };
            let build = world.run(progress, &choices, trouble);
            let contents: Vec<_> = world.heads.into_iter().map(|(branch, head)| (branch, head.content)).collect();
            (build.status(), contents)
        };
        prop_assert_eq!(outcome(NONE), outcome(Trouble { crashes: true, ..NONE }));
    }

    #[test]
    fn a_plan_does_not_depend_on_the_order_of_specs(specs in graphs(), seed: u64) {
        let mut shuffled = specs.in_order().to_vec();
        let len = shuffled.len();
        for i in 0..len {
            shuffled.swap(i, (seed as usize).wrapping_mul(i + 7) % len);
        }
        let again = JobSpecs::new(shuffled).unwrap();
        prop_assert_eq!(world(&specs).plan(&everything()), world(&again).plan(&everything()));
    }
}

#[test]
fn builds_of_the_same_outputs_take_turns() {
    let specs = JobSpecs::new(vec![spec("r0 > s0"), spec("s0 > s1")]).unwrap();
    let mut world = world(&specs);
    let force = Request { force: true, ..everything() };
    let first = world.open(world.plan(&force), policy(1));
    let second_plan = world.plan(&force);
    let mut queues = quern_builds::OutputQueues::default();
    let ids: Vec<_> = first.build.jobs().iter().map(|job| (job.id, job.plan.outputs.clone())).collect();
    for (id, outputs) in &ids {
        assert!(queues.enter(*id, outputs));
    }
    for (n, job) in (900..).zip(&second_plan.jobs) {
        assert!(!queues.enter(crate::words::id(n), &job.outputs), "the second build waits");
    }
    assert_eq!(queues.leave(ids[0].0), [crate::words::id(900)]);
    assert_eq!(queues.leave(ids[1].0), [crate::words::id(901)]);
}
