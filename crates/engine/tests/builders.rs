//! The shipped builders, run as their scripts say, outside a sandbox.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quern_engine::builders::shipped;
use quern_engine::images::host;
use tempfile::TempDir;

/// A stand-in for `/pfs`, with the files of a builder beside it.
struct Pfs {
    folder: TempDir,
    language: &'static str,
}

impl Pfs {
    fn new(language: &'static str, source: &[(&str, &str)]) -> Self {
        let pfs = Self { folder: tempfile::tempdir().unwrap(), language };
        for (name, text) in shipped(language).unwrap().files {
            pfs.write(&format!("app/{name}"), text);
        }
        for (name, text) in source {
            pfs.write(&format!("source/{name}"), text);
        }
        pfs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn sh(&self, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        Command::new("sh")
            .args(arguments)
            .current_dir(self.path("app"))
            .env_clear()
            .env("PATH", host::PATH)
            .env("PFS", self.folder.path())
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }

    fn try_build(&self, env: &[(&str, &str)]) -> Output {
        let out = self.path("out");
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        fs::create_dir(&out).unwrap();
        self.sh(&["./build.sh"], env)
    }

    /// Builds and gives what came out: path to bytes.
    fn build(&self, env: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let run = self.try_build(env);
        assert!(run.status.success(), "{} {}", text(&run.stdout), text(&run.stderr));
        let build = self.path("build");
        if build.exists() {
            fs::remove_dir_all(&build).unwrap();
        }
        fs::rename(self.path("out"), &build).unwrap();
        let mut files = BTreeMap::new();
        collect(&build, &build, &mut files);
        files
    }

    fn fails(&self, expected: &str) {
        let run = self.try_build(&[]);
        let message = text(&run.stderr);
        assert!(!run.status.success() && message.contains(expected), "{}: {message}", self.language);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let script = self.path("build/run.sh").display().to_string();
        self.sh(&[&[script.as_str()], arguments].concat(), &[])
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has(program: &str, arguments: &[&str]) -> bool {
    let run = Command::new("env").env_clear().env("PATH", host::PATH).arg(program).args(arguments).output();
    run.is_ok_and(|run| run.status.success())
}

const MAIN: &str = r#"#!/usr/bin/env python3
# A comment.
import sys
import pathlib
from pkg import words   # another

"""Not a docstring of anything."""


def greet(name):
    """Greets."""
    return (words.HELLO +
            " " + name)


print(greet(sys.argv[1] if len(sys.argv) > 1 else "nobody"), greet.__doc__)
print(open("data.txt").read(), pathlib.Path(__file__).with_name("data.txt").read_text())
sys.exit(3 if "fail" in sys.argv else 0)
"#;

fn python() -> Pfs {
    Pfs::new(
        "python",
        &[
            ("main.py", MAIN),
            ("pkg/words.py", "HELLO = 'hello'  # the word\n"),
            ("pkg/old.py", "print 'an older Python'\n"),
            ("data.txt", "data"),
            (".pachignore", "*.pyc\n"),
            ("requirements.txt", "# nothing\n\n   # at all\n"),
        ],
    )
}

#[test]
fn python_code_without_comments_and_layout() {
    let pfs = python();
    let first = pfs.build(&[]);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["app/data.txt", "app/main.py", "app/pkg/old.py", "app/pkg/words.py", "run.sh"]);
    assert_eq!(text(&first["app/pkg/words.py"]), "HELLO = 'hello'\n");
    assert_eq!(text(&first["app/pkg/old.py"]), "print 'an older Python'\n");
    let main = text(&first["app/main.py"]);
    assert!(main.starts_with("#!/usr/bin/env python3\n") && main.contains("\"\"\"Greets.\"\"\""), "{main}");
    assert!(!main.contains("comment") && !main.contains("another"), "{main}");

    let run = pfs.run(&["reader"]);
    assert_eq!(text(&run.stdout), "hello reader Greets.\ndata data\n", "{}", text(&run.stderr));
    assert_eq!(pfs.run(&["a b", "fail"]).status.code(), Some(3));

    // What makes no difference to the program makes none to the build ...
    pfs.write(
        "source/main.py",
        &MAIN.replace("# A comment.", "\n\n# Another one.").replace(" +\n            ", " + "),
    );
    pfs.write("source/requirements.txt", "# still nothing\n");
    pfs.write("source/.pachignore", "*.pyo\n");
    assert_eq!(pfs.build(&[]), first);
    // ... and what does, does.
    for (file, changed) in [
        ("main.py", MAIN.replace("Greets.", "Greets you.")),
        ("main.py", MAIN.replace("\"nobody\"", "\"somebody\"")),
        ("data.txt", "other data".to_owned()),
    ] {
        let pfs = python();
        pfs.write(&format!("source/{file}"), &changed);
        assert_ne!(pfs.build(&[]), first, "{file}");
    }
}

#[test]
fn python_code_as_it_is_on_request() {
    let pfs = python();
    let built = pfs.build(&[("QUERN_PYTHON_VERBATIM", "1")]);
    assert_eq!(text(&built["app/main.py"]), MAIN);
    assert_ne!(text(&pfs.build(&[("QUERN_PYTHON_VERBATIM", "0")])["app/main.py"]), MAIN);
}

#[test]
fn python_problems_are_named() {
    let pfs = Pfs::new("python", &[("other.py", "")]);
    pfs.fails("the source has no main.py");
    pfs.write("source/main.py", "def f(:\n");
    pfs.fails("main.py is not valid for Python 3");
    pfs.write("source/main.py", "");
    pfs.write("source/requirements.txt", "no-such-package\n");
    fs::create_dir(pfs.path("source/wheels")).unwrap();
    if has("python3", &["-m", "pip", "--version"]) {
        pfs.fails("pip could not install");
    } else {
        pfs.fails("the image has no pip");
    }
}

/// Writes a wheel: a package `leftpad` with one function.
const WHEEL: &str = r#"
import sys, zipfile
info = "leftpad-1.0.dist-info/"
files = {
    "leftpad.py": "def pad(text):\n    return text.rjust(4, '0')\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: leftpad\nVersion: 1.0\n",
    info + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    info + "entry_points.txt": "[console_scripts]\nleftpad = leftpad:pad\n",
}
with zipfile.ZipFile(sys.argv[1] + "/leftpad-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
    wheel.writestr(info + "RECORD", "".join(name + ",,\n" for name in [*files, info + "RECORD"]))
"#;

#[test]
fn python_packages_are_installed_once_and_the_same_each_time() {
    if !has("python3", &["-m", "pip", "--version"]) {
        return; // Debian: apt-get install python3-pip
    }
    let pfs = Pfs::new(
        "python",
        &[
            ("main.py", "import leftpad, sys\nprint(leftpad.pad(sys.argv[1]), leftpad.__file__)\n"),
            ("requirements.txt", "leftpad==1.0  # from the wheelhouse\n"),
        ],
    );
    fs::create_dir(pfs.path("source/wheels")).unwrap();
    let wheels = pfs.path("source/wheels").display().to_string();
    assert!(has("python3", &["-c", WHEEL, &wheels]));
    let first = pfs.build(&[]);
    assert!(first.contains_key("deps/leftpad.py"), "{:?}", first.keys());
    assert!(first.keys().any(|name| name.starts_with("deps/__pycache__/leftpad.")), "{:?}", first.keys());
    assert!(!first.keys().any(|name| name.contains("wheels")), "{:?}", first.keys());
    let run = pfs.run(&["7"]);
    assert!(text(&run.stdout).starts_with("0007 "), "{} {}", text(&run.stdout), text(&run.stderr));

    // Built again later, and named by a path instead of a version.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(pfs.build(&[]), first);
    pfs.write("source/requirements.txt", "./wheels/leftpad-1.0-py3-none-any.whl\n");
    assert_eq!(pfs.build(&[]), first);
}

const GO: &str = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\n// Says them.\nfunc main() {\n\tfmt.Println(os.Args[1:])\n\tif len(os.Args) > 2 {\n\t\tos.Exit(3)\n\t}\n}\n";

#[test]
fn go_programs() {
    let pfs = Pfs::new("go", &[("words.txt", "data")]);
    if !has("go", &["version"]) {
        pfs.fails("the image has no go");
        return;
    }
    // The standard library is compiled once for all runs of this test.
    let env = [("QUERN_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go-cache"))];
    pfs.fails("the source has no Go files");
    pfs.write("source/main.go", GO);
    pfs.write("source/main_test.go", "package main\n\nthis is never read\n");
    let first = pfs.build(&env);
    assert_eq!(first.keys().collect::<Vec<_>>(), ["main", "run.sh"]);
    let run = pfs.run(&["a b"]);
    assert_eq!(text(&run.stdout), "[a b]\n", "{}", text(&run.stderr));
    assert_eq!(pfs.run(&["a", "b"]).status.code(), Some(3));

    pfs.write("source/main.go", &GO.replace("// Says them.", "// Says them all, one by one."));
    assert!(pfs.build(&env) == first, "a comment that moves no line makes the same program");
    pfs.write("source/main.go", &GO.replace("Println", "Print"));
    assert!(pfs.build(&env) != first);
    pfs.write("source/go.mod", "module example.org/words\n\ngo 1.19\n");
    pfs.write("source/main.go", GO);
    assert_eq!(pfs.build(&env).len(), 2);
    pfs.write("source/main.go", "package words\n");
    fs::remove_file(pfs.path("source/main_test.go")).unwrap();
    let run = pfs.try_build(&env);
    assert!(text(&run.stderr).contains("it must be `package main`"), "{}", text(&run.stderr));
}

/// What of the source a running pipeline sees, by the globs of the builder.
#[test]
fn what_the_running_pipeline_sees_of_the_source() {
    use quern_spec::glob::{Compat, Glob};
    let check = |language: &str, seen: &[&str], unseen: &[&str]| {
        let globs = shipped(language).unwrap().runtime.iter();
        let globs: Vec<Glob> = globs.map(|glob| Glob::compile(glob, Compat::Documented).unwrap()).collect();
        let sees = |path: &str| globs.iter().any(|glob| glob.is_match(path));
        for path in seen {
            assert!(sees(path), "{language} {path}");
        }
        for path in unseen {
            assert!(!sees(path), "{language} {path}");
        }
    };
    check(
        "python",
        &[
            "/data.txt",
            "/pkg/words.json",
            "/a/b/c/d.csv",
            "/x.pyc",
            "/.env",
            "/wheels.txt",
            "/pkg/requirements.txt",
        ],
        &[
            "/main.py",
            "/pkg/a.py",
            "/a/b/c/d.py",
            "/requirements.txt",
            "/.pachignore",
            "/wheels/a.whl",
            "/wheels/x/a.whl",
        ],
    );
    check(
        "go",
        &["/page.html", "/a/b/c.tmpl", "/assets/go.txt"],
        &[
            "/main.go",
            "/a/b.go",
            "/go.mod",
            "/go.sum",
            "/.pachignore",
            "/vendor/modules.txt",
            "/vendor/a/b/LICENSE",
        ],
    );
}
