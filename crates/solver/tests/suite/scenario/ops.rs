//! The operation type of the scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use quern_core::Digest;
use quern_solver::{Blocking, CacheMap, CacheMapInput, Edge, MapStep, Op, OpContext, OpError, SharedResult};
use serde_json::Value;

use super::model::{Barrier, Definition, Kind, Phase, Seed};

/// A result: the value, and who made it.
pub struct Made {
    pub id: String,
    pub value: Value,
    pub handle: String,
    pub output: u32,
}

#[derive(Default, Clone, Copy)]
pub struct Counts {
    pub maps: u64,
    pub later_maps: u64,
    pub execs: u64,
}

/// What all operations of a scenario share.
#[derive(Default)]
pub struct World {
    counts: Mutex<BTreeMap<String, Counts>>,
    gates: Mutex<Gates>,
    changed: Condvar,
    next_result: AtomicU64,
}

/// What holds calls up during the present step.
#[derive(Default)]
struct Gates {
    barriers: Vec<(Barrier, BTreeSet<String>)>,
    /// Calls that stay blocked once entered, and whether they were entered and let go.
    holds: Vec<Hold>,
}

struct Hold {
    handle: String,
    phase: Phase,
    entered: bool,
    released: bool,
}

impl World {
    pub fn counts(&self, handle: &str) -> Counts {
        self.counts.lock().unwrap().get(handle).copied().unwrap_or_default()
    }

    pub fn reset_counts(&self) {
        self.counts.lock().unwrap().clear();
    }

    pub fn set_barriers(&self, barriers: &[Barrier]) {
        self.gates.lock().unwrap().barriers = barriers.iter().map(|b| (b.clone(), BTreeSet::new())).collect();
    }

    pub fn add_hold(&self, handle: &str, phase: Phase) {
        let hold = Hold { handle: handle.into(), phase, entered: false, released: false };
        self.gates.lock().unwrap().holds.push(hold);
    }

    pub fn wait_entered(&self, handle: &str, phase: Phase) {
        let gates = self.gates.lock().unwrap();
        let waits = |gates: &mut Gates| !gates.holds.iter().any(|h| h.is(handle, phase) && h.entered);
        drop(self.changed.wait_while(gates, waits).unwrap());
    }

    pub fn release_holds(&self) {
        self.gates.lock().unwrap().holds.iter_mut().for_each(|hold| hold.released = true);
        self.changed.notify_all();
    }

    pub fn clear_gates(&self) {
        *self.gates.lock().unwrap() = Gates::default();
    }

    fn pass_barriers(&self, handle: &str, phase: Phase, ctx: &OpContext<'_>) {
        let mut gates = self.gates.lock().unwrap();
        for i in 0..gates.barriers.len() {
            let (barrier, arrived) = &mut gates.barriers[i];
            if barrier.phase != phase || !barrier.vertices.iter().any(|v| v == handle) {
                continue;
            }
            arrived.insert(handle.to_owned());
            self.changed.notify_all();
            let open = |gates: &Gates| gates.barriers.get(i).is_none_or(|(b, a)| a.len() >= b.parties);
            while !open(&gates) && !ctx.is_cancelled() {
                gates = self.changed.wait_timeout(gates, Duration::from_millis(5)).unwrap().0;
            }
        }
    }

    fn stay_held(&self, handle: &str, phase: Phase, ctx: &OpContext<'_>) {
        let mut gates = self.gates.lock().unwrap();
        for i in 0..gates.holds.len() {
            if !gates.holds[i].is(handle, phase) {
                continue;
            }
            gates.holds[i].entered = true;
            self.changed.notify_all();
            let held = |gates: &Gates| gates.holds.get(i).is_some_and(|hold| !hold.released);
            while held(&gates) && !ctx.is_cancelled() {
                gates = self.changed.wait_timeout(gates, Duration::from_millis(5)).unwrap().0;
            }
        }
    }

    fn count(&self, handle: &str, count: impl FnOnce(&mut Counts)) {
        count(self.counts.lock().unwrap().entry(handle.to_owned()).or_default());
    }
}

