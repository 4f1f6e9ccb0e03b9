//! Blobs as files `blobs/<tenant>/<task>/<hash>` in the data folder. The store's lock on that
//! folder keeps other processes out.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use watchbill_core::ports::{BlobError, BlobKey, Blobs};
use watchbill_domain::Timestamp;

use crate::private::{self, private_folder, private_options};

/// The embedded [`Blobs`].
#[derive(Clone)]
pub struct FolderBlobs(Arc<Folder>);

struct Folder {
    root: PathBuf,
    /// Where a file is written before it is renamed; next to the root, never below it.
    half: PathBuf,
    next: AtomicU64,
    /// Held while names change, so that a file found to be old is not removed after it was put
    /// again.
    names: Mutex<()>,
}

impl FolderBlobs {
    /// Opens the blobs below `data`; folders are created with the first blob. Removes partial
    /// files left by a crash, so no other process may use the folder.
    pub fn open(data: &Path) -> Result<Self, BlobError> {
        let folder = Folder {
            root: data.join("blobs"),
            half: data.join("blobs.half"),
            next: AtomicU64::new(0),
            names: Mutex::default(),
        };
        match fs::remove_dir_all(&folder.half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(down("clear", &folder.half, &error));
            }
            _ => {}
        }
        // A copied folder may be open to others; this also closes everything below it.
        private::restrict(&folder.root)
            .map_err(|error| down("restrict access to", &folder.root, &error))?;
        Ok(Self(Arc::new(folder)))
    }

    /// Blobs that were last put before `moment`.
    pub async fn older_than(&self, moment: Timestamp) -> Result<Vec<BlobKey>, BlobError> {
        self.blocking(move |folder| {
            let list = || -> io::Result<Vec<BlobKey>> {
                let mut old = Vec::new();
                for tenant in entries(&folder.root)? {
                    for task in entries(&tenant)? {
                        let files = entries(&task)?;
                        old.extend(files.iter().filter_map(|file| folder.if_older(file, moment)));
                    }
                }
                Ok(old)
            };
            list().map_err(|error| down("list", &folder.root, &error))
        })
        .await
    }

    /// Deletes a blob unless it was put again since `moment`. True if it no longer exists.
    pub async fn delete_older(&self, key: &BlobKey, moment: Timestamp) -> Result<bool, BlobError> {
        let key = key.clone();
        self.blocking(move |folder| {
            let _names = folder.names.lock().unwrap_or_else(PoisonError::into_inner);
            let path = folder.path(&key);
            if folder.if_older(&path, moment).is_none() {
                return Ok(false);
            }
            folder.remove(&path).map(|()| true)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let folder = self.0.clone();
        tokio::task::spawn_blocking(move || work(&folder)).await.unwrap_or_else(|error| {
            Err(BlobError::Down { reason: format!("the thread for file access failed: {error}") })
        })
    }
}

impl Folder {
    /// A key's parts are safe as file names, as [`BlobKey`] guarantees.
    fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn put(&self, key: &BlobKey, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let task = path.parent().expect("a blob's path has three parts below the root");
        private_folder(&self.half)?;
        let half = self.half.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let mut file = private_options().create_new(true).open(&half)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        {
            let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            private_folder(task)?;
            fs::rename(&half, &path)?;
        }
        // The name must be as durable as the bytes, and so must its parent folders.
        for folder in task.ancestors().take(4) {
            sync_folder(folder)?;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), BlobError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(down("remove", path, &error));
            }
            _ => {}
        }
        // Only an empty folder can be removed; stops at the first that is not.
        for folder in path.ancestors().skip(1).take(2) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The key of a blob file that is older than `moment`.
    fn if_older(&self, file: &Path, moment: Timestamp) -> Option<BlobKey> {
        let written = fs::metadata(file).and_then(|meta| meta.modified()).ok()?;
        let written = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let key = BlobKey::parse(file.strip_prefix(&self.root).ok()?.to_str()?)?;
        (written < moment.millis()).then_some(key)
    }
}

#[async_trait]
impl Blobs for FolderBlobs {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> Result<(), BlobError> {
        let key = key.clone();
        self.blocking(move |folder| {
            folder.put(&key, &bytes).map_err(|error| down("write", &folder.path(&key), &error))
        })
        .await
    }

    async fn get(&self, key: &BlobKey) -> Result<Option<Bytes>, BlobError> {
        let key = key.clone();
        self.blocking(move |folder| {
            let path = folder.path(&key);
            match fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(down("read", &path, &error)),
            }
        })
        .await
    }
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(read) => read.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
            _ => Err(error),
        },
    }
}

/// Accepts a missing folder: its last blob was deleted, so there is nothing to sync.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match private::sync_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A full disk is reported as busy, because space may be freed.
fn down(what: &str, path: &Path, error: &io::Error) -> BlobError {
    if error.kind() == io::ErrorKind::StorageFull {
        tracing::warn!(path = %path.display(), %error, "the disk is full: can't {what} the path");
        return BlobError::Busy { after: Duration::from_secs(1) };
    }
    BlobError::Down { reason: format!("can't {what} {}: {error}", path.display()) }
}
