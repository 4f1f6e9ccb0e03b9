//! Reads log files below the allowed folders and nothing else: every path is canonicalized and
//! must be below an allowed folder, so neither `..` nor a link leads out.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use flate2::read::MultiGzDecoder;
use watchbill_domain::Timestamp;
use watchbill_investigation::{LogFile, LogFiles, LogRequest, LogScan, SkippedLog};
use watchbill_runtime::port_error::PortError;

/// The deepest folder level that is entered, and the most files that are read.
const DEPTH: usize = 5;
const MAX_FILES: usize = 500;
const MAX_SEEN: usize = 20_000;
/// The most bytes that are unpacked from a compressed file, against decompression bombs.
const UNPACKED: u64 = 256 << 20;

/// Names of logs without a telling file extension.
const KNOWN: &[&str] = &["syslog", "messages", "kern", "daemon", "auth", "secure", "maillog"];
const ENDINGS: &[&str] = &["log", "out", "err", "jsonl", "ndjson", "txt"];

/// The log files of some folders.
#[derive(Clone, Debug)]
pub struct LogFolders {
    allowed: Vec<PathBuf>,
    utc_offset: Option<i32>,
}

impl LogFolders {
    /// Reads times without a zone in the machine's zone.
    pub fn new(allowed: Vec<PathBuf>) -> Self {
        Self { allowed, utc_offset: None }
    }

    /// Reads times without a zone as this many seconds east of UTC.
    pub fn in_zone(mut self, utc_offset: i32) -> Self {
        self.utc_offset = Some(utc_offset);
        self
    }

    fn scan(&self, request: &LogRequest) -> Result<LogScan, PortError> {
        let mut reading = LogReading::new(request);
        let mut folders = Vec::new();
        for folder in &self.allowed {
            match folder.canonicalize() {
                Ok(canonical) => folders.push(canonical),
                Err(error) => reading.skip(folder, format!("the folder can't be opened: {error}")),
            }
        }
        if folders.is_empty() {
            let shown: Vec<_> = self.allowed.iter().map(|f| f.display().to_string()).collect();
            return Err(PortError::Refused {
                what: "the log reader",
                reason: format!("none of the configured folders exists: {}", shown.join(", ")),
            });
        }
        let (files, seen) = (Vec::new(), HashSet::new());
        let mut found = Finding { folders: &folders, files, seen, full_reported: false };
        if request.paths.is_empty() {
            for folder in &folders {
                found.enter(folder, DEPTH, &mut reading);
            }
        }
        for path in &request.paths {
            found.add_named(path, &mut reading);
        }
        let mut files = found.files;
        // The newest files get the byte budget first.
        files.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.path.cmp(&b.path)));
        for file in files {
            reading.take(file, &folders);
        }
        let mut scan = reading.scan;
        scan.utc_offset = self.utc_offset.unwrap_or_else(|| {
            let now = request.since.millis();
            let at = jiff::Timestamp::from_millisecond(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            jiff::tz::TimeZone::system().to_offset(at).seconds()
        });
        Ok(scan)
    }
}

#[async_trait]
impl LogFiles for LogFolders {
    async fn read(&self, request: LogRequest) -> Result<LogScan, PortError> {
        let folders = self.clone();
        let scan = tokio::task::spawn_blocking(move || folders.scan(&request)).await;
        scan.map_err(|error| PortError::Unavailable {
            what: "the log reader",
            reason: error.to_string(),
        })?
    }
}

/// A file to read, by its canonical path.
struct Candidate {
    path: PathBuf,
    modified: Timestamp,
}

struct Finding<'a> {
    folders: &'a [PathBuf],
    files: Vec<Candidate>,
    seen: HashSet<PathBuf>,
    /// Whether the limit has been reported.
    full_reported: bool,
}

