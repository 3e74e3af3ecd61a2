//! `quern ... repo`

use quern_catalog::{BranchRef, Catalog, Repo, RepoName, View};

use crate::args::RepoSpec;
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, ago, size};
use crate::views::RepoView;
use crate::wiring::Home;

/// `create repo`
pub fn create(home: &Home, spec: &RepoSpec) -> Result<(), Failure> {
    let name = RepoName::new(spec.name.as_str())?;
    let description = spec.description.clone().unwrap_or_default();
    home.catalog().write(|change| change.create_repo(&name, &description).map(|_| ()))?;
    Ok(())
}

/// `update repo`
pub fn update(home: &Home, spec: &RepoSpec) -> Result<(), Failure> {
    let name = RepoName::new(spec.name.as_str())?;
    let description = spec.description.clone().unwrap_or_default();
    home.catalog().write(|change| change.update_repo(&name, &description))?;
    Ok(())
}

/// `list repo`
pub fn list(home: &Home) -> Result<(), Failure> {
    let catalog = home.catalog();
    let repos = catalog
        .read(|view| view.repos()?.iter().map(|repo| look(view, repo)).collect::<Result<Vec<_>, _>>())?;
    let now = home.records.clock.now();
    print::list(home.global.form(), &repos, |repos| {
        let mut table = Table::new(&["NAME", "CREATED", "SIZE (MASTER)", "DESCRIPTION"]);
        for repo in repos {
            let created = ago(now, repo.created_at);
            table.row([repo.name.clone(), created, size(repo.size_bytes), repo.description.clone()]);
        }
        table.render()
    })
}

/// `inspect repo`
pub fn inspect(home: &Home, name: &str) -> Result<(), Failure> {
    let name = RepoName::new(name)?;
    let repo = home.catalog().read(|view| look(view, &view.repo(&name)?))?;
    print::one(home.global.form(), &repo, |repo| {
        format!(
            "Name: {}\nDescription: {}\nCreated: {}\nSize of HEAD on Master: {}\nBranches: {}\n",
            repo.name,
            repo.description,
            repo.created,
            size(repo.size_bytes),
            repo.branches.join(", ")
        )
    })
}

/// `delete repo`
pub fn delete(home: &Home, name: Option<&str>, force: bool) -> Result<(), Failure> {
    let catalog: Catalog<'_> = home.catalog();
    let names = match name {
        Some(name) => vec![RepoName::new(name)?],
        None => catalog
            .read(|view| Ok::<_, Failure>(view.repos()?.into_iter().map(|repo| repo.name).collect()))?,
    };
    catalog.write(|change| {
        names.iter().try_for_each(|name| change.delete_repo(name, force || names.len() > 1))
    })?;
    Ok(())
}

fn look(view: View<'_>, repo: &Repo) -> Result<RepoView, Failure> {
    let branches = view.branches(&repo.name)?.iter().map(|branch| branch.branch.branch.to_string()).collect();
    let master = BranchRef::new(repo.name.as_str(), "master")?;
    let size = view.finished_head(&master)?.map_or(0, |commit| commit.size);
    Ok(RepoView::new(repo, size, branches))
}
