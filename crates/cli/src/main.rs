//! The `quern` command: arguments, wiring, commands, exit codes.

mod args;
mod ceiling;
mod commands;
mod config;
mod failure;
mod interrupt;
mod print;
mod progress;
mod table;
mod views;
mod wiring;

use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory as _, Parser as _};
use quern_engine::submit::Keep;

use args::{
    BuildOther, Cli, Copy, Create, Delete, Diff, Edit, Extract, Finish, Flush, Get, Glob, Global, Inspect,
    List, Put, Run, Start, Stop, Update, Verb,
};
use commands::pipeline::Mode;
use commands::{branch, commit, datum, file, flush, image, image_build, job, pipeline, repo, state};
use failure::{Failure, Kind};
use wiring::Home;

fn main() -> ExitCode {
    // The sandbox's launcher is this program started again; it must run before anything else does.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == quern_exec::LAUNCHER_ARGUMENT) {
        quern_exec::launcher_main();
    }
    let Cli { global, verb } = Cli::parse();
    let done = match verb {
        Verb::Version => print::raw(format!("quern {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "quern", &mut script);
            print::raw(&script)
        }
        verb => with_state(global, verb),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Every command that needs the state folder.
fn with_state(global: Global, verb: Verb) -> Result<(), Failure> {
    let began = Instant::now();
    let builds_image = matches!(&verb, Verb::Build(build) if build.other.is_none());
    // Before the first thread, and before the state folder is opened.
    let users = if only_reads(&verb) { Ok(()) } else { quern_exec::use_subordinates() };
    let home = Home::open(global)?;
    let done = run(&home, verb);
    // Success is told when what was written survives a power cut.
    let durable = home.records.meta.sync().map_err(Failure::from);
    let done = done.and(durable);
    state::tidy(&home, began.elapsed());
    if let (true, Err(Failure { kind: Kind::Failed, .. }), Err(reason)) = (builds_image, &done, &users) {
        home.say(&format!(
            "note: in this build files could belong to root only, as you have no subordinate ids: {reason}"
        ));
    }
    done
}

/// Whether a command neither runs steps nor touches what they made. Of an ordinary user with subordinate ids, that can belong to any
/// of them.
fn only_reads(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::List(_)
            | Verb::Get(_)
            | Verb::Glob(_)
            | Verb::Diff(_)
            | Verb::Extract(_)
            | Verb::Logs(_)
            | Verb::Why(_)
    )
}

fn run(home: &Home, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(Create::Repo(spec)) => repo::create(home, &spec),
        Verb::Create(Create::Branch { branch: name, head }) => branch::create(home, &name, head.as_deref()),
        Verb::Create(Create::Pipeline(spec)) => pipeline::submit(home, &spec.file, Mode::default()),
        Verb::Update(Update::Repo(spec)) => repo::update(home, &spec),
        Verb::Update(Update::Pipeline { spec, reprocess, rebuild }) => {
            pipeline::submit(home, &spec.file, Mode { update: true, reprocess, rebuild })
        }
        Verb::List(list) => run_list(home, list),
        Verb::Inspect(inspect) => run_inspect(home, inspect),
        Verb::Delete(delete) => run_delete(home, delete),
        Verb::Put(Put::File(args)) => {
            file::put(home, &args)?;
            if args.flush { flush::put(home, &args.target) } else { Ok(()) }
        }
        Verb::Get(Get::File { target, recursive, to }) => file::get(home, &target, recursive, to.as_deref()),
        Verb::Glob(Glob::File { target }) => file::glob(home, &target),
        Verb::Diff(Diff::File { new, old, name_only }) => file::diff(home, &new, old.as_deref(), name_only),
        Verb::Copy(Copy::File { source, destination, overwrite }) => {
            file::copy(home, &source, &destination, overwrite)
        }
        Verb::Start(Start::Commit { branch, description }) => {
            commit::start(home, &branch, description.as_deref())
        }
        Verb::Finish(Finish::Commit { branch, description }) => {
            commit::finish(home, &branch, description.as_deref())
        }
        Verb::Start(Start::Pipeline { name }) => pipeline::set_stopped(home, &name, false),
        Verb::Stop(Stop::Pipeline { name }) => pipeline::set_stopped(home, &name, true),
        Verb::Stop(Stop::Job { id }) => job::stop(home, &id),
        Verb::Run(Run::Pipeline { name }) => pipeline::run(home, &name),
        Verb::Flush(Flush::Commit { commits, repos }) => flush::commits(home, &commits, &repos),
        Verb::Flush(Flush::Job { commits, pipelines }) => flush::jobs(home, &commits, &pipelines),
        Verb::Extract(Extract::Pipeline { name }) => pipeline::extract(home, &name),
        Verb::Edit(Edit::Pipeline { name, editor, reprocess }) => {
            pipeline::edit(home, &name, &editor, reprocess)
        }
        Verb::Build(build) => match &build.other {
            Some(BuildOther::Ls { spec, output }) => {
                pipeline::dry_push(home, &spec.file, args::Output::of(output.as_deref()))
            }
            None => image_build::build(home, &build.image),
        },
        Verb::Image(command) => image::run(home, &command),
        Verb::Logs(args) => datum::logs(home, &args),
        Verb::Why(args) => datum::why(home, &args.job),
        Verb::Du => state::du(home),
        Verb::Prune(args) => state::prune(home, &args),
        Verb::Doctor { mend } => state::doctor(home, mend),
        Verb::Completion { .. } | Verb::Version => Ok(()),
    }
}

fn run_list(home: &Home, list: List) -> Result<(), Failure> {
    match list {
        List::Repo => repo::list(home),
        List::Branch { repo } => branch::list(home, &repo),
        List::Commit { target, number } => commit::list(home, target.as_deref(), number),
        List::File { target } => file::list(home, &target),
        List::Pipeline { name, status, spec } => pipeline::list(home, name.as_deref(), &status, spec),
        List::Job(filter) => job::list(home, &filter),
        List::Datum { job: Some(job), .. } => datum::list(home, &job),
        List::Datum { job: None, file } => datum::dry_run(home, file.as_deref().unwrap_or("-")),
    }
}

fn run_inspect(home: &Home, inspect: Inspect) -> Result<(), Failure> {
    match inspect {
        Inspect::Repo { name } => repo::inspect(home, &name),
        Inspect::Branch { branch: name } => branch::inspect(home, &name),
        Inspect::Commit { commit: name } => commit::inspect(home, &name),
        Inspect::File { target } => file::inspect(home, &target),
        Inspect::Pipeline { name } => pipeline::inspect(home, &name),
        Inspect::Job { id, block } => job::inspect(home, &id, block),
        Inspect::Datum { job, datum: id } => datum::inspect(home, &job, &id),
    }
}

fn run_delete(home: &Home, delete: Delete) -> Result<(), Failure> {
    match delete {
        Delete::Repo { name, force, .. } => repo::delete(home, name.as_deref(), force),
        Delete::Branch { branch: name, force } => branch::delete(home, &name, force),
        Delete::Commit { commit: name } => commit::delete(home, &name),
        Delete::File { target } => file::delete(home, &target),
        Delete::Pipeline { name, force, keep_repo, keep_build, .. } => {
            pipeline::delete(home, name.as_deref(), Keep { repo: keep_repo, build: keep_build, force })
        }
        Delete::Job { id } => job::delete(home, &id),
    }
}
