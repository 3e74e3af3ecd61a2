//! Commands about the state folder and the machine: `du`, `prune`, `doctor`.

use std::time::Duration;

use quern_engine::roots;
use quern_store::{Amount, PruneOptions, Root, TidyBudget};

use crate::args::Prune;
use crate::failure::{Failure, Kind};
use crate::print;
use crate::table::{Table, size};
use crate::wiring::Home;

/// `du`
pub fn du(home: &Home) -> Result<(), Failure> {
    let usage = home.store.disk_usage()?;
    let mut kinds = usage.kinds().to_vec();
    // Their bytes are among those of blobs and layers.
    let images = Amount { count: home.image_store()?.count()?, bytes: 0 };
    kinds.insert(kinds.iter().position(|(kind, _)| *kind == "layers").unwrap_or(0), ("images", images));
    let rows: Vec<serde_json::Value> = kinds
        .iter()
        .map(|(kind, amount)| serde_json::json!({ "kind": kind, "count": amount.count, "size_bytes": amount.bytes }))
        .collect();
    print::list(home.global.form(), &rows, |_| {
        let mut table = Table::new(&["KIND", "COUNT", "SIZE"]);
        for (kind, amount) in &kinds {
            let bytes = if *kind == "images" { "-".to_owned() } else { size(amount.bytes) };
            table.row([(*kind).to_owned(), amount.count.to_string(), bytes]);
        }
        table.row(["total".into(), String::new(), size(usage.total_bytes())]);
        table.render()
    })
}

/// `prune`
pub fn prune(home: &Home, args: &Prune) -> Result<(), Failure> {
    if args.all && !args.dry_run {
        home.image_store()?.forget_unnamed(true)?;
    }
    let Prune { all, dry_run, keep_bytes } = *args;
    let options = PruneOptions { all, dry_run, keep_bytes, ..PruneOptions::default() };
    let visit = |visit: &mut dyn FnMut(Root)| {
        roots::visit(&home.records, visit)?;
        if args.all { Ok(()) } else { home.cached_roots(visit) }
    };
    let pruned = home.store.prune(&options, &visit).map_err(|e| Failure::new(Kind::Internal, e))?;
    let records = if dry_run { 0 } else { home.image_store()?.forget_gone()? };
    let records = Amount { count: records, bytes: 0 };
    let rows = [
        ("blobs", pruned.blobs),
        ("waiting", pruned.waiting),
        ("packs", pruned.packs),
        ("snapshots", pruned.snapshots),
        ("layers", pruned.layers),
        ("cache mounts", pruned.caches),
        ("imports", pruned.imports),
        ("records", records),
        ("trash", pruned.trash),
    ];
    let views: Vec<serde_json::Value> = rows
        .iter()
        .map(|(kind, amount)| serde_json::json!({ "kind": kind, "count": amount.count, "size_bytes": amount.bytes }))
        .collect();
    print::list(home.global.form(), &views, |_| {
        let mut table = Table::new(&[if args.dry_run { "WOULD GO" } else { "REMOVED" }, "COUNT", "SIZE"]);
        for (kind, amount) in rows {
            table.row([kind.to_owned(), amount.count.to_string(), size(amount.bytes)]);
        }
        table.render()
    })
}

/// `doctor`
pub fn doctor(home: &Home, mend: bool) -> Result<(), Failure> {
    let checked = home.store.check_up(mend)?;
    let executor = home.executor()?;
    let usage = home.store.disk_usage()?;
    print::raw(
        format!("state folder  {} ({})\n", home.store.layout().root().display(), size(usage.total_bytes()))
            .as_bytes(),
    )?;
    let bad = checked.damaged.len() + checked.databases.len();
    let state = match (bad, mend) {
        (0, _) => "whole".to_owned(),
        (_, true) => format!("{bad} damaged and put aside; what needs them is made again"),
        (_, false) => format!("{bad} damaged; `quern doctor --mend` puts them aside"),
    };
    print::raw(format!("content       {} blobs, {state}\n", checked.blobs.count).as_bytes())?;
    executor.check().map_err(|e| Failure::new(Kind::Machine, format!("sandboxes cannot be made: {e}")))?;
    print::raw(b"sandboxes     can be made\n")?;
    for language in quern_engine::builders::languages() {
        let Some(builder) = quern_engine::builders::shipped(language) else { continue };
        let absent = quern_engine::images::host::missing(&builder.requires);
        let state =
            if absent.is_empty() { "ready".to_owned() } else { format!("needs {}", absent.join(", ")) };
        print::raw(format!("builder {language:<6}{state} (on image host)\n").as_bytes())?;
    }
    Ok(())
}

/// Cleans up a little at the end of a command that took so long.
pub fn tidy(home: &Home, command: Duration) {
    // Leftovers that cannot be removed now are found again by the next command.
    let _ = home.store.tidy(&TidyBudget::after(command));
}
