//! `quern.toml` of the project over `$XDG_CONFIG_HOME/quern/config.toml` of the user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::failure::Failure;

/// What can be configured.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Builders by language.
    pub builders: BTreeMap<String, BuilderConfig>,
    /// Defaults of steps.
    pub steps: StepConfig,
    /// What may not be exceeded.
    pub limits: LimitConfig,
}

/// `[builders.LANGUAGE]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuilderConfig {
    /// Image that holds the builder's scripts in its working directory; `host` with the shipped ones if absent.
    pub image: Option<String>,
}

/// `[steps]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepConfig {
    /// Image of steps whose spec names none [default: host]
    pub image: Option<String>,
    /// Most steps at once [default: the number of processors]
    pub parallelism: Option<usize>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// Bytes of all layers together, such as `50GiB` [default: as many as fit]. Those that were not used for longest go first.
    #[serde(deserialize_with = "size")]
    pub layers: Option<u64>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::table::bytes(&text).map(Some).map_err(D::Error::custom)
}

impl Config {
    /// Reads both files; what the project says goes before what the user says.
    ///
    /// # Errors
    /// [`Failure`] naming file, line and column of what is wrong.
    pub fn load() -> Result<Self, Failure> {
        let user = user_file().map(|path| read(&path)).transpose()?.unwrap_or_default();
        let project = read(Path::new("quern.toml"))?;
        let mut builders = user.builders;
        builders.extend(project.builders);
        let steps = StepConfig {
            image: project.steps.image.or(user.steps.image),
            parallelism: project.steps.parallelism.or(user.steps.parallelism),
        };
        let limits = LimitConfig { layers: project.limits.layers.or(user.limits.layers) };
        Ok(Self { builders, steps, limits })
    }

    /// Images of shipped builders by language.
    pub fn builder_images(&self) -> BTreeMap<String, String> {
        let images = self.builders.iter();
        images.filter_map(|(language, config)| Some((language.clone(), config.image.clone()?))).collect()
    }

    /// Image of steps whose spec names none.
    pub fn default_image(&self) -> &str {
        self.steps.image.as_deref().unwrap_or("host")
    }
}

fn user_file() -> Option<PathBuf> {
    let folder = |variable: &str, below: &str| {
        std::env::var_os(variable).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(below))
    };
    folder("XDG_CONFIG_HOME", "quern/config.toml").or_else(|| folder("HOME", ".config/quern/config.toml"))
}

/// An absent file says nothing.
fn read(path: &Path) -> Result<Config, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|e| Failure::input(format!("{}: {}", path.display(), e.to_string().trim_end()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Failure::input(format!("{}: {error}", path.display()))),
    }
}
