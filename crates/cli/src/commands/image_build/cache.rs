//! `--cache-from` and `--cache-to`.

use std::path::Path;
use std::sync::Arc;

use quern_engine::image::BuiltStage;
use quern_engine::image::cache::{self, CacheExport, CachePlace, CacheTransferError};
use quern_engine::images::{Form, ImageStore};
use quern_oci::Reference;
use quern_oci::cache::CacheForm;
use quern_oci::document::Format;
use quern_solver::{CacheExportMode, CacheManager, ImportedCache};

use super::image_failed;
use super::options::Fields;
use crate::args::ImageBuild;
use crate::failure::{Failure, Kind, eprint_line};

/// The caches a build reads.
pub struct Sources(Vec<(String, Arc<ImportedCache>)>);

impl Sources {
    /// What `--cache-from` names.
    pub fn open(images: &Arc<ImageStore>, args: &ImageBuild) -> Result<Self, Failure> {
        let open = |text: &String| {
            let place = source(text)?;
            Ok((text.clone(), Arc::new(cache::import(images, place))))
        };
        args.cache_from.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// For the solver.
    pub fn managers(&self) -> Vec<Arc<dyn CacheManager>> {
        self.0.iter().map(|(_, cache)| Arc::clone(cache) as _).collect()
    }

    /// Says which of them could not be read; that is no reason to fail.
    pub fn report(&self) {
        for (text, cache) in &self.0 {
            if let Some(error) = cache.failure() {
                eprint_line(&format!("warning: --cache-from `{text}`: {error}"));
            }
        }
    }
}

fn source(text: &str) -> Result<CachePlace, Failure> {
    if !text.contains('=') {
        return Ok(CachePlace::Registry(reference(text)?));
    }
    let mut fields = Fields::parse("--cache-from", text)?;
    let kind = fields.need(&["type"])?;
    let place = match kind.as_str() {
        "registry" => CachePlace::Registry(reference(&fields.need(&["ref"])?)?),
        "local" => local(&mut fields, "src")?,
        other => return Err(unknown(&fields, other)),
    };
    fields.end("type, ref, src and tag")?;
    Ok(place)
}

/// One `--cache-to`.
pub enum Target {
    /// In the image's own config.
    Inline,
    /// Elsewhere.
    Place {
        /// Where.
        place: CachePlace,
        /// How much of it.
        mode: CacheExportMode,
        /// How layers are written.
        form: Box<Form>,
        /// How the documents are written.
        documents: CacheForm,
        /// A failure is only told.
        ignore_error: bool,
    },
}

impl Target {
    /// What `--cache-to` names.
    pub fn all(args: &ImageBuild) -> Result<Vec<Self>, Failure> {
        args.cache_to.iter().map(|text| Self::parse(text)).collect()
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        if !text.contains('=') && text != "inline" {
            let (place, documents) = (CachePlace::Registry(reference(text)?), CacheForm::Manifest);
            let (mode, form, ignore_error) = (CacheExportMode::Min, Box::default(), false);
            return Ok(Self::Place { place, mode, form, documents, ignore_error });
        }
        let mut fields = Fields::parse("--cache-to", text)?;
        if text == "inline" {
            return Ok(Self::Inline);
        }
        let kind = fields.need(&["type"])?;
        let place = match kind.as_str() {
            "inline" => {
                fields.take(&["mode"]);
                fields.end("type")?;
                return Ok(Self::Inline);
            }
            "registry" => CachePlace::Registry(reference(&fields.need(&["ref"])?)?),
            "local" => local(&mut fields, "dest")?,
            other => return Err(unknown(&fields, other)),
        };
        let mode = match fields.take(&["mode"]).as_deref() {
            None | Some("min") => CacheExportMode::Min,
            Some("max") => CacheExportMode::Max,
            Some(other) => return Err(fields.wrong(&format!("`mode` is min or max, not `{other}`"))),
        };
        let manifest = fields.flag("image-manifest", true)?;
        let format = if fields.flag("oci-mediatypes", true)? { Format::Oci } else { Format::Docker };
        let ignore_error = fields.flag("ignore-error", false)?;
        let form = Box::new(super::output::compression(&mut fields, Form::default())?);
        fields.end(
            "type, ref, dest, tag, mode, image-manifest, oci-mediatypes, compression and ignore-error",
        )?;
        let documents = if manifest { CacheForm::Manifest } else { CacheForm::Index(format) };
        Ok(Self::Place { place, mode, form, documents, ignore_error })
    }

    /// Keeps the cache of a build, that of all its platforms in one, unless it is to be inside the image.
    pub fn export(
        &self,
        images: &ImageStore,
        built: &[BuiltStage],
        epoch: Option<i64>,
    ) -> Result<(), Failure> {
        let Self::Place { place, mode, form, documents, ignore_error } = self else { return Ok(()) };
        let form = Form::clone(form);
        let how = CacheExport { mode: *mode, form, epoch, documents: *documents };
        match cache::export(images, built, place, &how).map_err(failed) {
            Err(failure) if *ignore_error => {
                eprint_line(&format!("warning: --cache-to: {}", failure.message));
                Ok(())
            }
            done => done,
        }
    }
}

/// Puts the cache of a stage into its config, if that was asked for.
pub fn inline(
    images: &ImageStore,
    built: &mut BuiltStage,
    epoch: Option<i64>,
    targets: &[Target],
) -> Result<(), Failure> {
    if targets.iter().any(|target| matches!(target, Target::Inline)) {
        let described = images.describe(built.snapshot.layers(), epoch);
        let described = described.map_err(|error| Failure::new(Kind::Internal, error))?;
        let diff_ids: Vec<_> = described.into_iter().flat_map(|layer| layer.diff_ids).collect();
        let records = cache::inline(images, built, epoch, &Form::default(), &diff_ids).map_err(failed)?;
        built.config.inline_cache = Some(records);
    }
    Ok(())
}

fn failed(error: CacheTransferError) -> Failure {
    match error {
        CacheTransferError::Image(error) => image_failed(error),
        other => Failure::new(Kind::Internal, other),
    }
}

fn local(fields: &mut Fields, name: &'static str) -> Result<CachePlace, Failure> {
    let folder = fields.need(&[name])?;
    let tag = fields.take(&["tag"]).unwrap_or_else(|| "latest".to_owned());
    Ok(CachePlace::Local(Path::new(&folder).to_owned(), tag))
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(Failure::input)
}

fn unknown(fields: &Fields, kind: &str) -> Failure {
    fields.wrong(&format!("there is no type `{kind}` here; there are registry, local and inline"))
}