impl Hold {
    fn is(&self, handle: &str, phase: Phase) -> bool {
        self.handle == handle && self.phase == phase
    }
}

/// The operation of one vertex object.
pub struct TestOp {
    pub world: Arc<World>,
    pub handle: String,
    pub def: Definition,
    /// What a sub-build builds.
    pub sub: Option<Edge>,
    pub failed: AtomicBool,
    pub blocking: Blocking,
}

pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

impl TestOp {
    fn seeds(&self) -> Vec<String> {
        let value = text(&self.def.value);
        let inputs = self.def.inputs.len();
        match (&self.def.seed, self.def.kind) {
            (Some(Seed::One(seed)), _) => vec![seed.clone()],
            (Some(Seed::Several(seeds)), _) => seeds.clone(),
            (None, Kind::Sum) => vec![format!("sum-{value}-{inputs}")],
            (None, Kind::Add) => vec![format!("add-{value}-{inputs}")],
            (None, _) => vec![format!("const-{value}")],
        }
    }

    fn enter(&self, phase: Phase, ctx: &OpContext<'_>) -> Result<(), OpError> {
        if let Some(delay) = self.def.delay_ms.get(&phase) {
            std::thread::sleep(Duration::from_millis(*delay));
        }
        if let Some(fail) = self.def.fail.as_ref().filter(|fail| fail.phase == phase)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let error = || OpError::failed(fail.error.clone().unwrap_or_default());
            return Err(if fail.canceled { OpError::Cancelled } else { error() });
        }
        self.world.pass_barriers(&self.handle, phase, ctx);
        Ok(())
    }

    fn leave(&self, phase: Phase, ctx: &OpContext<'_>) -> Result<(), OpError> {
        self.world.stay_held(&self.handle, phase, ctx);
        if ctx.is_cancelled() { Err(OpError::Cancelled) } else { Ok(()) }
    }

    fn made(&self, value: Value, output: u32) -> SharedResult {
        let number = self.world.next_result.fetch_add(1, Ordering::Relaxed);
        SharedResult::new(Made { id: format!("r{number}"), value, handle: self.handle.clone(), output })
    }
}

impl Op for TestOp {
    fn blocking(&self) -> Blocking {
        self.blocking
    }

    fn cache_map(&self, ctx: &OpContext<'_>, index: usize) -> Result<MapStep, OpError> {
        self.enter(Phase::CacheMap, ctx)?;
        self.world.count(&self.handle, |c| if index == 0 { c.maps += 1 } else { c.later_maps += 1 });
        self.leave(Phase::CacheMap, ctx)?;
        let seeds = self.seeds();
        let mut map = CacheMap::new(Digest::of(format!("seed:{}", seeds[index]).as_bytes()));
        for input in &self.def.inputs {
            let mut about = CacheMapInput::plain();
            if let Some(selector) = &input.selector {
                about = about.selector(Digest::of(selector.as_bytes()));
            }
            if input.slow {
                about = about.content(|_, result| {
                    Ok(Some(Digest::of(text(&result.get::<Made>().unwrap().value).as_bytes())))
                });
            }
            map = map.input(about);
        }
        Ok(if index + 1 == seeds.len() { MapStep::Last(map) } else { MapStep::More(map) })
    }

    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        self.enter(Phase::Exec, ctx)?;
        self.world.count(&self.handle, |c| c.execs += 1);
        self.leave(Phase::Exec, ctx)?;
        let number = |result: &SharedResult| result.get::<Made>().unwrap().value.as_i64().unwrap();
        let own = || self.def.value.as_i64().unwrap();
        Ok(match self.def.kind {
            Kind::Value | Kind::Const => vec![self.made(self.def.value.clone(), 0)],
            Kind::Sum => vec![self.made((own() + inputs.iter().map(number).sum::<i64>()).into(), 0)],
            Kind::Add => {
                (0..).zip(inputs).map(|(i, input)| self.made((own() + number(input)).into(), i)).collect()
            }
            Kind::Subbuild => {
                let edge = self.sub.as_ref().expect("a sub-build has an edge");
                let result = ctx.build(edge).map_err(OpError::failed)?;
                vec![result.result]
            }
        })
    }
}
