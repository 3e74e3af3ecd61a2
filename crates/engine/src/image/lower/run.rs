//! `RUN`.

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::step::{self, Attempt, Mount, Platform, Resources, RootAccess, Sharing};
use quern_core::{Digest, Step};
use quern_solver::VertexRef;
use quern_spec::diagnostic::{Diagnostic, Diagnostics};
use quern_spec::dockerfile::{self as file, InlineFile, MountKind, Network, Origin, RunStep};

use super::{Lowering, State};
use crate::image::ops::{Action, FileOp, RunOp, placeholder};

/// Where programs written in the Dockerfile lie while they run. (The original puts them below `/dev`, which is the sandbox's own.)
const SCRIPTS: &str = "/run/quern";
/// Where agents' sockets appear if the instruction does not say it.
const AGENTS: &str = "/run/buildkit/ssh_agent";
/// The variable that names an agent's socket.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The inputs of one command: the root, then what is mounted.
struct Inputs(Vec<VertexRef>);

impl Inputs {
    /// Stands for a vertex in the step.
    fn id(&mut self, vertex: VertexRef) -> Digest {
        let known = self.0.iter().skip(1).position(|known| *known == vertex);
        let number = known.map_or_else(
            || {
                self.0.push(vertex);
                self.0.len() - 1
            },
            |position| position + 1,
        );
        placeholder(number)
    }
}

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &State,
        run: &RunStep,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<VertexRef> {
        let span = self.at.span;
        if run.insecure {
            let message = "`--security=insecure` would give the command all privileges of this machine";
            diagnostics.push(Diagnostic::error("insecure", span, message).help("leave it out"));
            return None;
        }
        let mut inputs = Inputs(vec![state.root]);
        let mut beside = Beside::default();
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            mounts.extend(self.mount(mount, name, &mut inputs, &mut beside, diagnostics)?);
        }
        let mut argv = run.argv.clone();
        if let Some(script) = &run.script {
            let path = format!("{SCRIPTS}/{}", script.path.rsplit('/').next().unwrap_or("script"));
            let vertex = self.script(script, name);
            mounts.push(Mount::Snapshot {
                target: path.clone(),
                snapshot: inputs.id(vertex),
                path: "/script".into(),
                writable: false,
            });
            argv.iter_mut().filter(|word| **word == script.path).for_each(|word| word.clone_from(&path));
        }
        mounts.sort_by(|a, b| a.target().cmp(b.target()));
        let mut env: BTreeMap<String, String> = run.env.iter().cloned().collect();
        if let Some(agent) = beside.agent {
            env.entry(AGENT_VARIABLE.to_owned()).or_insert(agent);
        }
        let attempt = Attempt {
            step: Arc::new(Step {
                argv,
                env,
                cwd: run.cwd.clone(),
                user: Some(run.user.clone()).filter(|user| !user.is_empty()),
                stdin: Vec::new(),
                image: placeholder(0),
                root: RootAccess::Writable,
                inputs: Vec::new(),
                mounts,
                network: self.network(run.network),
                hosts: self.around.request.hosts.clone(),
                platform: Platform {
                    os: state.config.platform.os.clone(),
                    arch: state.config.platform.architecture.clone(),
                    variant: String::new(),
                },
                outputs: Vec::new(),
                accept: Vec::new(),
                resources: Resources::default(),
                timeout: None,
            }),
            number: 1,
            env: run.proxies.iter().cloned().chain(beside.env).collect(),
            secrets: beside.secrets,
            sockets: beside.sockets,
        };
        let op = RunOp {
            attempt,
            secret_env: beside.secret_env,
            anew: self.at.no_cache,
            tools: Arc::clone(&self.around.tools),
        };
        let network = op.attempt.step.network;
        let vertex = self.add(op, name, &inputs.0);
        if network != step::Network::None {
            self.drawing.networked.insert(vertex);
        }
        Some(vertex)
    }

    fn network(&self, network: Network) -> step::Network {
        match network {
            Network::None => step::Network::None,
            Network::Host => step::Network::Host,
            Network::Default => self.around.request.network,
        }
    }

    /// A program that stands in the Dockerfile, as a file system of its own.
    fn script(&mut self, script: &InlineFile, name: &str) -> VertexRef {
        let file = Action::Write {
            path: "/".into(),
            name: "script".into(),
            content: script.content.clone().into_bytes(),
            mode: 0o755,
            dirs: 0o755,
            owner: None,
        };
        let op = FileOp::new(&self.around.tools, vec![file]);
        let scratch = self.scratch();
        self.add(op, &format!("{name} (script)"), &[scratch])
    }

    /// One mount of the command; the inner option is none for one that is left out. The outer one is none if a problem
    /// was reported.
    fn mount(
        &mut self,
        mount: &file::Mount,
        name: &str,
        inputs: &mut Inputs,
        beside: &mut Beside,
        diagnostics: &mut Diagnostics,
    ) -> Option<Option<Mount>> {
        let target = mount.target.clone();
        let owner = (mount.uid.is_some() || mount.gid.is_some())
            .then(|| (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)));
        let source = rooted(&mount.source);
        Some(Some(match &mount.kind {
            MountKind::Bind => {
                let vertex = self.mounted(mount.from.as_ref(), &source, name, diagnostics)?;
                let (snapshot, writable) = (inputs.id(vertex), !mount.read_only);
                Mount::Snapshot { target, snapshot, path: source, writable }
            }
            MountKind::Cache { id, sharing } => {
                let seed = match &mount.from {
                    None => None,
                    Some(from) => {
                        let vertex = self.mounted(Some(from), &source, name, diagnostics)?;
                        Some((inputs.id(vertex), source))
                    }
                };
                let sharing = match sharing {
                    file::Sharing::Shared => Sharing::Shared,
                    file::Sharing::Private => Sharing::Private,
                    file::Sharing::Locked => Sharing::Locked,
                };
                // Docker's caches belong to root whoever runs the command.
                let owner = Some(owner.unwrap_or((0, 0)));
                let (mode, read_only) = (mount.mode, mount.read_only);
                Mount::Cache { target, id: cache_id(id), sharing, seed, owner, mode, read_only }
            }
            MountKind::Tmpfs { size } => Mount::Tmpfs { target, size: *size },
            MountKind::Secret { id, env, file, required } => {
                let Some(value) = self.around.request.secrets.get(id) else {
                    return self.absent(
                        "secret",
                        id,
                        *required,
                        &format!("--secret id={id},src=FILE"),
                        diagnostics,
                    );
                };
                if let Some(variable) = env {
                    beside.env.insert(variable.clone(), String::from_utf8_lossy(value).into_owned());
                    beside.secret_env.insert(variable.clone(), id.clone());
                }
                let Some(target) = file.clone() else { return Some(None) };
                beside.secrets.insert(id.clone(), value.clone());
                let mode = mount.mode.unwrap_or(Mount::SECRET_MODE);
                Mount::Secret { target, name: id.clone(), mode, owner: Some(owner.unwrap_or((0, 0))) }
            }
            MountKind::Ssh { id, required } => {
                let Some(socket) = self.around.request.agents.get(id) else {
                    return self.absent("ssh agent", id, *required, &format!("--ssh {id}"), diagnostics);
                };
                let number = beside.sockets.len();
                let target = if target.is_empty() { format!("{AGENTS}.{number}") } else { target };
                beside.sockets.insert(id.clone(), socket.clone());
                beside.agent.get_or_insert_with(|| target.clone());
                let mode = mount.mode.unwrap_or(Mount::SOCKET_MODE);
                Mount::Socket { target, name: id.clone(), mode, owner: Some(owner.unwrap_or((0, 0))) }
            }
        }))
    }

    /// What a command mounts: files of the context, of a stage, of an image.
    fn mounted(
        &mut self,
        from: Option<&Origin>,
        source: &str,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<VertexRef> {
        let context = match from {
            None => Arc::clone(&self.around.context),
            Some(from) => {
                let platform = self.part.platform.to_string();
                match self.outside(from, &platform) {
                    Some(super::Outside::Local(context)) => context,
                    _ => return self.origin(from, &platform, &format!("{name} (source)"), diagnostics),
                }
            }
        };
        let op = FileOp::part(&self.around.tools, context, source);
        let scratch = self.scratch();
        Some(self.add(op, &format!("{name} (context)"), &[scratch]))
    }

    fn absent<T>(
        &self,
        what: &str,
        id: &str,
        required: bool,
        option: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<Option<T>> {
        if !required {
            return Some(None);
        }
        let message = format!("the {what} `{id}` was not given");
        diagnostics
            .push(Diagnostic::error("missing-secret", self.at.span, message).help(format!("add `{option}`")));
        None
    }
}

/// What travels beside the step.
#[derive(Default)]
struct Beside {
    env: BTreeMap<String, String>,
    /// Which variables hold which secrets.
    secret_env: BTreeMap<String, String>,
    /// Where the first agent's socket appears.
    agent: Option<String>,
    secrets: BTreeMap<String, Vec<u8>>,
    sockets: BTreeMap<String, std::path::PathBuf>,
}

/// A path from a root, with a slash in front.
fn rooted(path: &str) -> String {
    format!("/{}", path.trim_matches('/'))
}

/// A cache's name as the workspace takes it: what people wrote, as far as possible, and a digest that keeps others apart.
fn cache_id(id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
    let shown: String = id.trim_matches('/').chars().map(plain).take(60).collect();
    format!("build-{shown}-{}", Digest::of(id.as_bytes()).short())
}
