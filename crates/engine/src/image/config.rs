//! The config of an image, changed instruction by instruction.

use quern_core::Timestamp;
use quern_oci::document::{Defaults, Healthcheck, History, ImageConfig, Platform as ImagePlatform};
use quern_spec::dockerfile::{Action, Healthcheck as Check, Platform, Scope, Step};

/// Marks entries of the history as those of a Dockerfile, as the original does.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// The config that `FROM scratch` starts from.
pub fn scratch(platform: &Platform) -> ImageConfig {
    let variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
    let (os, architecture) = (platform.os.clone(), platform.arch.clone());
    let mut config = ImageConfig::new(ImagePlatform { architecture, os, os_version: None, variant });
    config.config.working_dir = "/".to_owned();
    config
}

/// The variables of a config, in order. Those without `=` are ignored, as every engine does.
pub fn env(config: &ImageConfig) -> Vec<(String, String)> {
    let split = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    config.config.env.iter().filter_map(split).collect()
}

/// Makes a base image's config that of a new stage: its triggers have been used, and it has a `PATH`.
pub fn start(config: &mut ImageConfig, scope: &Scope) {
    config.config.on_build.clear();
    config.config.env = lines(scope);
    config.inline_cache = None;
    config.created = None;
}

/// Applies an instruction that has been carried out and adds it to the history.
pub fn apply(config: &mut ImageConfig, step: Step, scope: &Scope) {
    let Step { action, created_by, layer } = step;
    // As in the original, what only those do who build on the image is no part of its own history.
    if !matches!(action, Action::Onbuild(_)) {
        config.history.push(History {
            created_by,
            comment: COMMENT.to_owned(),
            empty_layer: !layer,
            ..History::default()
        });
    }
    let defaults = &mut config.config;
    match action {
        Action::Env(_) => defaults.env = lines(scope),
        Action::Label(pairs) => defaults.labels.extend(pairs),
        Action::Workdir(dir) => defaults.working_dir = dir,
        Action::User(user) => defaults.user = user,
        Action::Cmd(argv) => defaults.cmd = argv,
        Action::Entrypoint { argv, drops_cmd } => {
            defaults.entrypoint = argv;
            if drops_cmd {
                defaults.cmd.clear();
            }
        }
        Action::Shell(words) => defaults.shell = words,
        Action::Expose(ports) => defaults.exposed_ports.extend(ports.iter().map(ToString::to_string)),
        Action::Volume(volumes) => defaults.volumes.extend(volumes),
        Action::Stopsignal(signal) => defaults.stop_signal = signal,
        Action::Healthcheck { test, check } => defaults.healthcheck = Some(healthcheck(test, &check)),
        Action::Onbuild(trigger) => defaults.on_build.push(trigger),
        Action::Maintainer(author) => config.author = author,
        Action::Arg(_) | Action::Copy(_) | Action::Run(_) => {}
    }
}

/// Labels from the command line; they win over the file's and are no part of the history.
pub fn label(config: &mut Defaults, labels: &[(String, String)]) {
    config.labels.extend(labels.iter().cloned());
}

/// Dates a config whose layers were made at `times`, lowest first. Each entry of the history that made a layer is as old as that layer,
/// others as the layer before them, and the image is as old as its last entry: so the same layers give the same image. With `epoch`
/// everything is as old as that.
pub fn date(config: &mut ImageConfig, times: &[Timestamp], epoch: Option<i64>) {
    let first = times.first().copied().unwrap_or_default();
    let mut now = epoch.map_or_else(|| rfc3339(first), rfc3339_of_seconds);
    let mut layers = times.iter();
    for entry in &mut config.history {
        if !entry.empty_layer
            && let Some(time) = layers.next()
            && epoch.is_none()
        {
            now = rfc3339(*time);
        }
        if entry.created.is_none() {
            entry.created = Some(now.clone());
        }
    }
    let last = config.history.last().and_then(|entry| entry.created.clone());
    config.created = Some(if epoch.is_some() { now } else { last.unwrap_or(now) });
}

fn rfc3339(time: Timestamp) -> String {
    rfc3339_of_seconds(i64::try_from(time.0 / 1000).unwrap_or(i64::MAX))
}

fn rfc3339_of_seconds(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn lines(scope: &Scope) -> Vec<String> {
    scope.image_env().iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn healthcheck(test: Vec<String>, check: &Check) -> Healthcheck {
    let nanos = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    match check {
        Check::None => Healthcheck { test, ..Healthcheck::default() },
        Check::Check { options, .. } => Healthcheck {
            test,
            interval: nanos(options.interval),
            timeout: nanos(options.timeout),
            start_period: nanos(options.start_period),
            start_interval: nanos(options.start_interval),
            retries: options.retries.into(),
        },
    }
}
