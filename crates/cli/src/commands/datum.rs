//! `quern ... datum`, `quern logs`, `quern why`

use std::collections::BTreeSet;
use std::time::Duration;

use quern_core::port;
use quern_core::{Digest, Id};
use quern_engine::datums::PlanError;
use quern_engine::explain::{self, DatumInfo, JobDatums};
use quern_engine::journal::{self, DatumRecord, DatumState};

use crate::args::Logs;
use crate::commands::job::{find, find_or_newest, parse_id};
use crate::failure::{Failure, Kind};
use crate::print;
use crate::table::{Table, duration, printable};
use crate::views::{DatumView, WhyView};
use crate::wiring::Home;

/// How often `logs --follow` looks.
const FOLLOWED: Duration = Duration::from_millis(200);
/// Most datums that `why` explains one by one.
const EXPLAINED: usize = 20;

/// `list datum`
pub fn list(home: &Home, job: &str) -> Result<(), Failure> {
    let datums = of_job(home, parse_id(job)?)?;
    let views: Vec<DatumView> = datums.list().iter().map(|info| view(&datums, info)).collect();
    print::list(home.global.form(), &views, |datums| {
        let mut table = Table::new(&["ID", "FILES", "STATUS", "TIME"]);
        for datum in datums {
            let time = datum.millis.map_or_else(|| "-".into(), duration);
            table.row([datum.id.clone(), datum.files.join(", "), datum.state.to_owned(), time]);
        }
        table.render()
    })
}

/// `list datum -f`: what a spec would process now, without creating anything.
pub fn dry_run(home: &Home, file: &str) -> Result<(), Failure> {
    let plans = crate::commands::pipeline::dry_plan(home, file)?;
    let mut views: Vec<DatumView> = Vec::new();
    for (pipeline, datums) in &plans {
        views.extend(datums.iter().map(|datum| DatumView {
            id: datum.key().hex(),
            job: format!("dry run of {pipeline}"),
            files: datum.leaves.iter().map(|leaf| format!("{}:{}", leaf.input, leaf.path)).collect(),
            state: DatumState::Starting.name(),
            reason: String::new(),
            millis: None,
            tries: 0,
            cached: false,
            output: None,
        }));
    }
    print::list(home.global.form(), &views, |datums| {
        let mut table = Table::new(&["ID", "FILES"]);
        datums.iter().for_each(|datum| table.row([datum.id.clone(), datum.files.join(", ")]));
        table.render()
    })
}

/// `inspect datum`
pub fn inspect(home: &Home, job: &str, datum: &str) -> Result<(), Failure> {
    let datums = of_job(home, parse_id(job)?)?;
    let list = datums.list();
    let info = find_datum(&list, datum)?;
    print::one(home.global.form(), &view(&datums, info), |datum| {
        let time = datum.millis.map_or_else(|| "-".into(), duration);
        format!(
            "ID: {}\nJob: {}\nState: {}\nReason: {}\nTries: {}\nTime: {time}\nFrom Cache: {}\nFiles:\n{}Output: {}\n",
            datum.id,
            datum.job,
            datum.state,
            datum.reason,
            datum.tries,
            datum.cached,
            datum.files.iter().map(|file| format!("  {}\n", printable(file))).collect::<String>(),
            datum.output.as_deref().unwrap_or("-"),
        )
    })
}

/// `logs`: what the steps of a job printed, datum by datum.
pub fn logs(home: &Home, args: &Logs) -> Result<(), Failure> {
    let job = match (&args.job, &args.pipeline) {
        (Some(job), _) => find(home, parse_id(job)?)?,
        (None, Some(pipeline)) => find_or_newest(home, pipeline)?,
        (None, None) => return Err(Failure::input("name a pipeline by -p or a job by -j")),
    };
    if args.follow {
        return follow(home, job.id, args.datum.as_deref().unwrap_or_default());
    }
    let datums = of_job(home, job.id)?;
    let list = datums.list();
    let chosen: Vec<&DatumInfo> = match &args.datum {
        Some(datum) => vec![find_datum(&list, datum)?],
        None => list.iter().collect(),
    };
    for info in chosen {
        if let Some(log) = info.record.as_ref().and_then(|record| record.log) {
            print::raw(&home.records.blobs.get(&log)?)?;
        }
    }
    Ok(())
}

