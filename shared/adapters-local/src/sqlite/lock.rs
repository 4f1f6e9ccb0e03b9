//! One process for each data folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use super::OpenError;

/// Makes the folder if need be, for its owner alone, and takes its lock; the lock goes with
/// the file handle, so a dead process leaves none behind.
pub(super) fn take(folder: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
    crate::private_folder(folder).map_err(unusable)?;
    let path = folder.join("watchbill.lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// For its owner alone.
pub(super) fn keep_private(path: &Path) -> Result<(), OpenError> {
    #[cfg(unix)]
    {
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, owner)
            .map_err(|source| OpenError::Folder { folder: path.to_owned(), source })?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
