//! The image `host`: the machine's own programs without its data.
//!
//! A step sees `/usr`, `/bin`, `/sbin` and `/lib*` read-only, and an `/etc` of its own, copied from the machine's for what
//! programs need to find users, hosts, certificates, alternatives and their own defaults. What else lies in `/etc` (`shadow`, keys of the
//! SSH server, private TLS keys, credentials in `pip.conf`) is not there at all, and files that not everybody
//! may read are left out even below the names that are shown. `/home`, `/root`, `/var`, `/opt` and `/srv` are not shown.
//!
//! Its identity is what decides whether a program computes the same: the operating system's release,
//! the architecture and the versions of the interpreters and compilers, so two machines with the same versions share
//! results. It does not see libraries (a Python package installed by the distribution, say); a pipeline that depends on such should say so in
//! its `requirements.txt` or use an image that is content-addressed.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quern_core::canon::{Canon, DigestVisitor, Visitor};
use quern_core::port::{Image, PortError};
use quern_core::step::Platform;

use super::programs::{self, Program};
use super::unpacked::{self, Unpacked};

/// Where programs of the machine are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin";

/// Programs whose version makes a difference to results.
const PROGRAMS: &[Program] = &[
    ("awk", "--version"),
    ("bash", "--version"),
    ("cc", "--version"),
    ("go", "version"),
    ("java", "--version"),
    ("node", "--version"),
    ("perl", "--version"),
    ("pip3", "--version"),
    ("python3", "--version"),
    ("R", "--version"),
    ("ruby", "--version"),
    ("sed", "--version"),
    ("sh", "--version"),
    ("sort", "--version"),
];

/// What is shown of `/etc`; a `*` at the end stands for any ending.
const ETC: &[&str] = &[
    "alternatives",
    "debian_version",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "mtab",
    "networks",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "perl",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "protocols",
    "python*",
    "R",
    "resolv.conf",
    "rpc",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// The directories of the machine that a step sees.
pub fn directories() -> Vec<PathBuf> {
    let names = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
    names.iter().map(PathBuf::from).filter(|path| path.symlink_metadata().is_ok()).collect()
}

/// Those of the programs that a step on `host` would not find.
pub fn missing(programs: &[String]) -> Vec<&str> {
    programs.iter().map(String::as_str).filter(|name| programs::find(name).is_none()).collect()
}

/// The machine as an image. Versions are remembered in `memory`.
pub(super) fn resolve(memory: &Path) -> Result<Image, PortError> {
    let release = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|file| fs::read(file).ok());
    let identity = Identity {
        release: release.unwrap_or_default(),
        arch: Platform::current().arch,
        programs: programs::versions(PROGRAMS, memory)?,
    };
    Ok(super::plain(identity.digest(), PATH))
}

struct Identity {
    release: Vec<u8>,
    arch: String,
    programs: Vec<(&'static str, String)>,
}

impl Canon for Identity {
    const DOMAIN: &'static str = "quern.image.host.v1";

    fn walk(&self, visitor: &mut dyn Visitor) {
        visitor.bytes("os-release", &self.release);
        visitor.text("arch", &self.arch);
        visitor.enter("programs");
        for (name, version) in &self.programs {
            visitor.text(name, version);
        }
        visitor.leave();
    }
}

/// A copy of `/etc` as it is shown, the same directory as long as the machine's own does not change.
pub(super) fn prepare_etc(folder: &Path) -> Result<Unpacked, PortError> {
    prepare(Path::new("/etc"), folder)
}

fn prepare(etc: &Path, folder: &Path) -> Result<Unpacked, PortError> {
    let failed = |error| PortError::io(format!("reading {}", etc.display()), error);
    let shown = shown(etc).map_err(failed)?;
    let mut stamp = DigestVisitor::new("quern.image.host.etc.v1");
    for name in &shown {
        walk(&etc.join(name), &mut |path, meta| {
            stamp.bytes("path", path.as_os_str().as_bytes());
            stamp.number("inode", meta.ino());
            stamp.number("mode", u64::from(meta.mode()));
            stamp.number("size", meta.size());
            stamp.number("changed", meta.ctime().cast_unsigned());
            stamp.number("nanoseconds", meta.ctime_nsec().cast_unsigned());
            Ok(())
        })
        .map_err(failed)?;
    }
    let prepared = unpacked::obtain(folder, &stamp.finish().hex(), |target| {
        shown.iter().try_for_each(|name| show(etc, name, target)).map_err(failed)
    })?;
    // Copies of what `/etc` was before; a day is longer than any step waits between naming its image and starting.
    unpacked::prune(folder, Duration::from_secs(24 * 3600))?;
    Ok(prepared)
}

/// The names of [`ETC`] that exist.
fn shown(etc: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let present = fs::read_dir(etc)?.collect::<io::Result<Vec<_>>>()?;
    for pattern in ETC {
        match pattern.strip_suffix('*') {
            None => names.push((*pattern).to_owned()),
            Some(start) => {
                let found = present.iter().filter_map(|entry| entry.file_name().into_string().ok());
                names.extend(found.filter(|name| name.starts_with(start)));
            }
        }
    }
    names.retain(|name| etc.join(name).symlink_metadata().is_ok());
    names.sort();
    Ok(names)
}

/// Visits a file or a directory with everything below it, in the order of names. Links are not followed, except that a
/// link stands for the file it leads to as far as its metadata go.
fn walk(path: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    visit(path, &fs::metadata(path).unwrap_or(meta.clone()))?;
    if meta.is_dir() && is_public(&meta) {
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            walk(&entry.path(), visit)?;
        }
    }
    Ok(())
}

