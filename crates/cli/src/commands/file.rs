//! `quern ... file`

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path};

use quern_catalog::{Catalog, FileError, FileInfo, PathPattern, PutMode, PutOptions, Ref, Written};
use quern_core::{Entry, TreePath};
use quern_engine::datums::Pattern;
use quern_spec::glob::{Compat, Glob};
use quern_store::import::{ImportOptions, Importer, Links};
use quern_store::workspace::{Existing, FolderWorkspace};

use crate::args::{Output, PutFile};
use crate::failure::{Failure, Kind};
use crate::print;
use crate::table::{Table, size};
use crate::views::{DiffView, FileView};
use crate::wiring::Home;

/// `put file`
pub fn put(home: &Home, args: &PutFile) -> Result<(), Failure> {
    let target: Ref = args.target.parse()?;
    let mut sources = args.files.clone();
    if let Some(list) = &args.input_file {
        let text = std::fs::read_to_string(list).map_err(|e| Failure::input(format!("{list}: {e}")))?;
        sources.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if sources.is_empty() {
        sources.push("-".into());
    }
    // Before anything is read: the repo must exist.
    home.catalog().read(|view| view.repo(&target.repo).map(|_| ()))?;
    let mut entries = Vec::new();
    for source in &sources {
        let path = destination(&target, source, sources.len() > 1)?;
        entries.push((path, read_source(home, source, args.recursive)?));
    }
    home.records.blobs.sync()?;
    let mode = if args.overwrite { PutMode::Overwrite } else { PutMode::Append };
    // Overwriting with the same bytes changes nothing and makes no commit; appending nothing does not either.
    let options = PutOptions { mode, skip_unchanged: true, description: String::new() };
    let written = home.catalog().put(&target, &entries, &options)?;
    if matches!(written, Written::Unchanged(_)) {
        home.say(&format!("{} is unchanged", target.repo));
    }
    home.advance()
}

/// Where a source goes: the path of the target, or below it if there are several; the source's own path if the target
/// has none.
fn destination(target: &Ref, source: &str, several: bool) -> Result<TreePath, Failure> {
    let own = || -> Result<TreePath, Failure> {
        if source == "-" {
            return Err(Failure::input("standard input has no name; write REPO@BRANCH:PATH"));
        }
        // As typed, without leading `../`; a path is text here, nothing is looked up.
        let inside: std::path::PathBuf = Path::new(source)
            .components()
            .skip_while(|c| matches!(c, Component::ParentDir | Component::CurDir))
            .collect();
        parse_path(&inside.to_string_lossy())
    };
    match &target.path {
        None => own(),
        Some(path) if several => parse_path(path)?.join(&own()?).map_err(|e| Failure::input(e.to_string())),
        Some(path) => {
            let path = parse_path(path)?;
            if path.is_root() && !Path::new(source).is_dir() {
                let name = Path::new(source).file_name().map(|name| name.to_string_lossy().into_owned());
                let name = name.filter(|_| source != "-");
                return match name {
                    Some(name) => parse_path(&name),
                    None => Err(Failure::input("standard input has no name; write REPO@BRANCH:PATH")),
                };
            }
            Ok(path)
        }
    }
}

fn read_source(home: &Home, source: &str, recursive: bool) -> Result<Entry, Failure> {
    if source == "-" {
        let content = home.records.blobs.put_stream(&mut io::stdin().lock())?;
        return Ok(Entry::File { content, executable: false });
    }
    let path = Path::new(source);
    if source.contains("://") {
        return Err(Failure::input(format!(
            "{source}: URLs are not fetched; download it and pipe it in with -f -"
        )));
    }
    let metadata = std::fs::metadata(path).map_err(|e| Failure::named(format!("{source}: {e}")))?;
    if metadata.is_dir() {
        if !recursive {
            return Err(Failure::input(format!(
                "{source} is a directory; add -r to put it with all that is in it"
            )));
        }
        let options = ImportOptions { links: Links::FollowFiles, filter: None, lane: "put" };
        let import = home.importer()?.import(path, &options).map_err(|e| Failure::input(e.to_string()))?;
        return Ok(Entry::Dir(import.tree));
    }
    if !metadata.is_file() {
        return Err(Failure::input(format!("{source} is neither a file nor a directory")));
    }
    let mut file = File::open(path).map_err(|e| Failure::named(format!("{source}: {e}")))?;
    let content = home.records.blobs.put_stream(&mut file)?;
    let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    Ok(Entry::File { content, executable })
}

/// `get file`
pub fn get(home: &Home, target: &str, recursive: bool, to: Option<&Path>) -> Result<(), Failure> {
    let target: Ref = target.parse()?;
    let catalog = home.catalog();
    let commit = catalog.readable(&target)?;
    let path = target.path.clone().unwrap_or_default();
    if let (true, Some(to)) = (recursive, to) {
        let found = catalog.inspect(&commit, &parse_path(&path)?)?;
        let Entry::Dir(dir) = found.entry else {
            return Err(Failure::input(format!("{} is a file; leave out -r", found.path)));
        };
        return FolderWorkspace::of(&home.store)
            .checkout_to(&dir.digest, to, Existing::Replace)
            .map_err(|e| Failure::new(Kind::Internal, e));
    }
    let pattern = pattern(&path)?;
    let mut reader = catalog.open_all(&commit, &pattern)?;
    if pattern.literal().is_some() {
        catalog.inspect(&commit, &parse_path(&path)?)?;
    }
    match to {
        Some(to) => {
            let mut file = File::create(to).map_err(|e| Failure::input(format!("{}: {e}", to.display())))?;
            io::copy(&mut reader, &mut file)?;
            Ok(())
        }
        None => copy_to_stdout(&mut reader),
    }
}

fn copy_to_stdout(reader: &mut dyn Read) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match io::copy(reader, &mut out).and_then(|_| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// `list file`
pub fn list(home: &Home, target: &str) -> Result<(), Failure> {
    let target: Ref = target.parse()?;
    let path = parse_path(target.path.as_deref().unwrap_or_default())?;
    let catalog = home.catalog();
    let commit = catalog.readable(&target)?;
    print_files(home.global.form(), &catalog.list(&commit, &path)?)
}

/// `glob file`
pub fn glob(home: &Home, target: &str) -> Result<(), Failure> {
    let target: Ref = target.parse()?;
    let pattern = pattern(target.path.as_deref().unwrap_or_default())?;
    let catalog = home.catalog();
    let commit = catalog.readable(&target)?;
    print_files(home.global.form(), &catalog.glob(&commit, &pattern)?)
}

fn print_files(form: Output, files: &[FileInfo]) -> Result<(), Failure> {
    let views: Vec<FileView> = files.iter().map(FileView::from).collect();
    print::list(form, &views, |files| {
        let mut table = Table::new(&["NAME", "TYPE", "SIZE"]);
        for file in files {
            table.row([file.path.clone(), file.kind.to_owned(), size(file.size_bytes)]);
        }
        table.render()
    })
}

/// `inspect file`
pub fn inspect(home: &Home, target: &str) -> Result<(), Failure> {
    let target: Ref = target.parse()?;
    let path = parse_path(target.path.as_deref().unwrap_or_default())?;
    let catalog = home.catalog();
    let commit = catalog.readable(&target)?;
    let info = catalog.inspect(&commit, &path)?;
    print::one(home.global.form(), &FileView::from(&info), |file| {
        let content = file.content.as_deref().unwrap_or("-");
        format!(
            "Path: {}\nType: {}\nSize: {}\nContent: {content}\n",
            file.path,
            file.kind,
            size(file.size_bytes)
        )
    })
}

/// `diff file`
pub fn diff(home: &Home, new: &str, old: Option<&str>, name_only: bool) -> Result<(), Failure> {
    let (new, old): (Ref, Option<Ref>) = (new.parse()?, old.map(str::parse).transpose()?);
    let catalog = home.catalog();
    let commit = catalog.readable(&new)?;
    let before = old.as_ref().map(|old| catalog.readable(old)).transpose()?;
    let below = parse_path(new.path.as_deref().unwrap_or_default())?;
    let inside = |path: &TreePath| {
        below.is_root()
            || path.as_str() == below.as_str()
            || path.as_str().starts_with(&format!("{}/", below.as_str()))
    };
    let found = catalog.diff(&commit, before.as_ref())?;
    let views: Vec<DiffView> = found.iter().filter(|d| inside(&d.path)).map(DiffView::from).collect();
    print::list(home.global.form(), &views, |views| {
        if name_only {
            return views.iter().map(|view| format!("{}\n", crate::table::printable(&view.path))).collect();
        }
        let mut table = Table::new(&["OP", "NAME", "OLD SIZE", "NEW SIZE"]);
        for view in views {
            let show = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), size);
            table.row([
                view.op.to_owned(),
                view.path.clone(),
                show(view.old_size_bytes),
                show(view.new_size_bytes),
            ]);
        }
        table.render()
    })
}

