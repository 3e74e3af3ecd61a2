//! What a build reads: the Dockerfile, the context with its ignore rules, named contexts.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use quern_core::DigestWriter;
use quern_engine::image::git;
use quern_engine::image::request::{Directory, FetchedContext, Place};
use quern_oci::UnpackOptions;
use quern_oci::archive::open_archive;
use quern_oci::registry::Validators;
use quern_oci::unpack::Unpacker;
use quern_spec::dockerfile::{DockerIgnore, SourcePath, ignore_files};
use quern_spec::source::SourceText;

use crate::args::ImageBuild;
use crate::failure::Failure;
use tempfile::TempDir;

/// Most bytes of a Dockerfile or an ignore file.
const MOST: u64 = 16 << 20;
/// Bytes that tell an archive from a Dockerfile.
const START: u64 = 64 << 10;

/// A stream of which the digest is taken on the way.
struct Heard<R> {
    from: R,
    digest: DigestWriter,
}

impl<R: Read> Read for Heard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// The files of a build.
pub struct Context {
    /// The Dockerfile.
    pub dockerfile: SourceText,
    /// The build context.
    pub directory: Directory,
    /// Where it was fetched from.
    pub origin: Option<FetchedContext>,
    /// Removed when the build has ended.
    _temporary: Option<TempDir>,
}

impl Context {
    /// Finds, fetches and reads what the options name.
    pub fn open(args: &ImageBuild) -> Result<Self, Failure> {
        let place = args.context.as_deref().unwrap_or(".");
        match SourcePath::classify(place) {
            _ if place == "-" => Self::of_stream(args, io::stdin().lock()),
            SourcePath::Local(_) => {
                let path = PathBuf::from(place);
                if !path.is_dir() {
                    return Err(Failure::named(format!("there is no directory `{place}` to build in")));
                }
                Self::in_directory(args, path, None)
            }
            SourcePath::Git(source) => {
                let temporary = tempfile::tempdir()?;
                let (scratch, tree) = (temporary.path().join("scratch"), temporary.path().join("tree"));
                std::fs::create_dir_all(&scratch)?;
                std::fs::create_dir_all(&tree)?;
                let keep = args.build_arg.iter().any(|arg| arg == "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1");
                let commit = git::resolve(&source).map_err(Failure::named)?;
                git::check_out(&source, &commit, keep, &scratch, &tree).map_err(Failure::named)?;
                let function = if commit.len() == 64 { "sha256" } else { "sha1" };
                let fragment = source.reference.as_ref().map(|name| format!("#{name}")).unwrap_or_default();
                let origin = FetchedContext {
                    uri: format!("{}{fragment}", git::shown(&source.remote)),
                    digest: BTreeMap::from([(function.to_owned(), commit)]),
                    dockerfile: args.file.as_deref() != Some("-"),
                };
                let context = Self::in_directory(args, tree, Some(temporary))?;
                Ok(Self { origin: Some(origin), ..context })
            }
            SourcePath::Http(address) => {
                let fetched = crate::wiring::registry().fetch(&address, &Validators::default());
                let fetched = fetched.map_err(Failure::named)?;
                let fetched = fetched.ok_or_else(|| Failure::named(format!("{address} gave nothing")))?;
                let mut body = Heard { from: fetched.body, digest: DigestWriter::new() };
                let context = Self::of_stream(args, &mut body)?;
                io::copy(&mut body, &mut io::sink())?;
                let origin = FetchedContext {
                    uri: git::shown(&address),
                    digest: BTreeMap::from([("sha256".to_owned(), body.digest.finish().hex())]),
                    dockerfile: args.file.as_deref() != Some("-"),
                };
                Ok(Self { origin: Some(origin), ..context })
            }
        }
    }

    fn in_directory(args: &ImageBuild, path: PathBuf, temporary: Option<TempDir>) -> Result<Self, Failure> {
        let dockerfile = match args.file.as_deref() {
            Some("-") => read_stdin("Dockerfile")?,
            Some(file) => {
                // Of what was fetched the file is a part; else it is named like any other.
                let file = if temporary.is_some() { path.join(file) } else { PathBuf::from(file) };
                let absent = || Failure::named(format!("there is no file `{}`", file.display()));
                read(&file)?.ok_or_else(absent)?
            }
            None => find_dockerfile(&path)?,
        };
        let ignore = ignore(&path, &dockerfile)?;
        Ok(Self { dockerfile, directory: Directory { path, ignore }, origin: None, _temporary: temporary })
    }

