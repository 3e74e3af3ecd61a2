//! The form of the scenario files.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub struct File {
    #[serde(default)]
    pub scenarios: Vec<Scenario>,
    #[serde(default)]
    pub cache_manager_scenarios: Vec<ManagerScenario>,
}

#[derive(Deserialize, Clone)]
pub struct Scenario {
    pub id: String,
    #[serde(default = "one")]
    pub repeat: u32,
    #[serde(default = "main_only")]
    pub managers: Vec<String>,
    pub vertices: BTreeMap<String, Map<String, Value>>,
    pub steps: Vec<Step>,
}

fn one() -> u32 {
    1
}

fn main_only() -> Vec<String> {
    vec!["main".into()]
}

/// The definition of a vertex after all changes.
#[derive(Deserialize, Clone, Debug)]
pub struct Definition {
    pub name: String,
    pub kind: Kind,
    #[serde(default)]
    pub value: Value,
    #[serde(default)]
    pub seed: Option<Seed>,
    #[serde(default)]
    pub inputs: Vec<InputDef>,
    #[serde(default)]
    pub edge: Option<EdgeDef>,
    #[serde(default)]
    pub ignore_cache: bool,
    #[serde(default)]
    pub cache_sources: Vec<String>,
    #[serde(default)]
    pub fail: Option<Fail>,
    #[serde(default)]
    pub delay_ms: BTreeMap<Phase, u64>,
}

#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Value,
    Const,
    Sum,
    Add,
    Subbuild,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum Seed {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize, Clone, Debug)]
pub struct InputDef {
    pub vertex: String,
    #[serde(default)]
    pub output: u32,
    #[serde(default)]
    pub selector: Option<String>,
    #[serde(default)]
    pub slow: bool,
}

#[derive(Deserialize, Clone, Debug)]
pub struct EdgeDef {
    pub vertex: String,
    #[serde(default)]
    pub output: u32,
}

#[derive(Deserialize, Clone, Debug)]
pub struct Fail {
    pub phase: Phase,
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub canceled: bool,
}

#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    CacheMap,
    Exec,
}

#[derive(Deserialize, Clone)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Step {
    Build(Build),
    Parallel {
        builds: Vec<Build>,
        #[serde(default)]
        barriers: Vec<Barrier>,
    },
    Discard {
        job: String,
    },
    Change {
        set: BTreeMap<String, Map<String, Value>>,
    },
    NewSolver {
        manager: String,
    },
    ResetCounters,
    ExpectCounters(ExpectCounters),
    ReleaseRecord {
        manager: String,
        vertex: String,
        #[serde(default)]
        output: Option<u32>,
    },
    FailLoads {
        manager: String,
        on: bool,
    },
    Export(Export),
    ExpectLive {
        holders: BTreeMap<String, Option<Holders>>,
    },
}

#[derive(Deserialize, Clone)]
pub struct Build {
    pub job: String,
    pub edge: EdgeDef,
    #[serde(default, rename = "as")]
    pub label: Option<String>,
    #[serde(default)]
    pub cache_sources: Vec<String>,
    #[serde(default)]
    pub cancel: Option<Cancel>,
    #[serde(default)]
    pub barriers: Vec<Barrier>,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub reuse_discarded_job: bool,
    pub expect: Expect,
}

#[derive(Deserialize, Clone)]
pub struct Cancel {
    pub vertex: String,
    pub phase: Phase,
}

#[derive(Deserialize, Clone)]
pub struct Barrier {
    pub phase: Phase,
    pub parties: usize,
    pub vertices: Vec<String>,
}

#[derive(Deserialize, Clone)]
pub struct Expect {
    #[serde(default)]
    pub value: Option<Value>,
    #[serde(default)]
    pub ok: bool,
    #[serde(default)]
    pub error_contains: Option<String>,
    #[serde(default)]
    pub error_kind: Option<String>,
}

#[derive(Deserialize, Clone)]
pub struct ExpectCounters {
    #[serde(default)]
    pub vertices: Vec<String>,
    #[serde(default)]
    pub scope: String,
    pub exec: Option<u64>,
    pub exec_min: Option<u64>,
    pub cache_maps: Option<u64>,
    pub cache_maps_max: Option<u64>,
    pub later_maps: Option<u64>,
    pub load: Option<Value>,
    pub load_max: Option<u64>,
}

#[derive(Deserialize, Clone)]
pub struct Export {
    pub of: String,
    pub mode: String,
    #[serde(default)]
    pub target: Option<String>,
    pub expect: ExpectExport,
}

#[derive(Deserialize, Clone)]
pub struct ExpectExport {
    #[serde(default)]
    pub unique: Option<usize>,
    #[serde(default)]
    pub records: Option<Vec<ExpectRecord>>,
    #[serde(default)]
    pub adds: Option<Vec<ExpectAdd>>,
    #[serde(default)]
    pub adds_at: BTreeMap<String, ExpectAdd>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct ExpectRecord {
    pub digest: String,
    pub inputs: usize,
    pub result: bool,
}

#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExpectAdd {
    pub inputs: usize,
    pub results: usize,
}

#[derive(Deserialize, Clone)]
pub struct Holders {
    #[serde(default)]
    pub has: Vec<String>,
    #[serde(default)]
    pub not: Vec<String>,
}

#[derive(Deserialize)]
pub struct ManagerScenario {
    pub id: String,
    pub steps: Vec<ManagerStep>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ManagerStep {
    Key {
        #[serde(rename = "as")]
        label: String,
        digest: String,
        output: i64,
    },
    Save {
        #[serde(rename = "as")]
        label: String,
        digest: String,
        output: i64,
        #[serde(default)]
        deps: Vec<Vec<KeyRef>>,
        result: String,
    },
    Query {
        deps: Vec<KeyRef>,
        input: u32,
        digest: String,
        output: i64,
        #[serde(default, rename = "as")]
        label: Option<String>,
        expect: ExpectQuery,
    },
    Release {
        result: String,
    },
    Reopen {
        keep: Vec<String>,
    },
}

#[derive(Deserialize)]
pub struct KeyRef {
    pub key: String,
    #[serde(default)]
    pub selector: Option<String>,
}

#[derive(Deserialize)]
pub struct ExpectQuery {
    pub keys: usize,
    #[serde(default)]
    pub records: Option<usize>,
    #[serde(default)]
    pub values: Option<Vec<String>>,
    #[serde(default)]
    pub same_as: Option<String>,
}