impl Finding<'_> {
    /// Adds a path that the task names: absolute, or below one of the folders.
    fn add_named(&mut self, path: &str, reading: &mut LogReading<'_>) {
        let given = Path::new(path);
        let tries: Vec<PathBuf> = if given.is_absolute() {
            vec![given.to_owned()]
        } else {
            self.folders.iter().map(|folder| folder.join(given)).collect()
        };
        let canonical = tries.iter().find_map(|path| path.canonicalize().ok());
        // The caller must not be able to tell a missing path from a forbidden one.
        let allowed = canonical.filter(|path| is_below(path, self.folders));
        let Some(path) = allowed else {
            let shown: Vec<_> = self.folders.iter().map(|f| f.display().to_string()).collect();
            let reason =
                format!("there is no such file in the allowed folders ({})", shown.join(", "));
            reading.skip(given, reason);
            return;
        };
        match path.symlink_metadata() {
            Ok(about) if about.is_dir() => self.enter(&path, DEPTH, reading),
            Ok(about) => self.add(path, &about, reading),
            Err(error) => reading.skip(&path, error.to_string()),
        }
    }

    /// Whether the limit of visited paths is reached. Reports it once, at the first omitted
    /// path.
    fn is_full(&mut self, path: &Path, reading: &mut LogReading<'_>) -> bool {
        let full = self.seen.len() >= MAX_SEEN;
        if full && !std::mem::replace(&mut self.full_reported, true) {
            let reason =
                format!("more than {MAX_SEEN} files and folders: name the paths that matter");
            reading.skip(path, reason);
        }
        full
    }

    fn enter(&mut self, folder: &Path, depth: usize, reading: &mut LogReading<'_>) {
        if self.is_full(folder, reading) || !self.seen.insert(folder.to_owned()) {
            return;
        }
        if depth == 0 {
            reading.skip(folder, format!("it is more than {DEPTH} folders deep"));
            return;
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return reading.skip(folder, error.to_string()),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            // Links are followed only within the allowed folders; others are reported as
            // skipped.
            let Ok(canonical) = path.canonicalize() else { continue };
            if !is_below(&canonical, self.folders) {
                reading.skip(&path, "it links out of the allowed folders".to_owned());
                continue;
            }
            match canonical.symlink_metadata() {
                Ok(about) if about.is_dir() => self.enter(&canonical, depth - 1, reading),
                Ok(about) if is_log(&path) => self.add(canonical, &about, reading),
                Ok(_) => {}
                Err(error) => reading.skip(&path, error.to_string()),
            }
        }
    }

    fn add(&mut self, path: PathBuf, about: &Metadata, reading: &mut LogReading<'_>) {
        if !about.is_file() {
            return reading.skip(&path, "it is not a regular file".to_owned());
        }
        if self.is_full(&path, reading) || !self.seen.insert(path.clone()) {
            return;
        }
        let modified = modified(about);
        if modified < reading.request.since {
            reading.scan.older += 1;
        } else if self.files.len() >= MAX_FILES {
            reading.skip(&path, format!("more than {MAX_FILES} files: name the paths that matter"));
        } else {
            self.files.push(Candidate { path, modified });
        }
    }
}

fn is_below(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

fn modified(about: &Metadata) -> Timestamp {
    let since = about.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let millis = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    // On a file system without times, every file is read.
    Timestamp::from_millis(millis.unwrap_or(i64::MAX))
}

/// Such as `app.log`, `app.log.3.gz`, `error.log-20260102`, `syslog.1`, `app.2026-01-02.jsonl`.
fn is_log(path: &Path) -> bool {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().to_lowercase()) else {
        return false;
    };
    let parts: Vec<&str> = name.split(['.', '-', '_']).collect();
    let packed = ["bz2", "xz", "zst", "zip"].iter().any(|ending| name.ends_with(ending));
    !packed
        && (parts.iter().skip(1).any(|part| ENDINGS.contains(part))
            || parts.first().is_some_and(|first| KNOWN.contains(first)))
}

struct LogReading<'a> {
    request: &'a LogRequest,
    scan: LogScan,
    bytes: u64,
}

impl<'a> LogReading<'a> {
    fn new(request: &'a LogRequest) -> Self {
        Self { request, scan: LogScan::default(), bytes: 0 }
    }

    fn skip(&mut self, path: &Path, reason: String) {
        self.scan.skipped.push(SkippedLog { path: path.display().to_string(), reason });
    }

