//! Debian's registry as a child process on a port of the loopback interface.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ends when it is dropped.
pub struct Server {
    child: Child,
    _folder: TempDir,
    pub host: String,
}

/// `user` with the password `secret`.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl Server {
    pub fn open() -> Self {
        Self::start(|_| String::new())
    }

    pub fn with_password() -> Self {
        Self::start(|folder| {
            let file = folder.path().join("htpasswd");
            fs::write(&file, HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        })
    }

    /// `more` gives further lines of the configuration.
    pub fn start(more: impl FnOnce(&TempDir) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let more = more(&folder);
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let host = format!("127.0.0.1:{port}");
            let config = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{more}",
                folder.path().join("data").display()
            );
            fs::write(folder.path().join("config.yml"), config).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(folder.path().join("config.yml"))
                .stdout(Stdio::null())
                .stderr(fs::File::create(folder.path().join("log")).unwrap())
                .spawn()
                .unwrap();
            if answers(&mut child, &host) {
                return Self { child, _folder: folder, host };
            }
            // Somebody else took the port between our look at it and the start.
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(log.contains("address already in use"), "{log}");
        }
    }

    /// The folder with a `config.json` for the user.
    pub fn login(&self, auth: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(r#"{{"auths":{{"{}":{auth}}}}}"#, self.host);
        fs::write(folder.path().join("config.json"), config).unwrap();
        folder
    }
}

fn answers(child: &mut Child, host: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(host) {
            Ok(_) => return true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "the registry does not start");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
