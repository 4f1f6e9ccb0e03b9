//! One process for each data folder, and what is remembered of the last one.
//!
//! The lock is held on the folder itself, which can't be removed while it holds a database, and
//! on `watchbill.lock`, which builds before this one look at. Both go with their handles, so a
//! dead process leaves none behind. SQLite's own locks are no use for this: they are the
//! process's, and closing any handle of the database drops them.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;
use crate::private;

const LOCK_FILE: &str = "watchbill.lock";

/// How far the database of a folder was known to be: see [`Lock::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// Held for the store's life.
pub(super) struct Lock {
    /// None where the file system knows no locks on folders.
    _folder: Option<File>,
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Makes the folder if need be, for its owner alone, and takes its locks.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
        private::private_folder(folder).map_err(unusable)?;
        if private::is_open_to_others(folder).map_err(unusable)? {
            let folder = folder.display();
            tracing::warn!(
                "the data folder {folder} is open to others on this machine: chmod 700 {folder}"
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

    /// Whether a database has been in this folder: something was marked, readable or not.
    pub(super) fn is_marked(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > 0)
    }

    /// What was marked last; none if nothing was, or if it was cut off.
    pub(super) fn marked(&self) -> io::Result<Option<Mark>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        // Far more than a mark: a file that is something else is no mark.
        file.take(256).read_to_string(&mut text)?;
        Ok(read_mark(&text))
    }

    /// Remembers beside the database how far it is, so that the next start sees whether the
    /// database it finds is that one or something older. Not synced: it may be behind.
    pub(super) fn mark(&self, mark: Mark) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("epoch {:020} change {:020}\n", mark.epoch, mark.seq).as_bytes())
    }
}

fn read_mark(text: &str) -> Option<Mark> {
    let (epoch, seq) = text.strip_suffix('\n')?.strip_prefix("epoch ")?.split_once(" change ")?;
    Some(Mark { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? })
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
                "the file system of {} can't lock a folder: only {LOCK_FILE} keeps others out",
                folder.display()
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
            let mark = Mark { epoch: 3, seq };
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
        assert!(matches!(second, Err(OpenError::Locked { .. })), "a second process got in");
        drop(first);
        Lock::take(folder.path()).unwrap();
    }
}
