//! `quern ... branch`

use quern_catalog::{BranchRef, RepoName};

use crate::failure::Failure;
use crate::print;
use crate::table::Table;
use crate::views::BranchView;
use crate::wiring::Home;

/// `create branch`: makes it, or moves its head.
pub fn create(home: &Home, branch: &str, head: Option<&str>) -> Result<(), Failure> {
    let name = branch_ref(branch)?;
    let head = head.map(|head| commit_of(&name, head)).transpose()?;
    home.catalog().write(|change| {
        change.ensure_branch(&name)?;
        if let Some(head) = &head {
            let commit = change.view().resolve(head)?;
            change.set_head(&name, commit.id)?;
        }
        Ok::<_, Failure>(())
    })?;
    home.advance()
}

/// `--head` may be a whole reference, a branch of the repo or a commit.
fn commit_of(branch: &BranchRef, head: &str) -> Result<quern_catalog::Ref, Failure> {
    let text = if head.contains('@') { head.to_owned() } else { format!("{}@{head}", branch.repo) };
    Ok(text.parse()?)
}

/// `list branch`
pub fn list(home: &Home, repo: &str) -> Result<(), Failure> {
    let repo = RepoName::new(repo)?;
    let branches = home.catalog().read(|view| Ok::<_, Failure>(view.branches(&repo)?))?;
    let views: Vec<BranchView> = branches.iter().map(BranchView::from).collect();
    print::list(home.global.form(), &views, |branches| {
        let mut table = Table::new(&["BRANCH", "HEAD", "MADE FROM"]);
        for branch in branches {
            let head = branch.head.clone().unwrap_or_else(|| "-".into());
            table.row([branch.branch.clone(), head, branch.provenance.join(", ")]);
        }
        table.render()
    })
}

/// `inspect branch`
pub fn inspect(home: &Home, branch: &str) -> Result<(), Failure> {
    let name = branch_ref(branch)?;
    let branch = home.catalog().read(|view| view.branch(&name))?;
    print::one(home.global.form(), &BranchView::from(&branch), |branch| {
        let head = branch.head.as_deref().unwrap_or("-");
        let from = branch.provenance.join(", ");
        format!("Name: {}@{}\nHead Commit: {head}\nMade From: {from}\n", branch.repo, branch.branch)
    })
}

/// `delete branch`
pub fn delete(home: &Home, branch: &str, force: bool) -> Result<(), Failure> {
    let name = branch_ref(branch)?;
    home.catalog().write(|change| change.delete_branch(&name, force))?;
    Ok(())
}

/// Reads `repo@branch`.
pub fn branch_ref(text: &str) -> Result<BranchRef, Failure> {
    let (repo, branch) = text
        .split_once('@')
        .ok_or_else(|| Failure::input(format!("`{text}` is not a branch; write it as REPO@BRANCH")))?;
    Ok(BranchRef::new(repo, branch)?)
}
