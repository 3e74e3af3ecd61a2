//! How an image was made, said in SLSA's form and attached as BuildKit attaches it.
//!
//! What was read from elsewhere is noted while the graph is built ([`Materials`]), because only then it is known what a name
//! stood for. Parameters have the names and places that BuildKit gives them, so that its readers find them; values of secrets
//! are never among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use quern_core::port::PortError;
use quern_core::step::Platform;
use quern_core::{Digest, Id, Timestamp};
use quern_oci::Reference;
use quern_oci::attest::{
    BuildDefinition, Builder, Completeness, Metadata, Provenance, Resource, RunDetails, Statement, Subject,
    attest,
};
use quern_oci::document::{Descriptor, Document, Format, Platform as ImagePlatform, assemble_index};
use quern_solver::VertexRef;
use quern_spec::dockerfile::Origin;
use serde_json::{Map, Value, json};

use super::lower::{Lowered, Outside, Part};
use super::request::{Place, Request};
use crate::images::{ImageStore, KnownImage};

/// The definition that the parameters follow.
const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// What was read and when; no values of arguments, no names of secrets.
    #[default]
    Min,
    /// Arguments, labels, ids of secrets and the steps, too.
    Max,
}

/// What only the user can say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// How much is said.
    pub detail: Detail,
    /// An address that stands for whoever builds.
    pub builder: String,
    /// Whether the same input gives the same image.
    pub reproducible: bool,
}

/// What a build read from elsewhere, by address.
#[derive(Debug, Default)]
pub struct Materials(Mutex<BTreeMap<String, (String, String)>>);

impl Materials {
    /// Everything that the image of a part was made of.
    fn of(request: &Request, part: &Part<'_>, lowered: &Lowered, reached: &BTreeSet<VertexRef>) -> Self {
        let all = Self::default();
        all.images(request, &part.outside);
        if let Some(origin) = &request.origin {
            origin.digest.iter().for_each(|(function, digest)| {
                all.note(origin.uri.clone(), function, digest.clone());
            });
        }
        for (_, fetched) in lowered.fetched.iter().filter(|(vertex, _)| reached.contains(vertex)) {
            let fetched = fetched.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            all.0.lock().unwrap_or_else(PoisonError::into_inner).extend(fetched);
        }
        all
    }

    /// Notes the images that a plan starts from and takes files from.
    fn images(&self, request: &Request, outside: &BTreeMap<(Origin, String), Outside>) {
        for ((origin, _), outside) in outside {
            let Outside::Image(image) = outside else { continue };
            match origin {
                Origin::Image(name) => self.image(name, image),
                Origin::Context(name) => {
                    if let Some(Place::Image(name)) = request.contexts.get(name) {
                        self.image(name, image);
                    }
                }
                Origin::Scratch | Origin::Stage(_) => {}
            }
        }
    }

    /// Notes an image under the name by which it was asked for.
    pub fn image(&self, name: &str, image: &KnownImage) {
        let origin = image.record.origin.as_ref().and_then(|origin| origin.parse::<Reference>().ok());
        let root = origin.as_ref().and_then(Reference::digest).copied();
        let digest = root.or_else(|| image.record.manifest.as_ref().map(|manifest| manifest.digest));
        let digest = digest.unwrap_or(image.record.id);
        let uri = name.parse::<Reference>().map_or_else(
            |_| name.to_owned(),
            |name| Subject::image(&name, &image.config.platform, &digest).name,
        );
        self.note(uri, "sha256", digest.hex());
    }

    /// Notes a file of a web server.
    pub fn file(&self, address: &str, digest: &Digest) {
        self.note(super::git::shown(address), "sha256", digest.hex());
    }

    /// Notes a commit of a repository.
    pub fn commit(&self, remote: &str, reference: Option<&str>, commit: &str) {
        let fragment = reference.map(|name| format!("#{name}")).unwrap_or_default();
        let function = if commit.len() == 64 { "sha256" } else { "sha1" };
        self.note(format!("{}{fragment}", super::git::shown(remote)), function, commit.to_owned());
    }

    fn note(&self, uri: String, function: &str, digest: String) {
        let noted = (function.to_owned(), digest);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uri, noted);
    }

    fn resources(&self) -> Vec<Resource> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = |(uri, (function, digest)): (&String, &(String, String))| Resource {
            uri: uri.clone(),
            digest: BTreeMap::from([(function.clone(), digest.clone())]),
            ..Resource::default()
        };
        noted.iter().map(resource).collect()
    }
}

