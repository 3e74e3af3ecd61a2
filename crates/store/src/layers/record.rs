//! What is noted beside a layer, and when a layer is believed.
//!
//! Nothing is synced when a layer is committed: syncing thousands of files costs more than making most layers again. So
//! after a power cut a layer may be there by name with empty files in it. Each layer therefore notes in which run of the machine it
//! was committed, and when; `db/layers.json` notes up to when everything of a run has been synced. A layer of an earlier
//! run that is not covered counts as missing and is made again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::boot::{boot, since_boot};
use crate::layout::Layout;

const VERSION: u32 = 1;

/// What a layer's lock file says, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The run of the machine.
    boot: String,
    /// Nanoseconds into that run, after everything in the layer was written.
    at: u64,
    /// The lease of the process that committed it.
    pub(super) maker: String,
}

impl Record {
    pub(super) fn new(maker: &str) -> Self {
        Self { version: VERSION, boot: boot().to_owned(), at: since_boot(), maker: maker.to_owned() }
    }

    /// Reads it; none if it is torn or of another version.
    pub(super) fn read(lock: &File) -> io::Result<Option<Self>> {
        let mut text = [0; 1024];
        let len = lock.read_at(&mut text, 0)?;
        let record: Option<Self> = serde_json::from_slice(&text[..len]).ok();
        Ok(record.filter(|record| record.version == VERSION))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }

    /// Whether everything in the layer is as it was when it was committed.
    pub(super) fn is_good(&self, settled: &Settled) -> bool {
        self.boot == boot() || settled.boots.get(&self.boot).is_some_and(|until| self.at < *until)
    }
}

/// Up to when everything is durable, by run of the machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Settled {
    version: u32,
    /// Nanoseconds into each run.
    boots: BTreeMap<String, u64>,
}

impl Settled {
    pub(super) fn read(layout: &Layout) -> io::Result<Self> {
        match fs::read(layout.settled()) {
            Ok(text) => Ok(serde_json::from_slice(&text)
                .ok()
                .filter(|settled: &Self| settled.version == VERSION)
                .unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

/// Changes of the folder this short before a sync count as later than it: the kernel's stamps are a few milliseconds old.
const BLUR: Duration = Duration::from_millis(20);

/// Makes every committed layer survive a power cut. Writes back everything on the file system that is not yet written.
pub(super) fn settle(layout: &Layout) -> io::Result<()> {
    let (began, at) = (SystemTime::now(), since_boot());
    rustix::fs::syncfs(File::open(layout.layers())?)?;
    note(layout, began, at)
}

/// Notes that everything was synced by a call that began then, so many nanoseconds into this run.
fn note(layout: &Layout, began: SystemTime, at: u64) -> io::Result<()> {
    let mut settled = Settled::read(layout)?;
    settled.version = VERSION;
    let until = settled.boots.entry(boot().to_owned()).or_default();
    *until = at.max(*until);
    let mut file = tempfile::NamedTempFile::new_in(layout.tmp())?;
    file.write_all(&serde_json::to_vec(&settled)?)?;
    file.as_file().sync_all()?;
    file.as_file().set_modified(began.checked_sub(BLUR).unwrap_or(began))?;
    file.persist(layout.settled()).map_err(|error| error.error)?;
    crate::layout::sync_dir(&layout.root().join("db"))
}

/// No layer came for so long: by then the kernel has written most by itself.
const QUIET: Duration = Duration::from_secs(30);
/// So much on the whole machine may wait to be written: a sync waits for what others write, too.
const UNWRITTEN: u64 = 16 << 20;

/// Settles if that is due and will not take long. Costs two looks at files otherwise.
pub(crate) fn settle_when_quiet(layout: &Layout) -> io::Result<()> {
    if is_due(layout, QUIET)? && unwritten(&fs::read_to_string("/proc/meminfo")?) <= UNWRITTEN {
        return settle(layout);
    }
    Ok(())
}

/// Whether layers came since the last time, but none within `quiet`.
fn is_due(layout: &Layout, quiet: Duration) -> io::Result<bool> {
    let changed = fs::metadata(layout.layers())?.modified()?;
    let settled = match fs::metadata(layout.settled()) {
        Ok(metadata) => metadata.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
        Err(error) => return Err(error),
    };
    Ok(changed > settled && changed.elapsed().is_ok_and(|passed| passed >= quiet))
}

/// Bytes that wait to be written, by what `/proc/meminfo` says.
fn unwritten(meminfo: &str) -> u64 {
    let amounts = meminfo.lines().filter_map(|line| {
        let rest = ["Dirty:", "Writeback:"].iter().find_map(|name| line.strip_prefix(name))?;
        rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    amounts.sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use quern_testkit::TempSpace;

    use super::*;

    #[test]
    fn layers_of_this_run_are_believed_and_others_if_they_were_synced() {
        let record = Record::new("m");
        assert!(record.is_good(&Settled::default()));
        let earlier = Record { boot: "earlier".into(), at: 1000, ..record };
        assert!(!earlier.is_good(&Settled::default()));
        let check = |run: &str, until, expected| {
            let boots = BTreeMap::from([(run.to_owned(), until)]);
            assert_eq!(earlier.is_good(&Settled { version: VERSION, boots }), expected, "{run} {until}");
        };
        check("earlier", 999, false);
        check("earlier", 1000, false);
        check("earlier", 1001, true);
        check("another", 1001, false);
    }

    #[test]
    fn what_was_torn_says_nothing() {
        let space = TempSpace::new();
        let path = space.path("lock");
        Record::new("0123456789abcdef").write(&path).unwrap();
        let read = || Record::read(&File::open(&path).unwrap()).unwrap();
        assert_eq!(read().unwrap().maker, "0123456789abcdef");
        let text = space.read("lock");
        for torn in ["", &text[..20], &text.replace("\"version\":1", "\"version\":2")] {
            fs::write(&path, torn).unwrap();
            assert!(read().is_none(), "{torn}");
        }
    }

    #[test]
    fn settling_is_due_in_a_quiet_moment_and_once() {
        let space = TempSpace::new();
        let layout = Layout::open(&space.path("state"), true).unwrap();
        assert!(!is_due(&layout, Duration::from_secs(3600)).unwrap(), "too soon");
        assert!(is_due(&layout, Duration::ZERO).unwrap());
        note(&layout, SystemTime::now() + BLUR, 7).unwrap();
        assert!(!is_due(&layout, Duration::ZERO).unwrap(), "nothing came since");
        fs::create_dir(layout.layers().join("new")).unwrap();
        let now = SystemTime::now();
        File::open(layout.layers()).unwrap().set_modified(now + BLUR).unwrap();
        assert!(!is_due(&layout, Duration::ZERO).unwrap(), "it is not even that time yet");
        note(&layout, now - Duration::from_secs(9), 5).unwrap();
        File::open(layout.layers()).unwrap().set_modified(now - Duration::from_secs(8)).unwrap();
        assert!(is_due(&layout, Duration::from_secs(7)).unwrap());
        assert_eq!(Settled::read(&layout).unwrap().boots[boot()], 7, "never less than before");
    }

    #[test]
    fn what_waits_to_be_written_is_added_up() {
        let text =
            "MemFree: 9 kB\nDirty:              1200 kB\nWriteback:            34 kB\nWritebackTmp:  7 kB\n";
        assert_eq!(unwritten(text), 1234 * 1024);
        assert_eq!(unwritten(""), 0);
    }
}
