//! From an attempt to an order: names become places, and what makes no sense is refused.

use std::any::Any;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use quern_core::port::{
    DraftLayer, Images, InlineEntry, Layers, PortError, Presented, RootLayout, Workspace,
};
use quern_core::step::{Attempt, Input, Mount, Network, Platform, RootAccess, Step};
use quern_core::{ContentRef, Digest};

use crate::cache::Caches;
use crate::checks::{Holder, holder, is_below, nest, points};
use crate::mounts::NAME_SERVICE;
use crate::order::{File, Fill, Limits, Order, Placed, Point, Root, Span, Upper, What};
use crate::refusal::ExecError;
use crate::relay::Relay;

/// Processes of a step that asks for no number: more than any build uses, few enough to end them quickly.
const DEFAULT_PIDS: u64 = 4096;
/// The names every machine knows, the sandbox's own among them.
const OWN_NAMES: &[u8] = b"127.0.0.1\tlocalhost quern\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Where the places of a step come from.
#[derive(Clone, Copy)]
pub(crate) struct Ports<'a> {
    /// Inputs, outputs and caches.
    pub workspace: &'a dyn Workspace,
    /// Root file systems and snapshots.
    pub images: &'a dyn Images,
    /// What a step changes.
    pub layers: &'a dyn Layers,
}

/// Everything one attempt needs on this machine; what it holds is given back when it is dropped.
pub(crate) struct Plan<'a> {
    /// For the launcher.
    pub order: Order,
    /// Bytes beside the order.
    pub payload: Vec<u8>,
    /// Where the step writes what is kept.
    pub results: Results<'a>,
    /// Keeps image and inputs in place.
    _leases: Vec<Lease>,
}

type Lease = Box<dyn Any + Send + Sync>;

/// What a step writes to; all that is not kept is disposed of.
pub(crate) struct Results<'a> {
    ports: Ports<'a>,
    /// The directories of its outputs, in order.
    outputs: Vec<PathBuf>,
    /// What it changes in its root.
    root: Option<DraftLayer>,
    /// What it changes elsewhere, which is never kept.
    thrown_away: Vec<DraftLayer>,
    /// What hands its sockets on.
    relays: Vec<Relay>,
    /// The directories of those.
    rooms: Vec<PathBuf>,
}

impl Results<'_> {
    /// Keeps what was written: the outputs in order, and the layer of a root that could be written to.
    pub fn keep(mut self) -> Result<(Vec<ContentRef>, Option<Digest>), ExecError> {
        let mut kept = Vec::with_capacity(self.outputs.len());
        while !self.outputs.is_empty() {
            kept.push(self.ports.workspace.take(&self.outputs.remove(0))?);
        }
        let layer = self.root.take().map(|draft| self.ports.layers.commit(draft)).transpose()?;
        Ok((kept, layer))
    }

    fn upper(draft: &DraftLayer) -> Result<Upper, ExecError> {
        Ok(Upper { dir: text(&draft.dir)?, work: text(&draft.work)? })
    }
}

impl Drop for Results<'_> {
    fn drop(&mut self) {
        self.relays.clear();
        for dir in self.outputs.iter().chain(&self.rooms) {
            self.ports.workspace.discard(dir);
        }
        for draft in self.root.take().into_iter().chain(self.thrown_away.drain(..)) {
            self.ports.layers.discard(draft);
        }
    }
}

impl<'a> Plan<'a> {
    /// Asks the ports for the places of an attempt that makes sense.
    pub fn make(attempt: &Attempt, ports: Ports<'a>, caches: &'a Caches) -> Result<Self, ExecError> {
        let results = Results {
            ports,
            outputs: Vec::new(),
            root: None,
            thrown_away: Vec::new(),
            relays: Vec::new(),
            rooms: Vec::new(),
        };
        let mut places = Places { ports, caches, results, payload: Vec::new(), leases: Vec::new() };
        let step = attempt.step.as_ref();
        let root = places.root(&step.image, step.root)?;
        let mut mounts = Vec::new();
        for input in &step.inputs {
            mounts.push(placed(&input.target, places.input(input)?));
        }
        for output in &step.outputs {
            mounts.push(placed(output, places.output()?));
        }
        for mount in &step.mounts {
            mounts.push(placed(mount.target(), places.mount(mount, attempt)?));
        }
        if step.root == RootAccess::Writable {
            places.name_service(step, &mut mounts);
        }
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        let has_snapshots = mounts
            .iter()
            .any(|placed| matches!(placed.what, What::Snapshot { .. } | What::Cache { fill: Some(_), .. }));
        let root = match root {
            Root::Layers(layers) if has_snapshots => Root::Own { layers, upper: None },
            Root::Host { .. } if has_snapshots => {
                let reason = "a snapshot cannot be mounted in the machine's own root";
                return Err(ExecError::Invalid(reason.into()));
            }
            root => root,
        };
        nest(&mut mounts, step)?;
        let order = order(attempt, root, mounts);
        let Places { results, payload, leases, .. } = places;
        Ok(Self { order, payload, results, _leases: leases })
    }
}

