//! `quern ... job`

use std::collections::BTreeSet;

use quern_catalog::Ref;
use quern_core::Id;
use quern_core::port::{self, MetaRead, PortError};
use quern_engine::downstream::jobs_of;
use quern_engine::job::{self, Job, State};
use quern_engine::{journal, schedule};

use crate::args::JobFilter;
use crate::commands::drive::drive;
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, ago, duration};
use crate::views::JobView;
use crate::wiring::Home;

/// `list job`
pub fn list(home: &Home, filter: &JobFilter) -> Result<(), Failure> {
    let inputs = home.catalog().read(|view| {
        let mut inputs: Vec<Id> = Vec::new();
        for reference in &filter.input {
            inputs.push(view.resolve(&reference.parse::<Ref>()?)?.id);
        }
        Ok::<_, Failure>(inputs)
    })?;
    let limit = filter.number.filter(|_| filter.status.is_empty() && inputs.is_empty());
    let mut jobs = port::read(&*home.records.meta, |r| {
        let mut jobs = job::list(r, filter.pipeline.as_deref(), limit)?;
        jobs.iter_mut().try_for_each(|job| show_lost(home, r, job))?;
        for input in &inputs {
            let readers: BTreeSet<Id> =
                jobs_of(r, &BTreeSet::from([*input]))?.iter().map(|job| job.id).collect();
            jobs.retain(|job| readers.contains(&job.id));
        }
        Ok::<_, Failure>(jobs)
    })?;
    jobs.retain(|job| {
        filter.status.is_empty() || filter.status.iter().any(|state| state == job.state.name())
    });
    jobs.truncate(filter.number.unwrap_or(usize::MAX));
    print_list(home, &jobs)
}

/// Shows a job that runs nowhere any more as one that is about to begin.
fn show_lost(home: &Home, r: &dyn MetaRead, job: &mut Job) -> Result<(), PortError> {
    if job::is_lost(r, job, &home.records.owner, home.records.clock.now())? {
        job.state = State::Starting;
    }
    Ok(())
}

/// Prints jobs as `list job` does.
pub fn print_list(home: &Home, jobs: &[Job]) -> Result<(), Failure> {
    let views: Vec<JobView> = jobs.iter().map(JobView::from).collect();
    let now = home.records.clock.now();
    print::list(home.global.form(), &views, |jobs| {
        let mut table =
            Table::new(&["ID", "PIPELINE", "STARTED", "DURATION", "RESTART", "PROGRESS", "STATE"]);
        for job in jobs {
            let (started, finished) = job.times;
            let since = started.map_or_else(|| "-".into(), |time| ago(now, time));
            let took = started.map(|time| duration(finished.unwrap_or(now).since(time)));
            let state = match job.reason.chars().take(25).collect::<String>() {
                reason if reason.is_empty() => job.state.to_owned(),
                reason => format!("{}: {reason}", job.state),
            };
            let cells = [job.id.clone(), job.pipeline.clone(), since, took.unwrap_or_else(|| "-".into())];
            table.row(cells.into_iter().chain([job.restarts.to_string(), progress(job), state]));
        }
        table.render()
    })
}

/// `processed + skipped / total`, with recovered ones if there are any.
fn progress(job: &JobView) -> String {
    let recovered = if job.data_recovered > 0 { format!(" + {}", job.data_recovered) } else { String::new() };
    format!("{} + {}{recovered} / {}", job.data_processed, job.data_skipped, job.data_total)
}

/// `inspect job`
pub fn inspect(home: &Home, id: &str, block: bool) -> Result<(), Failure> {
    let id = parse_id(id)?;
    find(home, id)?;
    if block {
        drive(home, &|r| Ok(job::get(r, id)?.is_none_or(|job| job.state.has_ended())))?;
    }
    let job = find(home, id)?;
    let now = home.records.clock.now();
    print::one(home.global.form(), &JobView::from(&job), |job| {
        let (started, finished) = job.times;
        let took = started.map_or_else(|| "-".into(), |time| duration(finished.unwrap_or(now).since(time)));
        format!(
            "ID: {}\nPipeline: {} (version {})\nState: {}\nReason: {}\nRan Because: {}\nStarted: {}\nFinished: {}\nDuration: {took}\nProcessed: {}\nSkipped: {}\nFailed: {}\nRecovered: {}\nTotal: {}\nRestarts: {}\nInputs:\n{}Output Commit: {}{}\n",
            job.id,
            job.pipeline,
            job.pipeline_version,
            job.state,
            job.reason,
            job.because.join("; "),
            job.started.as_deref().unwrap_or("-"),
            job.finished.as_deref().unwrap_or("-"),
            job.data_processed,
            job.data_skipped,
            job.data_failed,
            job.data_recovered,
            job.data_total,
            job.restarts,
            job.inputs.iter().map(|input| format!("  {input}\n")).collect::<String>(),
            job.output_commit.as_deref().unwrap_or("-"),
            if job.unchanged { " (unchanged)" } else { "" },
        )
    })
}

/// `stop job`
pub fn stop(home: &Home, id: &str) -> Result<(), Failure> {
    let id = parse_id(id)?;
    find(home, id)?;
    let (records, now) = (&home.records, home.records.clock.now());
    port::write(&*records.meta, |w| {
        let Some(job) = job::get(w.as_read(), id)? else { return Ok(()) };
        if job.state.has_ended() {
            return Ok(());
        }
        Ok::<_, Failure>(schedule::Scheduler::new(w, &*records.ids, &records.owner, now).stop(&job)?)
    })
}

/// `delete job`
pub fn delete(home: &Home, id: &str) -> Result<(), Failure> {
    let id = parse_id(id)?;
    let job = find(home, id)?;
    if !job.state.has_ended() {
        return Err(Failure::named(format!("job {id} is {}; stop it first", job.state.name())));
    }
    port::write(&*home.records.meta, |w| {
        journal::delete(w, id)?;
        Ok::<_, Failure>(job::delete(w, &job)?)
    })
}

/// Reads a job's id.
pub fn parse_id(text: &str) -> Result<Id, Failure> {
    text.parse().map_err(Failure::input)
}

/// The job of this id.
pub fn find(home: &Home, id: Id) -> Result<Job, Failure> {
    let job = port::read(&*home.records.meta, |r| {
        let mut job = job::get(r, id)?;
        job.iter_mut().try_for_each(|job| show_lost(home, r, job))?;
        Ok::<_, Failure>(job)
    })?;
    job.ok_or_else(|| {
        Failure::named(format!("job {id} does not exist; `quern list job` shows those that do"))
    })
}

/// The job of this id, or the newest one of the pipeline of this name.
pub fn find_or_newest(home: &Home, text: &str) -> Result<Job, Failure> {
    if let Ok(id) = text.parse() {
        return find(home, id);
    }
    let newest =
        port::read(&*home.records.meta, |r| Ok::<_, Failure>(job::list(r, Some(text), Some(1))?))?.pop();
    newest.ok_or_else(|| {
        Failure::named(format!("there is no job `{text}` and no pipeline of that name with a job"))
    })
}
