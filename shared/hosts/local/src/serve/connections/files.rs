//! The limit of open files, and how many connections it allows.

/// The most connections at once, however many files are allowed: each uses some memory.
const MAX_CONNECTIONS: usize = 4_096;
/// Files that connections leave to the rest: database, blobs, logs, probes, webhooks, a Redis.
const RESERVE: usize = 256;

/// Raises the limit of open files as far as permitted. Returns how many connections may use.
pub fn connections() -> usize {
    of(raised())
}

/// Of this many files: all but the reserve, or half if there are few.
fn of(files: usize) -> usize {
    files.saturating_sub(RESERVE).max(files / 2).min(MAX_CONNECTIONS)
}

#[cfg(unix)]
fn raised() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let enough = (MAX_CONNECTIONS + RESERVE) as u64;
    let current = limit.current.unwrap_or(enough);
    let wanted = limit.maximum.unwrap_or(enough).min(enough);
    if current >= wanted {
        return usize::try_from(current).unwrap_or(usize::MAX);
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(current, wanted, "the limit of open files can't be raised: {error}");
            current
        }
    };
    usize::try_from(now).unwrap_or(usize::MAX)
}

#[cfg(not(unix))]
fn raised() -> usize {
    MAX_CONNECTIONS + RESERVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_rest() {
        for (files, connections) in
            [(1_048_576, 4_096), (4_352, 4_096), (1_024, 768), (512, 256), (256, 128), (64, 32)]
        {
            assert_eq!(of(files), connections, "{files}");
        }
    }
}