    fn take(&mut self, file: Candidate, folders: &[PathBuf]) {
        let left = self.request.bytes_in_all.saturating_sub(self.bytes);
        if left == 0 {
            let most = self.request.bytes_in_all;
            return self.skip(&file.path, format!("newer logs used up the limit of {most} bytes"));
        }
        match end_of(&file.path, folders, self.request.bytes_per_file.min(left)) {
            Ok((bytes, only_end)) => {
                self.bytes += bytes.len() as u64;
                self.scan.files.push(LogFile {
                    path: file.path.display().to_string(),
                    text: whole_lines(&bytes, only_end),
                    only_end,
                    modified: file.modified,
                });
            }
            Err(error) => self.skip(&file.path, error.to_string()),
        }
    }
}

/// The last `most` bytes, after decompression, and whether anything was left out.
fn end_of(path: &Path, folders: &[PathBuf], most: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    // Someone may have replaced the path with a link after the check.
    let about = file.metadata()?;
    if !about.is_file() || !is_below(&path.canonicalize()?, folders) || !same(&about, path)? {
        return Err(io::Error::other("it changed while it was opened"));
    }
    let mut magic = [0; 2];
    let packed = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
    if packed {
        file.rewind()?;
        return end_of_packed(file, most);
    }
    let skip = about.len().saturating_sub(most);
    file.seek(SeekFrom::Start(skip))?;
    let mut bytes = Vec::new();
    // A file that is being written may have grown, so the limit is applied again.
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, skip > 0))
}

#[cfg(unix)]
fn same(opened: &Metadata, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let named = path.symlink_metadata()?;
    Ok(opened.dev() == named.dev() && opened.ino() == named.ino())
}

#[cfg(not(unix))]
fn same(opened: &Metadata, path: &Path) -> io::Result<bool> {
    Ok(opened.len() <= path.symlink_metadata()?.len())
}

fn end_of_packed(file: File, most: u64) -> io::Result<(Vec<u8>, bool)> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut unpacked = MultiGzDecoder::new(io::BufReader::new(file)).take(UNPACKED);
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut cut = false;
    loop {
        let read = match unpacked.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            // The file is truncated; what was unpacked so far is worth reading.
            Err(_) if !kept.is_empty() => break,
            Err(error) => return Err(error),
        };
        kept.extend_from_slice(&chunk[..read]);
        if kept.len() > most.saturating_mul(2) {
            kept.drain(..kept.len() - most);
            cut = true;
        }
    }
    if kept.len() > most {
        kept.drain(..kept.len() - most);
        cut = true;
    }
    Ok((kept, cut || unpacked.limit() == 0))
}