/// How one image was made, as it is told to others.
#[derive(Debug, Clone)]
pub struct Account {
    /// The id of the build.
    pub invocation: Id,
    /// When it began and ended.
    pub times: (Timestamp, Timestamp),
    /// What was read from elsewhere.
    pub materials: Vec<Resource>,
    /// Whether nothing was read that is not among the materials but what commands fetch. By BuildKit's rule directories of this
    /// machine are such things, also the one that the Dockerfile is in.
    pub complete: bool,
    /// Whether some command could fetch things.
    pub networked: bool,
    /// What people see of each step, and the numbers of the steps it reads from.
    pub steps: Vec<(String, Vec<usize>)>,
}

impl Account {
    /// The account of the part with this number.
    pub(super) fn new(
        invocation: Id,
        times: (Timestamp, Timestamp),
        request: &Request,
        (number, part): (usize, &Part<'_>),
        lowered: &Lowered,
    ) -> Self {
        let reached = reached(lowered, lowered.targets[number].root);
        let materials = Materials::of(request, part, lowered, &reached).resources();
        let reads_directories = part.outside.values().any(|outside| matches!(outside, Outside::Local(_)));
        let numbers: BTreeMap<VertexRef, usize> = reached.iter().copied().zip(0..).collect();
        let vertices = reached.iter().filter_map(|vertex| lowered.graph.vertex(*vertex));
        let steps = vertices.map(|vertex| {
            let inputs = vertex.inputs.iter().map(|input| numbers[&input.vertex]).collect();
            (vertex.name.to_string(), inputs)
        });
        Self {
            invocation,
            times,
            materials,
            complete: request.origin.as_ref().is_some_and(|origin| origin.dockerfile) && !reads_directories,
            networked: !lowered.networked.is_disjoint(&reached),
            steps: steps.collect(),
        }
    }
}

/// A vertex and everything it needs.
fn reached(lowered: &Lowered, from: VertexRef) -> BTreeSet<VertexRef> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        if reached.insert(at) {
            let inputs = lowered.graph.vertex(at).map(|vertex| vertex.inputs.iter());
            open.extend(inputs.into_iter().flatten().map(|input| input.vertex));
        }
    }
    reached
}

/// Says how an image was made.
pub fn provenance(request: &Request, account: &Account, claims: &Claims, version: &str) -> Provenance {
    let here = Platform::current();
    let mut internal =
        Map::from_iter([("builderPlatform".to_owned(), Value::from(format!("{}/{}", here.os, here.arch)))]);
    if claims.detail == Detail::Max {
        let steps = account.steps.iter().enumerate().map(|(number, (name, inputs))| {
            let inputs: Vec<String> = inputs.iter().map(|input| format!("step{input}")).collect();
            json!({ "id": format!("step{number}"), "name": name, "inputs": inputs })
        });
        internal.insert("buildConfig".to_owned(), json!({ "steps": steps.collect::<Vec<_>>() }));
    }
    let (started, finished) = account.times;
    Provenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE.to_owned(),
            external_parameters: parameters(request, claims.detail),
            internal_parameters: Some(Value::Object(internal)),
            resolved_dependencies: account.materials.clone(),
        },
        run_details: RunDetails {
            builder: Builder {
                id: claims.builder.clone(),
                version: BTreeMap::from([("quern".to_owned(), version.to_owned())]),
            },
            metadata: Some(Metadata {
                invocation_id: Some(account.invocation.to_string()),
                started_on: Some(rfc3339(started)),
                finished_on: Some(rfc3339(finished)),
                hermetic: account.complete && !account.networked,
                completeness: Some(Completeness {
                    request: claims.detail == Detail::Max || !leaves_out(request),
                    resolved_dependencies: account.complete,
                }),
                reproducible: claims.reproducible,
            }),
            byproducts: Vec::new(),
        },
    }
}

/// Whether there are parameters that are told with [`Detail::Max`] only.
fn leaves_out(request: &Request) -> bool {
    let Request { build_args, labels, contexts, secrets, agents, .. } = request;
    let empty = [
        build_args.is_empty(),
        labels.is_empty(),
        contexts.is_empty(),
        secrets.is_empty(),
        agents.is_empty(),
    ];
    empty.contains(&false)
}

