//! `--provenance` and `--sbom`: what is said about an image beside it.

use std::process::Command;

use quern_engine::image::BuiltStage;
use quern_engine::image::provenance::{Claims, Detail, provenance};
use quern_engine::image::request::Request;
use quern_engine::images::files;
use quern_oci::attest::{PROVENANCE, SPDX};
use serde_json::Value;

use super::options::Fields;
use crate::args::ImageBuild;
use crate::failure::{Failure, Kind};
use crate::wiring::Home;

/// What shall be said.
pub struct Wanted {
    /// How it was made; none if that is not to be said.
    claims: Option<Claims>,
    /// The program that lists what is in it.
    generator: Option<String>,
}

/// What is said.
pub struct Statements {
    /// How it was made, whether or not that is attached.
    pub provenance: Value,
    /// What is attached, each with its kind.
    pub attached: Vec<(&'static str, Value)>,
}

impl Wanted {
    /// What the options ask for.
    pub fn of(args: &ImageBuild) -> Result<Self, Failure> {
        let claims = args.provenance.as_deref().map_or_else(|| Ok(Some(Claims::default())), claims)?;
        let generator = args.sbom.as_deref().map(generator).transpose()?.flatten();
        Ok(Self { claims, generator })
    }

    /// Makes the statements. `attaching` says whether something is made that can hold them; else no generator runs.
    pub fn make(
        &self,
        home: &Home,
        request: &Request,
        built: &BuiltStage,
        attaching: bool,
    ) -> Result<Statements, Failure> {
        let claims = self.claims.clone().unwrap_or_default();
        let said = provenance(request, &built.account, &claims, env!("CARGO_PKG_VERSION"));
        let said = serde_json::to_value(said).map_err(|error| Failure::new(Kind::Internal, error))?;
        let mut attached = Vec::new();
        if let Some(program) = self.generator.as_ref().filter(|_| attaching) {
            attached.push((SPDX, list_of_contents(home, built, program)?));
        }
        attached.extend(self.claims.as_ref().map(|_| (PROVENANCE, said.clone())));
        Ok(Statements { provenance: said, attached })
    }
}

/// `true`, `false`, or `mode=min|max[,builder-id=ADDRESS][,reproducible=true]`.
fn claims(text: &str) -> Result<Option<Claims>, Failure> {
    match text {
        "true" | "1" => return Ok(Some(Claims::default())),
        "false" | "0" => return Ok(None),
        _ => {}
    }
    let mut fields = Fields::parse("--provenance", text)?;
    let detail = match fields.take(&["mode"]).as_deref() {
        None | Some("min") => Detail::Min,
        Some("max") => Detail::Max,
        Some(other) => return Err(fields.wrong(&format!("`mode` is min or max, not `{other}`"))),
    };
    let builder = fields.take(&["builder-id"]).unwrap_or_default();
    let claims = Claims { detail, builder, reproducible: fields.flag("reproducible", false)? };
    let disabled = fields.flag("disabled", false)?;
    if let Some(version) = fields.take(&["version"]).filter(|version| version != "v1") {
        return Err(fields.wrong(&format!("`version` is v1, not `{version}`")));
    }
    fields.end("true, false, mode, builder-id, reproducible, version and disabled")?;
    Ok((!disabled).then_some(claims))
}

fn generator(text: &str) -> Result<Option<String>, Failure> {
    if matches!(text, "false" | "0") {
        return Ok(None);
    }
    let mut fields = Fields::parse("--sbom", text)?;
    let program = fields.need(&["generator"])?;
    fields.end("generator")?;
    Ok(Some(program))
}

/// Runs the generator on the root file system.
fn list_of_contents(home: &Home, built: &BuiltStage, program: &str) -> Result<Value, Failure> {
    let folder = tempfile::tempdir_in(home.store.layout().scratch())?;
    let root = folder.path().join("rootfs");
    files::to_directory(home.image_store()?.layers(), &built.snapshot, &root)
        .map_err(|error| Failure::new(Kind::Internal, error))?;
    let output = Command::new(program).arg(&root).stderr(std::process::Stdio::inherit()).output();
    let output =
        output.map_err(|error| Failure::named(format!("--sbom: cannot run `{program}`: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new(Kind::Failed, format!("--sbom: `{program}` ended with {}", output.status)));
    }
    let wrong = |problem: &str| Failure::new(Kind::Failed, format!("--sbom: `{program}` wrote {problem}"));
    let list: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| wrong(&format!("no JSON: {error}")))?;
    if list["spdxVersion"].is_string() { Ok(list) } else { Err(wrong("JSON without `spdxVersion`")) }
}