    /// An archive of a context, or a Dockerfile alone, with nothing to copy.
    fn of_stream(args: &ImageBuild, mut stream: impl Read) -> Result<Self, Failure> {
        let temporary = tempfile::tempdir()?;
        let tree = temporary.path().join("tree");
        std::fs::create_dir_all(&tree)?;
        let mut start = Vec::new();
        stream.by_ref().take(START).read_to_end(&mut start)?;
        let options = UnpackOptions::for_current_user();
        let whole = io::Cursor::new(start.clone()).chain(&mut stream);
        let is_archive = open_archive(&start[..], &options.limits)?.is_some();
        if is_archive && let Some(archive) = open_archive(whole, &options.limits)? {
            let mut unpacker = Unpacker::new(&tree, &options).map_err(Failure::input)?;
            unpacker.archive(archive).map_err(Failure::input)?;
            return Self::in_directory(args, tree, Some(temporary));
        }
        if args.file.is_some() {
            let message = "what is read is a Dockerfile, not an archive of a directory; leave out --file";
            return Err(Failure::input(message));
        }
        let dockerfile = text("Dockerfile", io::Cursor::new(start).chain(stream))?;
        Ok(Self { dockerfile, directory: Directory::whole(tree), origin: None, _temporary: Some(temporary) })
    }

    /// The named contexts.
    pub fn named(&self, args: &ImageBuild) -> Result<BTreeMap<String, Place>, Failure> {
        let mut named = BTreeMap::new();
        for text in &args.build_context {
            let wrong = |problem: &str| Failure::input(format!("--build-context `{text}`: {problem}"));
            let (name, place) = text.split_once('=').ok_or_else(|| wrong("write NAME=PLACE"))?;
            let place = if let Some(image) = place.strip_prefix("docker-image://") {
                Place::Image(image.to_owned())
            } else if let Some(layout) = place.strip_prefix("oci-layout://") {
                let (path, tag) = match layout.rsplit_once(':') {
                    Some((path, tag)) if !tag.contains('/') => (path, format!(":{tag}")),
                    _ => (layout, String::new()),
                };
                let path = Path::new(path).canonicalize().map_err(|error| wrong(&error.to_string()))?;
                Place::Image(format!("oci:{}{tag}", path.display()))
            } else {
                let path = PathBuf::from(place);
                if !path.is_dir() {
                    return Err(wrong("there is no such directory"));
                }
                let rules = read(&path.join(".dockerignore"))?.map(|text| parse_ignore(&text)).transpose()?;
                Place::Directory(Directory { path, ignore: rules.unwrap_or_default() })
            };
            named.insert(name.to_lowercase(), place);
        }
        Ok(named)
    }
}

fn find_dockerfile(dir: &Path) -> Result<SourceText, Failure> {
    for name in ["Dockerfile", "Containerfile"] {
        if let Some(text) = read(&dir.join(name))? {
            return Ok(text);
        }
    }
    Err(Failure::named(format!("there is no Dockerfile in `{}`; name it with --file", dir.display())))
}

/// The rules that go with a Dockerfile: those beside it, else those of the context.
fn ignore(dir: &Path, dockerfile: &SourceText) -> Result<DockerIgnore, Failure> {
    let [beside, of_context] = ignore_files(dockerfile.name());
    let text = match read(Path::new(&beside))? {
        Some(text) => Some(text),
        None => read(&dir.join(of_context))?,
    };
    text.map_or_else(|| Ok(DockerIgnore::default()), |text| parse_ignore(&text))
}

fn parse_ignore(text: &SourceText) -> Result<DockerIgnore, Failure> {
    let (rules, diagnostics) = DockerIgnore::parse(text);
    super::show(&diagnostics, text);
    if diagnostics.has_errors() {
        return Err(Failure::input(format!("`{}` cannot be used", text.name())));
    }
    Ok(rules)
}

fn read(path: &Path) -> Result<Option<SourceText>, Failure> {
    match std::fs::File::open(path) {
        Ok(file) if file.metadata()?.is_dir() => Ok(None),
        Ok(file) => text(&path.display().to_string(), file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::input(format!("cannot read `{}`: {error}", path.display()))),
    }
}

fn read_stdin(name: &str) -> Result<SourceText, Failure> {
    text(name, io::stdin().lock())
}

fn text(name: &str, reader: impl Read) -> Result<SourceText, Failure> {
    let mut bytes = Vec::new();
    reader.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(Failure::input(format!("`{name}` is larger than {} MiB", MOST >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::input(format!("`{name}` is not UTF-8 text")))?;
    Ok(SourceText::new(name, text))
}
