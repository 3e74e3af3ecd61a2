//! `quern ... pipeline`

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use quern_core::port;
use quern_engine::pipeline::{self, Pipeline};
use quern_engine::submit::{Desk, Effect, Keep, Submission, SubmitError, delete as delete_pipeline};
use quern_engine::{images::LocalImages, job, schedule};

use crate::args::Output;
use crate::failure::{Failure, Kind, eprint_line};
use crate::print;
use crate::table::{Table, ago};
use crate::views::PipelineView;
use crate::wiring::Home;

/// What a submission may do.
#[derive(Clone, Copy, Default)]
pub struct Mode {
    /// Pipelines may exist already.
    pub update: bool,
    /// Process every datum again.
    pub reprocess: bool,
    /// Run the builder again.
    pub rebuild: bool,
}

/// Most bytes of specs that are read.
const MOST_SPEC: u64 = 16 << 20;

/// `create pipeline`, `update pipeline`
pub fn submit(home: &Home, file: &str, mode: Mode) -> Result<(), Failure> {
    let (name, text, base) = read_spec(file)?;
    submit_text(home, &name, &text, &base, mode)
}

fn submit_text(home: &Home, name: &str, text: &str, base: &Path, mode: Mode) -> Result<(), Failure> {
    let Mode { update, reprocess, rebuild } = mode;
    let submission = Submission { name, text, base, update, reprocess, rebuild };
    let done = with_desk(home, |desk| Ok(desk.submit(&submission)?))?;
    if !done.warnings.is_empty() {
        eprint_line(done.warnings.trim_end());
    }
    for (name, effect) in &done.pipelines {
        match effect {
            Effect::Created => home.say(&format!("created pipeline {name}")),
            Effect::Changed => home.say(&format!("updated pipeline {name}")),
            Effect::Pushed => home.say(&format!("pushed new source of pipeline {name}")),
            Effect::Unchanged => home.say(&format!("pipeline {name} is unchanged")),
        }
    }
    if !done.jobs.is_empty() {
        let jobs = done.jobs.len();
        home.say(&format!(
            "{jobs} job{} waiting; `quern flush commit` on an input runs {}",
            if jobs == 1 { "" } else { "s" },
            if jobs == 1 { "it" } else { "them" }
        ));
    }
    Ok(())
}

/// `build ls`
pub fn dry_push(home: &Home, file: &str, form: Output) -> Result<(), Failure> {
    let (name, text, base) = read_spec(file)?;
    let submission =
        Submission { name: &name, text: &text, base: &base, update: true, reprocess: false, rebuild: false };
    let trees = with_desk(home, |desk| Ok(desk.dry_push(&submission)?))?;
    let mut files = Vec::new();
    for (pipeline, tree) in trees {
        let mut visit = |path: &str, entry: &quern_core::Entry| -> Result<(), quern_catalog::TreesError> {
            if !matches!(entry, quern_core::Entry::Dir(_)) {
                files.push(serde_json::json!({ "pipeline": pipeline, "path": path }));
            }
            Ok(())
        };
        let everything = quern_engine::datums::Pattern(
            quern_spec::glob::Glob::compile("/**", quern_spec::glob::Compat::Documented)
                .map_err(|e| Failure::new(Kind::Internal, e))?,
        );
        quern_catalog::choose(&*home.records.blobs, &tree, &everything, &mut visit)
            .map_err(|e| Failure::new(Kind::Internal, e))?;
    }
    print::list(form, &files, |files| {
        let mut table = Table::new(&["PIPELINE", "PATH"]);
        for file in files {
            let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
            table.row([text("pipeline"), text("path")]);
        }
        table.render()
    })
}

/// The datums each pipeline of a spec would have now, beside those of its source.
pub fn dry_plan(home: &Home, file: &str) -> Result<Vec<(String, quern_catalog::Datums)>, Failure> {
    let (name, text, base) = read_spec(file)?;
    let submission =
        Submission { name: &name, text: &text, base: &base, update: true, reprocess: false, rebuild: false };
    with_desk(home, |desk| Ok(desk.dry_plan(&submission)?))
}

