//! `quern ... commit`

use quern_catalog::{BranchName, Commit, CommitQuery, Ref, RepoName};

use crate::commands::branch::branch_ref;
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, ago, size};
use crate::views::CommitView;
use crate::wiring::Home;

/// `start commit`
pub fn start(home: &Home, branch: &str, description: Option<&str>) -> Result<(), Failure> {
    let branch = branch_ref(branch)?;
    let commit =
        home.catalog().write(|change| change.start_commit(&branch, description.unwrap_or_default()))?;
    print::raw(format!("{}\n", commit.id).as_bytes())
}

/// `finish commit`
pub fn finish(home: &Home, branch: &str, description: Option<&str>) -> Result<(), Failure> {
    let target: Ref = branch.parse()?;
    home.catalog().write(|change| {
        let commit = change.view().resolve(&target)?;
        change.finish(commit.id, description).map(|_| ())
    })?;
    home.advance()
}

/// `list commit`
pub fn list(home: &Home, target: Option<&str>, number: Option<usize>) -> Result<(), Failure> {
    let query = target.map(parse_target).transpose()?;
    let commits = home.catalog().read(|view| {
        let queries = match &query {
            Some((repo, branch)) => {
                vec![CommitQuery { branch: branch.clone(), limit: number, ..CommitQuery::of(repo.clone()) }]
            }
            None => view
                .repos()?
                .into_iter()
                .map(|repo| CommitQuery { limit: number, ..CommitQuery::of(repo.name) })
                .collect(),
        };
        let mut commits = Vec::new();
        for query in &queries {
            commits.extend(view.commits(query)?);
        }
        commits.sort_by_key(|commit: &Commit| std::cmp::Reverse(commit.started));
        commits.truncate(number.unwrap_or(usize::MAX));
        Ok::<_, Failure>(commits)
    })?;
    print_list(home, &commits)
}

/// Prints commits as `list commit` does.
pub fn print_list(home: &Home, commits: &[Commit]) -> Result<(), Failure> {
    let views: Vec<CommitView> = commits.iter().map(CommitView::from).collect();
    let now = home.records.clock.now();
    print::list(home.global.form(), &views, |commits| {
        let mut table = Table::new(&["REPO", "BRANCH", "COMMIT", "FINISHED", "SIZE", "DESCRIPTION"]);
        for commit in commits {
            let finished = commit.finished_at.map_or_else(|| "-".into(), |time| ago(now, time));
            let (repo, branch, id) = (commit.repo.clone(), commit.branch.clone(), commit.id.clone());
            table.row([repo, branch, id, finished, size(commit.size_bytes), commit.description.clone()]);
        }
        table.render()
    })
}

fn parse_target(text: &str) -> Result<(RepoName, Option<BranchName>), Failure> {
    Ok(match text.split_once('@') {
        Some((repo, branch)) => (RepoName::new(repo)?, Some(BranchName::new(branch)?)),
        None => (RepoName::new(text)?, None),
    })
}

/// `inspect commit`
pub fn inspect(home: &Home, commit: &str) -> Result<(), Failure> {
    let target: Ref = commit.parse()?;
    let commit = home.catalog().read(|view| view.resolve(&target))?;
    print::one(home.global.form(), &CommitView::from(&commit), |commit| {
        format!(
            "Commit: {}@{}\nOriginal Branch: {}\nParent: {}\nStarted: {}\nFinished: {}\nSize: {}\nProvenance: {}\nJob: {}\nDescription: {}\n",
            commit.repo,
            commit.id,
            commit.branch,
            commit.parent.as_deref().unwrap_or("-"),
            commit.started,
            commit.finished.as_deref().unwrap_or("-"),
            size(commit.size_bytes),
            commit.provenance.join(", "),
            commit.job.as_deref().unwrap_or("-"),
            commit.description,
        )
    })
}

/// `delete commit`
pub fn delete(home: &Home, commit: &str) -> Result<(), Failure> {
    let target: Ref = commit.parse()?;
    Ok(quern_engine::delete::commit(&home.records, &target)?)
}