/// Prints what datums printed, each when it has ended, until the job has.
fn follow(home: &Home, job: Id, datum: &str) -> Result<(), Failure> {
    let mut shown = BTreeSet::new();
    loop {
        // Looked at first: what is recorded after that belongs to a job that goes on.
        let ended = find(home, job)?.state.has_ended();
        for (key, record) in port::read(&*home.records.meta, |r| journal::of_job(r, job))? {
            if key.hex().starts_with(datum)
                && shown.insert(key)
                && let Some(log) = record.log
            {
                print::raw(&home.records.blobs.get(&log)?)?;
            }
        }
        if ended {
            return Ok(());
        }
        std::thread::sleep(FOLLOWED);
    }
}

/// `why`
pub fn why(home: &Home, job: &str) -> Result<(), Failure> {
    let job = find_or_newest(home, job)?;
    let datums = of_job(home, job.id)?;
    let (processed, reasons) = datums.reasons(&home.records, EXPLAINED)?;
    let why = WhyView::new(&job, processed, &reasons);
    print::one(home.global.form(), &why, |why| {
        let mut text = format!("Job {} of pipeline {} ran because\n", why.job, why.pipeline);
        why.because.iter().for_each(|reason| text.push_str(&format!("  {reason}\n")));
        text.push_str(&format!(
            "{} of {} datums were reused, {} ran{}\n",
            why.skipped,
            why.total,
            why.processed,
            if why.datums_because.is_empty() { String::new() } else { format!(": {}", why.datums_because) }
        ));
        for datum in &why.datums {
            text.push_str(&format!("  {}: {}\n", printable(&datum.datum), datum.reason));
        }
        if processed > why.datums.len() {
            text.push_str(&format!("  and {} more\n", processed - why.datums.len()));
        }
        if why.unchanged {
            text.push_str("Its output is what it was before, so nothing that reads it became stale.\n");
        }
        text
    })
}

fn of_job(home: &Home, id: Id) -> Result<JobDatums, Failure> {
    Ok(explain::of_job(&home.records, find(home, id)?)?)
}

/// The datum whose id begins with this text.
fn find_datum<'d>(list: &'d [DatumInfo], text: &str) -> Result<&'d DatumInfo, Failure> {
    let mut found = list.iter().filter(|info| info.key.hex().starts_with(text));
    match (found.next(), found.next()) {
        (Some(info), None) => Ok(info),
        (Some(first), Some(second)) if first.key == second.key => Ok(first),
        (Some(_), Some(_)) => {
            Err(Failure::input(format!("several datums begin with `{text}`; write more of the id")))
        }
        (None, _) => {
            Err(Failure::named(format!("the job has no datum `{text}`; `quern list datum` shows them")))
        }
    }
}

fn view(datums: &JobDatums, info: &DatumInfo) -> DatumView {
    let record = info.record.clone().unwrap_or(DatumRecord {
        state: DatumState::Skipped,
        output: None,
        cached: false,
        millis: 0,
        tries: 0,
        log: None,
        reason: String::new(),
    });
    DatumView {
        id: info.key.hex(),
        job: datums.job.id.to_string(),
        files: info.files.iter().map(|(input, path)| format!("{input}:{path}")).collect(),
        state: info.state.name(),
        reason: record.reason,
        millis: info.record.as_ref().map(|record| record.millis),
        tries: record.tries,
        cached: record.cached,
        output: record.output.map(|(digest, _): (Digest, u64)| digest.to_string()),
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::new(Kind::Internal, error)
    }
}