/// `copy file`
pub fn copy(home: &Home, source: &str, destination: &str, overwrite: bool) -> Result<(), Failure> {
    let (source, target): (Ref, Ref) = (source.parse()?, destination.parse()?);
    let from = parse_path(source.path.as_deref().unwrap_or_default())?;
    let to = parse_path(target.path.as_deref().unwrap_or_default())?;
    let mode = if overwrite { PutMode::Overwrite } else { PutMode::Append };
    let options = PutOptions { mode, skip_unchanged: true, description: String::new() };
    home.catalog().copy((&source, &from), (&target, &to), &options)?;
    home.advance()
}

/// `delete file`
pub fn delete(home: &Home, target: &str) -> Result<(), Failure> {
    let target: Ref = target.parse()?;
    let Some(path) = &target.path else {
        return Err(Failure::input("write REPO@BRANCH:PATH; `/` is everything"));
    };
    let catalog: Catalog<'_> = home.catalog();
    let text = if path.trim_matches('/').is_empty() { "/*" } else { path };
    catalog.delete_files(&target, &pattern(text)?, "")?;
    home.advance()
}

fn parse_path(text: &str) -> Result<TreePath, Failure> {
    TreePath::parse(text).map_err(|e| Failure::input(e.to_string()))
}

/// A path or a pattern, as patterns are written in specs.
fn pattern(text: &str) -> Result<Pattern, Failure> {
    Glob::compile(text, Compat::Documented)
        .map(Pattern)
        .map_err(|e| Failure::input(format!("pattern `{text}`: {e}")))
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Version(error) => error.into(),
            other => Self::named(other),
        }
    }
}

impl Home {
    /// Reads directories, remembering what it saw.
    ///
    /// # Errors
    /// If the state folder cannot be read.
    pub fn importer(&self) -> Result<Importer, Failure> {
        Ok(Importer::of(&self.store)?)
    }
}
