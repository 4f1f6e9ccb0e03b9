//! The port by which log files are read.

use async_trait::async_trait;
use watchbill_domain::Timestamp;
use watchbill_runtime::port_error::PortError;

/// Log files of the folders that the operator opened for reading.
#[async_trait]
pub trait LogFiles: Send + Sync {
    async fn read(&self, request: LogRequest) -> Result<LogScan, PortError>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogRequest {
    /// Files or folders, absolute or below an allowed folder; empty: all logs there.
    pub paths: Vec<String>,
    /// Files last written before this are left out.
    pub since: Timestamp,
    /// At most so many bytes of one file (its end), and of all.
    pub bytes_per_file: u64,
    pub bytes_in_all: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogScan {
    pub files: Vec<LogFile>,
    /// What was not read, and why.
    pub skipped: Vec<SkippedLog>,
    /// Files left out because they were last written before `since`.
    pub older: usize,
    /// Of times written without a zone: seconds east of UTC.
    pub utc_offset: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogFile {
    pub path: String,
    /// What was read of it, with invalid UTF-8 replaced; whole lines, but for the last.
    pub text: String,
    /// Its beginning was left out because it is too big.
    pub only_end: bool,
    pub modified: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SkippedLog {
    pub path: String,
    pub reason: String,
}