/// Runs `f` with what submissions need.
fn with_desk<T>(home: &Home, f: impl FnOnce(&Desk<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let images = home.images()?;
    let importer = home.importer()?;
    let builder_images = home.config.builder_images();
    let desk = Desk {
        records: &home.records,
        importer: &importer,
        images: &images,
        default_image: home.config.default_image(),
        builder_images: &builder_images,
    };
    f(&desk)
}

/// Name, text and directory of a spec; `-` is standard input and the current directory.
fn read_spec(file: &str) -> Result<(String, String, PathBuf), Failure> {
    let (name, mut reader, base): (_, Box<dyn std::io::Read>, _) = if file == "-" {
        ("<stdin>".to_owned(), Box::new(std::io::stdin()), PathBuf::from("."))
    } else {
        if file.contains("://") {
            return Err(Failure::input(format!(
                "{file}: specs are not fetched from URLs; download it first"
            )));
        }
        let path = Path::new(file);
        let opened = std::fs::File::open(path).map_err(|e| Failure::named(format!("{file}: {e}")))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (file.to_owned(), Box::new(opened), base.to_owned())
    };
    let mut bytes = Vec::new();
    reader
        .by_ref()
        .take(MOST_SPEC + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::named(format!("{name}: {e}")))?;
    if bytes.len() as u64 > MOST_SPEC {
        return Err(Failure::input(format!(
            "{name}: longer than {} MiB; that is no pipeline spec",
            MOST_SPEC >> 20
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| Failure::input(format!("{name}: byte {} is not UTF-8", e.utf8_error().valid_up_to())))?;
    Ok((name, text, base))
}

/// `list pipeline`
pub fn list(home: &Home, name: Option<&str>, states: &[String], spec: bool) -> Result<(), Failure> {
    let views = port::read(&*home.records.meta, |r| {
        let mut pipelines = pipeline::all(r)?;
        pipelines.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        let mut views = Vec::new();
        for pipeline in pipelines.iter().filter(|p| name.is_none_or(|name| p.name == name)) {
            let last = job::list(r, Some(&pipeline.name), Some(1))?.pop();
            views.push(PipelineView::new(pipeline, last.as_ref()));
        }
        Ok::<_, Failure>(views)
    })?;
    if let (Some(name), true) = (name, views.is_empty()) {
        return Err(no_pipeline(name));
    }
    let views: Vec<PipelineView> = views
        .into_iter()
        .filter(|view| states.is_empty() || states.iter().any(|s| *s == view.state))
        .collect();
    if spec {
        let text: Vec<&str> =
            views.iter().map(|view| view.spec.as_str()).filter(|spec| !spec.is_empty()).collect();
        return print::raw(format!("{}\n", text.join("\n---\n")).as_bytes());
    }
    let now = home.records.clock.now();
    print::list(home.global.form(), &views, |views| {
        let mut table =
            Table::new(&["NAME", "VERSION", "INPUT", "CREATED", "STATE / LAST JOB", "DESCRIPTION"]);
        for view in views {
            let last = view.last_job_state.unwrap_or("-");
            let state = format!("{} / {last}", view.state);
            let cells = [view.name.clone(), view.version.to_string(), view.input.clone()];
            table.row(cells.into_iter().chain([ago(now, view.created_at), state, view.description.clone()]));
        }
        table.render()
    })
}

/// `inspect pipeline`
pub fn inspect(home: &Home, name: &str) -> Result<(), Failure> {
    let view = port::read(&*home.records.meta, |r| {
        let pipeline = pipeline::get(r, name)?.ok_or_else(|| no_pipeline(name))?;
        let jobs = job::list(r, Some(name), None)?;
        let mut view = PipelineView::new(&pipeline, jobs.first());
        view.count(&jobs);
        Ok::<_, Failure>(view)
    })?;
    print::one(home.global.form(), &view, |view| {
        let counts: Vec<String> = view.job_counts.iter().map(|(state, n)| format!("{state} {n}")).collect();
        format!(
            "Name: {}\nVersion: {}\nDescription: {}\nCreated: {}\nState: {}\nInput: {}\nOutput Branch: {}\nImage: {}\nCommand: {}\nJob Counts: {}\n",
            view.name,
            view.version,
            view.description,
            view.created,
            view.state,
            view.input,
            view.output_branch,
            view.image,
            view.cmd.join(" "),
            counts.join(", ")
        )
    })
}

fn no_pipeline(name: &str) -> Failure {
    Failure::named(format!("pipeline `{name}` does not exist; `quern list pipeline` shows those that do"))
}

fn existing(home: &Home, name: &str) -> Result<Pipeline, Failure> {
    port::read(&*home.records.meta, |r| pipeline::get(r, name)?.ok_or_else(|| no_pipeline(name)))
}

/// `extract pipeline`
pub fn extract(home: &Home, name: &str) -> Result<(), Failure> {
    let pipeline = existing(home, name)?;
    if let Some(of) = &pipeline.build_of {
        return Err(Failure::named(format!(
            "`{name}` is made from the spec of pipeline `{of}`; extract that one"
        )));
    }
    print::raw(format!("{}\n", pipeline.spec.trim_end()).as_bytes())
}

/// `edit pipeline`: the source is pushed from the current directory, as for standard input.
pub fn edit(home: &Home, name: &str, editor: &str, reprocess: bool) -> Result<(), Failure> {
    let pipeline = existing(home, name)?;
    let folder = home.store.layout().tmp();
    let file = folder.join(format!("edit-{}-{name}", std::process::id()));
    std::fs::write(&file, &pipeline.spec)?;
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&file).status();
    let text = std::fs::read_to_string(&file);
    std::fs::remove_file(&file)?;
    if !status.map_err(|e| Failure::input(format!("{editor}: {e}")))?.success() {
        return Err(Failure::input(format!("`{editor}` failed; nothing was changed")));
    }
    let text = text?;
    if text == pipeline.spec && !reprocess {
        home.say("pipeline unchanged, no update will be performed");
        return Ok(());
    }
    let mode = Mode { update: true, reprocess, rebuild: false };
    submit_text(home, name, &text, Path::new("."), mode)
}

/// `start pipeline`, `stop pipeline`
pub fn set_stopped(home: &Home, name: &str, stopped: bool) -> Result<(), Failure> {
    port::write(&*home.records.meta, |w| {
        let mut pipeline = pipeline::get(w.as_read(), name)?.ok_or_else(|| no_pipeline(name))?;
        pipeline.stopped = stopped;
        pipeline::put(w, &pipeline)?;
        Ok::<_, Failure>(())
    })?;
    home.advance()
}

/// `run pipeline`
pub fn run(home: &Home, name: &str) -> Result<(), Failure> {
    existing(home, name)?;
    let (now, records) = (home.records.clock.now(), &home.records);
    let jobs = port::write(&*records.meta, |w| {
        Ok::<_, Failure>(schedule::Scheduler::new(w, &*records.ids, &records.owner, now).force(name)?)
    })?;
    jobs.iter().try_for_each(|job| print::raw(format!("{job}\n").as_bytes()))
}

/// `delete pipeline`
pub fn delete(home: &Home, name: Option<&str>, keep: Keep) -> Result<(), Failure> {
    let Some(name) = name else {
        // Readers first, so that nothing is read by what is left.
        let mut pipelines = port::read(&*home.records.meta, |r| Ok::<_, Failure>(pipeline::all(r)?))?;
        pipelines.sort_by_key(|p| std::cmp::Reverse(p.created));
        for pipeline in pipelines.iter().filter(|p| p.build_of.is_none()) {
            delete_pipeline(&home.records, &pipeline.name, Keep { force: true, ..keep })?;
        }
        return Ok(());
    };
    Ok(delete_pipeline(&home.records, name, keep)?)
}

impl Home {
    /// Images by name.
    pub fn images(&self) -> Result<LocalImages, Failure> {
        let images = LocalImages::new(self.store.layout().root().join("images"));
        Ok(images.with_store(self.image_store()?))
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid { report, only_names } => {
                eprint_line(report.trim_end());
                let kind = if only_names { Kind::Named } else { Kind::Input };
                Self::new(kind, "nothing was changed; correct the above and run the command again")
            }
            SubmitError::Version(error) => error.into(),
            SubmitError::Exists(_) | SubmitError::NoPipeline(_) | SubmitError::BuildOf { .. } => {
                Self::named(error)
            }
            SubmitError::Schedule(error) => error.into(),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<schedule::ScheduleError> for Failure {
    fn from(error: schedule::ScheduleError) -> Self {
        match error {
            schedule::ScheduleError::Specs(error) => Self::input(error),
            schedule::ScheduleError::Plan(error) => Self::named(error),
            other => Self::new(Kind::Internal, other),
        }
    }
}