/// What the user decided.
fn parameters(request: &Request, detail: Detail) -> Value {
    let mut args = Map::new();
    if let Some(target) = &request.target {
        args.insert("target".to_owned(), target.clone().into());
    }
    if request.no_cache {
        args.insert("no-cache".to_owned(), "".into());
    }
    if !request.hosts.is_empty() {
        let hosts = request.hosts.iter().map(|(name, address)| format!("{name}={address}"));
        args.insert("add-hosts".to_owned(), hosts.collect::<Vec<_>>().join(",").into());
    }
    let mut asked = Map::from_iter([("frontend".to_owned(), Value::from("dockerfile.v0"))]);
    if detail == Detail::Max {
        let named = |kind: &str, name: &str| format!("{kind}:{name}");
        args.extend(
            request.build_args.iter().map(|(name, value)| (named("build-arg", name), value.clone().into())),
        );
        args.extend(request.labels.iter().map(|(name, value)| (named("label", name), value.clone().into())));
        args.extend(request.contexts.iter().map(|(name, place)| {
            let place = match place {
                Place::Directory(_) => format!("local:{name}"),
                Place::Image(image) => format!("docker-image://{image}"),
            };
            (named("context", name), place.into())
        }));
        let ids =
            |ids: &mut dyn Iterator<Item = &String>| -> Value { ids.map(|id| json!({ "id": id })).collect() };
        asked.insert("secrets".to_owned(), ids(&mut request.secrets.keys()));
        asked.insert("ssh".to_owned(), ids(&mut request.agents.keys()));
    }
    asked.insert("args".to_owned(), Value::Object(args));
    let mut source = Map::from_iter([("path".to_owned(), Value::from(file_name(request.dockerfile.name())))]);
    if let Some(origin) = &request.origin {
        source.insert("uri".to_owned(), origin.uri.clone().into());
        source.insert("digest".to_owned(), json!(origin.digest));
    } else {
        asked.insert("locals".to_owned(), json!([{ "name": "context" }, { "name": "dockerfile" }]));
    }
    json!({ "configSource": source, "request": asked })
}

/// Where a file lies on this machine is nobody's business.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |time| time.to_string())
}

/// An image that is named with others, and what is said about it: each statement is a kind and what is said.
pub struct Stated<'a> {
    /// Its manifest, with its platform.
    pub manifest: Descriptor,
    /// The statements.
    pub said: &'a [(&'static str, Value)],
}

/// What stands for images of one build and the statements about them: an index with the images first, which is in the store then
/// like everything it names; of one image without statements the manifest itself.
///
/// # Errors
/// Those of the store.
pub fn bind(
    images: &ImageStore,
    stated: &[Stated<'_>],
    names: &[Reference],
    format: Format,
) -> Result<Descriptor, PortError> {
    if let [Stated { manifest, said: [] }] = stated {
        return Ok(manifest.clone());
    }
    let mut entries: Vec<Descriptor> = stated.iter().map(|stated| stated.manifest.clone()).collect();
    let speaking: Vec<_> = stated.iter().filter(|stated| !stated.said.is_empty()).collect();
    // Docker's own form has no statements.
    let format = if speaking.is_empty() { format } else { Format::Oci };
    for Stated { manifest, said } in speaking {
        entries.push(attach(images, manifest, names, said)?);
    }
    let index = assemble_index(entries, format, BTreeMap::new());
    images.put_document(&index)?;
    Ok(index.descriptor)
}

/// Puts statements about an image into the store and gives their entry of the index.
fn attach(
    images: &ImageStore,
    manifest: &Descriptor,
    names: &[Reference],
    said: &[(&'static str, Value)],
) -> Result<Descriptor, PortError> {
    let unknown = || ImagePlatform::of(&Platform::current());
    let platform = manifest.platform.clone().unwrap_or_else(unknown);
    let mut subjects: Vec<Subject> =
        names.iter().map(|name| Subject::image(name, &platform, &manifest.digest)).collect();
    if subjects.is_empty() {
        let digest = BTreeMap::from([("sha256".to_owned(), manifest.digest.hex())]);
        subjects.push(Subject { name: "_".to_owned(), digest });
    }
    let statements: Vec<Statement> =
        said.iter().map(|(kind, what)| Statement::new(kind, subjects.clone(), what.clone())).collect();
    let attestation = attest(manifest, &statements);
    let documents = &attestation.documents;
    let made: Vec<&Document> =
        attestation.statements.iter().chain([&documents.config, &documents.manifest]).collect();
    made.iter().try_for_each(|document| images.put_document(document))?;
    Ok(documents.manifest.descriptor.clone())
}
