//! Locks a data folder for one process, and remembers how far the last one got.
//!
//! The lock is held on the folder itself, which can't be removed while it holds a database, and
//! on `watchbill.lock`, which older builds check. Both are released with their handles, so a
//! dead process leaves none. SQLite's own locks do not serve: they belong to the process, and
//! closing any handle of the database drops them.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;
use crate::private;

const LOCK_FILE: &str = "watchbill.lock";

/// How far a folder's database was known to be: see [`Lock::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatabaseMark {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// Held as long as the store is open.
pub(super) struct Lock {
    /// `None` if the file system can't lock folders.
    _folder: Option<File>,
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Creates the folder if necessary, for its owner only, and takes its locks.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
        private::private_folder(folder).map_err(unusable)?;
        if private::is_open_to_others(folder).map_err(unusable)? {
            tracing::warn!(
                folder = %folder.display(),
                "other users of this machine can access the data folder: run chmod 700 on it"
            );
        }
        let locked = |file: &File| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { folder: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        };
        let of_folder = lock_folder(folder, locked)?;
        let path = folder.join(LOCK_FILE);
        let mut options = private::private_options();
        let file = options.read(true).create(true).truncate(false).open(&path).map_err(unusable)?;
        private::restrict(&path).map_err(unusable)?;
        locked(&file)?;
        Ok(Self { _folder: of_folder, file, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this folder has held a database: a mark was written, readable or not.
    pub(super) fn is_marked(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > 0)
    }

    /// The last mark; `None` if there is none, or it is truncated.
    pub(super) fn marked(&self) -> io::Result<Option<DatabaseMark>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        // Far more than a mark has; anything longer is no mark.
        file.take(256).read_to_string(&mut text)?;
        Ok(read_mark(&text))
    }

    /// Records next to the database how far it is, so that the next start detects an older one.
    /// Not synced, so it may be behind.
    pub(super) fn mark(&self, mark: DatabaseMark) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("epoch {:020} change {:020}\n", mark.epoch, mark.seq).as_bytes())
    }
}

fn read_mark(text: &str) -> Option<DatabaseMark> {
    let (epoch, seq) = text.strip_suffix('\n')?.strip_prefix("epoch ")?.split_once(" change ")?;
    Some(DatabaseMark { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? })
}

#[cfg(unix)]
fn lock_folder(
    folder: &Path,
    locked: impl Fn(&File) -> Result<(), OpenError>,
) -> Result<Option<File>, OpenError> {
    let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
    let open = File::open(folder).map_err(unusable)?;
    match locked(&open) {
        Err(OpenError::Folder { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(
                folder = %folder.display(),
                "the file system can't lock folders: only {LOCK_FILE} keeps other processes out"
            );
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(Some(open)),
    }
}

#[cfg(not(unix))]
fn lock_folder(
    _folder: &Path,
    _locked: impl Fn(&File) -> Result<(), OpenError>,
) -> Result<Option<File>, OpenError> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_mark_is_read_as_written_and_a_torn_one_is_none() {
        let folder = TempDir::new().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        assert!(!lock.is_marked());
        assert_eq!(lock.marked().unwrap(), None);
        for seq in [u64::MAX, 7] {
            let mark = DatabaseMark { epoch: 3, seq };
            lock.mark(mark).unwrap();
            assert_eq!(lock.marked().unwrap(), Some(mark));
        }
        lock.file.set_len(20).unwrap();
        assert_eq!(lock.marked().unwrap(), None);
        assert!(lock.is_marked());
    }

    #[test]
    fn without_its_lock_file_a_folder_is_still_locked() {
        let folder = TempDir::new().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        std::fs::remove_file(first.path()).unwrap();
        let second = Lock::take(folder.path());
        assert!(matches!(second, Err(OpenError::Locked { .. })), "a second process got the lock");
        drop(first);
        Lock::take(folder.path()).unwrap();
    }
}
