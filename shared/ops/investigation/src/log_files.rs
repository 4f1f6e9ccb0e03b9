//! The port that reads log files.

use async_trait::async_trait;
use watchbill_domain::Timestamp;
use watchbill_runtime::port_error::PortError;

/// Log files in the folders that the operator opened for reading.
#[async_trait]
pub trait LogFiles: Send + Sync {
    async fn read(&self, request: LogRequest) -> Result<LogScan, PortError>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogRequest {
    /// Files or folders, absolute or below an allowed folder. Empty: all logs there.
    pub paths: Vec<String>,
    /// Files last written before this time are left out.
    pub since: Timestamp,
    /// Maximum bytes read of one file (its end), and of all files.
    pub bytes_per_file: u64,
    pub bytes_in_all: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogScan {
    pub files: Vec<LogFile>,
    /// What was not read, and why.
    pub skipped: Vec<SkippedLog>,
    /// Number of files left out because they were last written before `since`.
    pub older: usize,
    /// For times without a zone: seconds east of UTC.
    pub utc_offset: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogFile {
    pub path: String,
    /// The text that was read, with invalid UTF-8 replaced. Whole lines, except perhaps the
    /// last.
    pub text: String,
    /// Whether its beginning was left out because the file is too big.
    pub only_end: bool,
    pub modified: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SkippedLog {
    pub path: String,
    pub reason: String,
}
