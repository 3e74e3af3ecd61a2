//! What must stay: everything that records lead to.

use quern_catalog::{CommitQuery, DatumSet, View};
use quern_core::ContentRef;
use quern_core::port::{self, PortError};
use quern_store::Root;

use crate::images::records;
use crate::{Records, commits, job, journal, known, pipeline};

/// Shows every tree and blob that a record refers to.
///
/// # Errors
/// Those of the store.
pub fn visit(records: &Records, visit: &mut dyn FnMut(Root)) -> Result<(), PortError> {
    let mut roots = Vec::new();
    port::read(&*records.meta, |r| {
        roots.clear();
        let view = View::new(r);
        for repo in view.repos().map_err(commits::port_error)? {
            let commits = view.commits(&CommitQuery::of(repo.name)).map_err(commits::port_error)?;
            roots.extend(commits.into_iter().map(|commit| Root::Tree(commit.tree.digest)));
        }
        for pipeline in pipeline::all(r)? {
            roots.extend(pipeline.run.app.map(Root::Tree));
        }
        for known in known::all(r)? {
            roots.extend([known.current, known.older].map(|(parts, _)| Root::Tree(parts)));
            roots.extend(known.shared.map(Root::Blob));
            roots.extend(known.tree.map(|(digest, _)| Root::Tree(digest)));
        }
        for (_, image) in records::images(r)? {
            roots.extend(records::roots_of(r, &image)?);
        }
        for job in job::list(r, None, None)? {
            for (_, record) in journal::of_job(r, job.id)? {
                roots.extend(record.log.map(Root::Blob));
                let needed = !job.state.has_ended();
                roots.extend(record.output.filter(|_| needed).map(|(digest, _)| Root::Tree(digest)));
            }
        }
        Ok::<_, PortError>(())
    })?;
    for known in port::read(&*records.meta, known::all)? {
        for (digest, size) in [known.current, known.older] {
            let parts = ContentRef { digest, size };
            let set = DatumSet::load(&*records.blobs, &parts).map_err(|e| PortError::Other(e.to_string()))?;
            set.iter().for_each(|(_, output)| visit(Root::Tree(output.digest)));
        }
    }
    roots.into_iter().for_each(visit);
    Ok(())
}