/// What is found and made on the way to an order.
struct Places<'a> {
    ports: Ports<'a>,
    caches: &'a Caches,
    results: Results<'a>,
    payload: Vec<u8>,
    leases: Vec<Lease>,
}

impl Places<'_> {
    fn root(&mut self, image: &Digest, access: RootAccess) -> Result<Root, ExecError> {
        let rootfs = self.ports.images.rootfs(image)?;
        self.leases.push(rootfs.lease);
        Ok(match (rootfs.layout, access) {
            (RootLayout::Layers(layers), RootAccess::ReadOnly) => Root::Layers(texts(&layers)?),
            (RootLayout::Layers(layers), RootAccess::Writable) => {
                let draft = self.results.root.insert(self.ports.layers.begin()?);
                let upper = Some(Results::upper(draft)?);
                Root::Own { layers: texts(&layers)?, upper }
            }
            (RootLayout::Host { directories, etc }, RootAccess::ReadOnly) => {
                Root::Host { places: texts(&directories)?, etc: text(&etc)? }
            }
            (RootLayout::Host { .. }, RootAccess::Writable) => {
                let reason = "it would change the machine's own root; give it an image";
                return Err(ExecError::Invalid(reason.into()));
            }
        })
    }

    fn input(&mut self, input: &Input) -> Result<What, ExecError> {
        Ok(match self.ports.workspace.present(&input.tree)? {
            Presented::Inline(entries) => {
                What::Files(entries.into_iter().map(|entry| inline(entry, &mut self.payload)).collect())
            }
            Presented::Directory { path, lease } => {
                self.leases.push(lease);
                What::Bind { source: text(&path)?, write: false }
            }
        })
    }

    fn output(&mut self) -> Result<What, ExecError> {
        let dir = self.ports.workspace.scratch()?;
        let source = text(&dir);
        self.results.outputs.push(dir);
        Ok(What::Bind { source: source?, write: true })
    }

    fn mount(&mut self, mount: &Mount, attempt: &Attempt) -> Result<What, ExecError> {
        Ok(match mount {
            Mount::Snapshot { snapshot, path, writable, .. } => self.snapshot(snapshot, path, *writable)?,
            Mount::Cache { .. } => self.cache(mount)?,
            Mount::Tmpfs { size, .. } => What::Tmpfs { size: *size },
            Mount::Secret { name, mode, owner, .. } => {
                let value = attempt.secrets.get(name).ok_or_else(|| {
                    ExecError::Invalid(format!("there is no value for the secret `{name}`; give it one"))
                })?;
                self.text(value, *mode, *owner)
            }
            Mount::Socket { name, mode, owner, .. } => {
                let to = attempt.sockets.get(name).ok_or_else(|| {
                    ExecError::Invalid(format!("nobody said where the socket `{name}` is; forward one"))
                })?;
                let dir = self.ports.workspace.scratch()?;
                self.results.rooms.push(dir.clone());
                let relay = Relay::start(&dir, to)
                    .map_err(|error| PortError::io(format!("handing on the socket `{name}`"), error))?;
                let source = text(&relay.path)?;
                self.results.relays.push(relay);
                What::Socket { source, mode: *mode, owner: *owner }
            }
        })
    }

    fn snapshot(&mut self, snapshot: &Digest, path: &str, writable: bool) -> Result<What, ExecError> {
        let layers = self.layers_of(snapshot)?;
        let upper = if writable {
            let draft = self.ports.layers.begin()?;
            let upper = Results::upper(&draft);
            self.results.thrown_away.push(draft);
            Some(upper?)
        } else {
            None
        };
        Ok(What::Snapshot { layers, path: path.to_owned(), upper })
    }

    fn layers_of(&mut self, snapshot: &Digest) -> Result<Vec<String>, ExecError> {
        let rootfs = self.ports.images.rootfs(snapshot)?;
        self.leases.push(rootfs.lease);
        match rootfs.layout {
            RootLayout::Layers(layers) => texts(&layers),
            RootLayout::Host { .. } => {
                Err(ExecError::Invalid("the machine's own root is no snapshot to be mounted".into()))
            }
        }
    }

    fn cache(&mut self, mount: &Mount) -> Result<What, ExecError> {
        let Mount::Cache { seed, owner, mode, read_only, .. } = mount else {
            unreachable!("the caller looked")
        };
        let held = self.caches.of(mount);
        let fill = match seed {
            Some((snapshot, path)) if held.is_new => {
                let layers = self.layers_of(snapshot)?;
                Some(Fill { layers, path: path.clone(), owner: *owner, mode: *mode })
            }
            _ => None,
        };
        let (source, write) = (text(&held.data)?, !read_only);
        Ok(What::Cache { source, write, fill, give: write && owner.is_none() && seed.is_none() })
    }

    fn text(&mut self, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> What {
        What::Text { bytes: Span::append(&mut self.payload, bytes), mode, owner }
    }

    /// What finds names, where nothing else is mounted in its place.
    fn name_service(&mut self, step: &Step, mounts: &mut Vec<Placed>) {
        for path in NAME_SERVICE {
            if mounts.iter().any(|placed| placed.target == path || is_below(path, &placed.target)) {
                continue;
            }
            let mut bytes = if path == NAME_SERVICE[1] { own_names(step) } else { Vec::new() };
            if step.network == Network::Host {
                bytes.extend(fs::read(path).unwrap_or_default());
            }
            let what = self.text(&bytes, 0o644, Some((0, 0)));
            mounts.push(placed(path, what));
        }
    }
}