/// The bytes as text, without the partial line at the beginning.
fn whole_lines(bytes: &[u8], only_end: bool) -> String {
    let from = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if only_end => end + 1,
        _ => 0,
    };
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn request(paths: &[&str]) -> LogRequest {
        LogRequest {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            since: Timestamp::from_millis(0),
            bytes_per_file: 1_000,
            bytes_in_all: 10_000,
        }
    }

    fn folder() -> (TempDir, LogFolders, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let logs = outer.path().join("logs");
        fs::create_dir(&logs).unwrap();
        fs::write(logs.join("app.log"), "one\ntwo\n").unwrap();
        fs::write(logs.join("notes.md"), "no log\n").unwrap();
        fs::write(outer.path().join("secret.log"), "secret\n").unwrap();
        let folders = LogFolders::new(vec![logs.clone()]).in_zone(0);
        (outer, folders, logs)
    }

    fn texts(scan: &LogScan) -> Vec<&str> {
        scan.files.iter().map(|file| file.text.as_str()).collect()
    }

    #[test]
    fn logs_are_found_and_other_files_are_not() {
        let (_outer, folders, logs) = folder();
        fs::create_dir(logs.join("deep")).unwrap();
        fs::write(logs.join("deep/err.log.1"), "three\n").unwrap();
        let scan = folders.scan(&request(&[])).unwrap();
        let mut found = texts(&scan);
        found.sort_unstable();
        assert_eq!(found, ["one\ntwo\n", "three\n"]);
        assert_eq!(texts(&folders.scan(&request(&["deep"])).unwrap()), ["three\n"]);
        assert_eq!(texts(&folders.scan(&request(&["notes.md"])).unwrap()), ["no log\n"]);
        for (name, log) in
            [("syslog.1", true), ("a.log-2026.gz", true), ("a.log.xz", false), ("catalog", false)]
        {
            assert_eq!(is_log(Path::new(name)), log, "{name}");
        }
    }

    #[test]
    fn no_path_leaves_the_allowed_folders() {
        let (outer, folders, logs) = folder();
        let secret = outer.path().join("secret.log");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&secret, logs.join("link.log")).unwrap();
            std::os::unix::fs::symlink(outer.path(), logs.join("up")).unwrap();
            std::os::unix::fs::symlink(&logs, logs.join("loop")).unwrap();
        }
        let absolute = secret.display().to_string();
        for path in [
            "../secret.log",
            "link.log",
            "up/secret.log",
            "./../secret.log",
            &absolute,
            "/etc/passwd",
            "",
            "..",
            "\0",
        ] {
            let scan = folders.scan(&request(&[path])).unwrap();
            assert!(!texts(&scan).iter().any(|text| text.contains("secret")), "{path}: {scan:?}");
            assert!(!scan.files.iter().any(|f| f.path.contains("passwd")), "{path}: {scan:?}");
        }
        let scan = folders.scan(&request(&[])).unwrap();
        assert_eq!(texts(&scan), ["one\ntwo\n"]);
        assert!(scan.skipped.iter().any(|s| s.reason.contains("links out")), "{:?}", scan.skipped);
    }

    #[test]
    fn a_folder_with_the_same_name_prefix_is_not_allowed() {
        let (outer, folders, _logs) = folder();
        fs::create_dir(outer.path().join("logs-secret")).unwrap();
        fs::write(outer.path().join("logs-secret/a.log"), "secret\n").unwrap();
        let scan = folders.scan(&request(&["../logs-secret/a.log"])).unwrap();
        assert!(scan.files.is_empty());
        assert!(scan.skipped[0].reason.contains("no such file in the allowed folders"));
    }

    #[test]
    fn only_the_end_of_a_large_file_is_read() {
        let (_outer, folders, logs) = folder();
        let lines: String = (0..500).map(|n| format!("line {n}\n")).collect();
        fs::write(logs.join("app.log"), &lines).unwrap();
        let mut packed = flate2::write::GzEncoder::new(
            File::create(logs.join("old.log.gz")).unwrap(),
            flate2::Compression::fast(),
        );
        packed.write_all(lines.as_bytes()).unwrap();
        packed.finish().unwrap();
        let scan = folders.scan(&request(&[])).unwrap();
        assert_eq!(scan.files.len(), 2);
        for file in &scan.files {
            assert!(file.only_end && file.text.len() <= 1_000, "{}", file.path);
            assert!(file.text.starts_with("line ") && file.text.ends_with("line 499\n"));
        }
        let few = LogRequest { bytes_in_all: 1_000, ..request(&[]) };
        let scan = folders.scan(&few).unwrap();
        assert_eq!(scan.files.iter().map(|f| f.text.len()).sum::<usize>() / 1_001, 0);
        assert!(scan.skipped.is_empty() || scan.skipped[0].reason.contains("used up the limit"));
    }

    #[test]
    fn malformed_files_are_read_or_skipped() {
        let (_outer, folders, logs) = folder();
        fs::write(logs.join("a.log"), b"\xff\xfe bad \xc3 utf-8\n\0\0\n").unwrap();
        fs::write(logs.join("b.log.gz"), b"\x1f\x8b not really packed").unwrap();
        fs::write(logs.join("c.log"), b"").unwrap();
        fs::write(logs.join("d.log"), b"\x1f").unwrap();
        let scan = folders.scan(&request(&[])).unwrap();
        assert!(texts(&scan).iter().any(|text| text.contains("bad")));
        assert!(scan.skipped.iter().any(|s| s.path.ends_with("b.log.gz")), "{:?}", scan.skipped);
        let later = LogRequest { since: Timestamp::from_millis(i64::MAX), ..request(&[]) };
        assert_eq!(folders.scan(&later).unwrap().older, 5);
        let gone = LogFolders::new(vec![logs.join("gone")]);
        assert!(gone.scan(&request(&[])).unwrap_err().to_string().contains("gone"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_bytes_and_paths_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            path in "\\PC{0,40}",
        ) {
            let (_outer, folders, logs) = folder();
            fs::write(logs.join("any.log.gz"), &bytes).unwrap();
            let scan = folders.scan(&request(&["any.log.gz", &path])).unwrap();
            prop_assert!(scan.files.len() + scan.skipped.len() >= 1);
        }
    }
}
