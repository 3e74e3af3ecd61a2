//! What a build reads: the Dockerfile, the context with its ignore rules, named contexts.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use quern_engine::image::request::{Directory, Place};
use quern_spec::dockerfile::{DockerIgnore, ignore_files};
use quern_spec::source::SourceText;

use crate::args::ImageBuild;
use crate::failure::Failure;
use crate::wiring::Home;

/// Most bytes of a Dockerfile or an ignore file.
const MOST: u64 = 16 << 20;

/// The files of a build.
pub struct Context {
    /// The Dockerfile.
    pub dockerfile: SourceText,
    /// The build context.
    pub directory: Directory,
    /// Removed when the build has ended.
    _temporary: Option<tempfile::TempDir>,
}

impl Context {
    /// Finds and reads what the options name.
    pub fn open(_home: &Home, args: &ImageBuild) -> Result<Self, Failure> {
        let place = args.context.as_deref().unwrap_or(".");
        if place == "-" {
            return Self::from_stdin(args);
        }
        let path = PathBuf::from(place);
        if !path.is_dir() {
            return Err(Failure::named(format!("there is no directory `{place}` to build in")));
        }
        let dockerfile = match args.file.as_deref() {
            Some("-") => read_stdin("Dockerfile")?,
            Some(file) => {
                read(Path::new(file))?.ok_or_else(|| Failure::named(format!("there is no file `{file}`")))?
            }
            None => find_dockerfile(&path)?,
        };
        let ignore = ignore(&path, &dockerfile)?;
        Ok(Self { dockerfile, directory: Directory { path, ignore }, _temporary: None })
    }

    /// A Dockerfile alone, with nothing to copy.
    fn from_stdin(args: &ImageBuild) -> Result<Self, Failure> {
        if args.file.is_some() {
            return Err(Failure::input(
                "with `-` the Dockerfile comes from standard input; leave out --file",
            ));
        }
        let dockerfile = read_stdin("Dockerfile")?;
        let empty = tempfile::tempdir()?;
        let directory = Directory::whole(empty.path().to_owned());
        Ok(Self { dockerfile, directory, _temporary: Some(empty) })
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::input(format!("cannot read `{}`: {error}", path.display()))),
    }
}

fn read_stdin(name: &str) -> Result<SourceText, Failure> {
    text(name, std::io::stdin().lock())
}

fn text(name: &str, reader: impl std::io::Read) -> Result<SourceText, Failure> {
    let mut bytes = Vec::new();
    reader.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(Failure::input(format!("`{name}` is larger than {} MiB", MOST >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::input(format!("`{name}` is not UTF-8 text")))?;
    Ok(SourceText::new(name, text))
}