/// Names that a step knows without the machine's.
fn own_names(step: &Step) -> Vec<u8> {
    let line = |(name, address): &(String, IpAddr)| format!("{address}\t{name}\n").into_bytes();
    OWN_NAMES.iter().copied().chain(step.hosts.iter().flat_map(line)).collect()
}

fn foreign(platform: &Platform) -> Option<String> {
    (*platform != Platform::current()).then(|| format!("{}/{}", platform.os, platform.arch))
}

fn order(attempt: &Attempt, root: Root, mounts: Vec<Placed>) -> Order {
    let step = attempt.step.as_ref();
    let mut env = step.env.clone();
    env.extend(attempt.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut points = points(&mounts, step);
    if step.network == Network::Host
        && step.root == RootAccess::ReadOnly
        && !matches!(root, Root::Host { .. })
    {
        points.extend(NAME_SERVICE.map(|path| Point { path: path.to_owned(), file: true }));
    }
    let make_cwd = match holder(&mounts, &step.cwd, step.root) {
        Some(holder) => holder == Holder::Memory,
        None => step.root == RootAccess::Writable,
    };
    Order {
        root,
        points,
        make_cwd,
        mounts,
        argv: step.argv.clone(),
        env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: step.cwd.clone(),
        user: step.user.clone(),
        foreign: foreign(&step.platform),
        host_network: step.network == Network::Host,
        limits: Limits {
            memory: step.resources.memory,
            pids: step.resources.pids.unwrap_or(DEFAULT_PIDS),
            cpu_milli: step.resources.cpu_milli,
        },
        exact_pids: step.resources.pids.is_some(),
    }
}

fn placed(target: &str, what: What) -> Placed {
    Placed { target: target.to_owned(), what, nested: false }
}

fn inline(entry: InlineEntry, payload: &mut Vec<u8>) -> File {
    match entry {
        InlineEntry::Dir(path) => File::Dir(path.as_str().to_owned()),
        InlineEntry::File { path, bytes, executable } => {
            File::Plain(path.as_str().to_owned(), Span::append(payload, &bytes), executable)
        }
        InlineEntry::Link { path, target } => File::Link(path.as_str().to_owned(), target),
    }
}

fn texts(paths: &[PathBuf]) -> Result<Vec<String>, ExecError> {
    paths.iter().map(|path| text(path)).collect()
}

fn text(path: &Path) -> Result<String, ExecError> {
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text.to_owned()),
        _ => Err(ExecError::Invalid(format!("{} must be an absolute path in UTF-8", path.display()))),
    }
}
