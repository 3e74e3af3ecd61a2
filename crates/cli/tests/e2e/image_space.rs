//! What tests of images need: a base image of busybox, Debian's registry, the log of a build.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::space::{Ran, Space};
use quern_testkit::TempSpace;

/// A folder with an image `base` of busybox, and a directory `app` to build in.
pub fn space_with_base() -> Space {
    let space = Space::new();
    make_base(&space);
    space
}

/// The same with a registry that has the base, and the base's name there.
pub fn space_with_pushed_base() -> (Space, Registry, String) {
    let (space, registry) = (space_with_base(), Registry::open());
    let base = format!("{}/base:1", registry.host);
    space.quern(&format!("image tag base {base}")).ok();
    space.quern(&format!("image push {base}")).ok();
    (space, registry, base)
}

/// Makes the base image, the same in every folder.
pub fn make_base(space: &Space) {
    let context = space.path("base");
    fs::create_dir_all(context.join("bin")).expect("the folder is fresh");
    fs::copy("/bin/busybox", context.join("bin/busybox")).expect("busybox-static is installed");
    space.write(
        "base/Dockerfile",
        "FROM scratch\nCOPY bin /bin\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nRUN mkdir -p /tmp /etc && chmod 1777 /tmp\nENV PATH=/bin\nCMD [\"sh\"]\n",
    );
    space.quern("build -t base --build-arg SOURCE_DATE_EPOCH=1 --progress plain base").ok();
}

/// Writes `app/Dockerfile`.
pub fn dockerfile(space: &Space, text: &str) {
    space.write("app/Dockerfile", text);
}

/// Builds `app` with these options.
pub fn build(space: &Space, options: &str) -> BuildLog {
    BuildLog::of(space.quern(&format!("build --progress plain {options} app")))
}

/// What a build did, as its own log says.
#[derive(Debug)]
pub struct BuildLog {
    /// The command.
    pub run: Ran,
    /// Steps in the order in which they began.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct Step {
    name: String,
    end: String,
    lines: Vec<String>,
}

impl BuildLog {
    /// Reads the log.
    pub fn of(run: Ran) -> Self {
        let mut steps: BTreeMap<usize, Step> = BTreeMap::new();
        for line in run.stderr().lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            let step = steps.entry(number).or_default();
            let end = rest.split(' ').next().unwrap_or_default();
            if step.name.is_empty() {
                step.name = rest.to_owned();
            } else if matches!(end, "DONE" | "CACHED" | "ERROR" | "CANCELED") {
                step.end = end.to_owned();
            } else {
                step.lines.push(rest.split_once(' ').map_or(rest, |(_, line)| line).to_owned());
            }
        }
        Self { run, steps: steps.into_values().collect() }
    }

    /// Asserts success and gives the instructions that were executed, sorted, without stage and number.
    #[track_caller]
    pub fn ran(&self) -> Vec<String> {
        self.run.ok();
        self.ended("DONE")
    }

    /// Instructions that ended like this, sorted, without stage and number.
    pub fn ended(&self, end: &str) -> Vec<String> {
        let steps = self.steps.iter().filter(|step| step.end == end);
        let mut names: Vec<String> = steps
            .map(|step| step.name.split_once("] ").map_or(&*step.name, |(_, name)| name).to_owned())
            .collect();
        names.sort();
        names
    }

    /// Everything that steps printed.
    pub fn printed(&self) -> Vec<String> {
        self.steps.iter().flat_map(|step| step.lines.iter().cloned()).collect()
    }

    /// Asserts success and gives the id of the image.
    #[track_caller]
    pub fn id(&self) -> String {
        self.run.ok();
        let said = self.run.stderr();
        let id = said.lines().find_map(|line| line.strip_prefix("image "));
        id.unwrap_or_else(|| panic!("no image in\n{said}")).to_owned()
    }
}

/// Debian's registry on a port of the loopback interface. Ends when it is dropped.
pub struct Registry {
    child: Child,
    /// Host and port.
    pub host: String,
    _folder: TempSpace,
}

impl Registry {
    /// A registry without anything in it.
    pub fn open() -> Self {
        Self::start("")
    }

    /// One that speaks https, with `cert.pem` and `key.pem` of a folder, which are made here. The certificate signs itself.
    pub fn secured(space: &Space) -> Self {
        let request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1 \
            -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem";
        tool(space, "openssl", &request.split_whitespace().collect::<Vec<_>>());
        let path = |name| space.path(name).display().to_string();
        Self::start(&format!("  tls:\n    certificate: {}\n    key: {}\n", path("cert.pem"), path("key.pem")))
    }

    /// `more` are further lines of the configuration.
    fn start(more: &str) -> Self {
        let folder = TempSpace::new();
        loop {
            let host = free_port();
            let config = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{more}",
                folder.path("data").display()
            );
            let config = folder.write("config.yml", config);
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry is installed");
            if answers(&mut child, &host) {
                return Self { child, host, _folder: folder };
            }
            // Somebody else took the port between our look at it and the start.
        }
    }
}

/// An address on the loopback interface that nobody uses now.
pub fn free_port() -> String {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    format!("127.0.0.1:{}", port.expect("the loopback interface has ports").port())
}

/// Waits until a server that was just started can be reached; false if it ended instead.
pub fn answers(child: &mut Child, host: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(host).is_err() {
        if child.try_wait().expect("it is our child").is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "the server at {host} does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs another program in the folder and gives what it printed.
#[track_caller]
pub fn tool(space: &Space, program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["--signal=KILL", "90", program])
        .args(args)
        .current_dir(space.path(""))
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .expect("timeout is a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).expect("it prints text")
}