fn is_public(meta: &fs::Metadata) -> bool {
    meta.mode() & 0o004 != 0
}

/// Copies one name of [`ETC`], and opens the directories above it to everybody, whatever the user's umask is.
fn show(etc: &Path, name: &str, target: &Path) -> io::Result<()> {
    copy(&etc.join(name), &target.join(name))?;
    let mut above = Path::new(name).ancestors().skip(1);
    above.try_for_each(|folder| fs::set_permissions(target.join(folder), fs::Permissions::from_mode(0o755)))
}

/// Copies what everybody may read.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let meta = source.symlink_metadata()?;
    if meta.is_symlink() {
        return copy_link(source, target);
    }
    if !is_public(&meta) {
        return Ok(());
    }
    if meta.is_dir() {
        fs::create_dir_all(target)?;
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy(&entry.path(), &target.join(entry.file_name()))?;
        }
        fs::set_permissions(target, meta.permissions())?;
    } else if meta.is_file() {
        fs::copy(source, target)?;
    }
    Ok(())
}

/// A link stays a link if what it leads to is shown too; otherwise it becomes the file it leads to, which is how a
/// machine keeps its `resolv.conf` in `/run`.
fn copy_link(source: &Path, target: &Path) -> io::Result<()> {
    const SHOWN: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc"];
    let Ok(real) = fs::canonicalize(source) else { return Ok(()) };
    let inside = real.starts_with(source.parent().unwrap_or(source));
    if inside || SHOWN.iter().any(|shown| real.starts_with(shown)) {
        return symlink(fs::read_link(source)?, target);
    }
    let meta = fs::metadata(&real)?;
    if meta.is_file() && is_public(&meta) && !real.starts_with("/etc") {
        fs::copy(&real, target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_home_directories_do_not_count() {
        let wanted = ["sh", "no-such-program", ""].map(str::to_owned);
        assert_eq!(missing(&wanted), ["no-such-program", ""]);
    }

    #[test]
    fn secrets_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (etc, copies) = (folder.path().join("etc"), folder.path().join("copies"));
        let write = |name: &str, mode: u32| {
            let file = etc.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, name).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        };
        for public in ["passwd", "ssl/certs/a.pem", "python3/debian_config", "python3.11/sitecustomize.py"] {
            write(public, 0o644);
        }
        for other in ["shadow", "ssh/ssh_host_key", "ssl/private/key.pem", "pip.conf", "pki/tls/private/x"] {
            write(other, 0o644);
        }
        write("ssl/certs/secret.pem", 0o640);
        fs::write(folder.path().join("resolv"), "nameserver 1").unwrap();
        symlink("../resolv", etc.join("resolv.conf")).unwrap();
        symlink("shadow", etc.join("hosts")).unwrap();
        symlink("/usr/share/zoneinfo/UTC", etc.join("localtime")).unwrap();
        symlink("/proc/self/mounts", etc.join("mtab")).unwrap();

        let prepared = prepare(&etc, &copies).unwrap();
        let mut found = Vec::new();
        walk(&prepared.path, &mut |path, meta| {
            if !meta.is_dir() {
                found.push(path.strip_prefix(&prepared.path).unwrap().display().to_string());
            }
            Ok(())
        })
        .unwrap();
        let expected = [
            "hosts",
            "localtime",
            "mtab",
            "passwd",
            "python3.11/sitecustomize.py",
            "python3/debian_config",
            "resolv.conf",
            "ssl/certs/a.pem",
        ];
        found.sort();
        assert_eq!(found, expected);
        // The link to a file that is not shown leads nowhere.
        assert!(fs::read(prepared.path.join("hosts")).is_err());
        assert_eq!(fs::read_to_string(prepared.path.join("resolv.conf")).unwrap(), "nameserver 1");

        assert_eq!(prepare(&etc, &copies).unwrap().path, prepared.path);
        write("passwd", 0o600);
        let changed = prepare(&etc, &copies).unwrap();
        assert!(changed.path != prepared.path && !changed.path.join("passwd").exists());
    }
}
