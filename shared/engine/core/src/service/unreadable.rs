//! Items that can't be read: lists, sweeps and refills go on past them, and they are named, in
//! the log and on `/health`, until the process ends.

use std::sync::PoisonError;

use futures_util::future::join_all;

use super::{Context, ServiceError};
use crate::ports::{Item, Key, StoreError};

/// So many are remembered by name; beyond, they are named in the log each time.
const MAX_REMEMBERED: usize = 1_000;

/// An item, nothing where there is none, or why it can't be read.
pub type ReadItem = Result<Option<Item>, StoreError>;

impl Context {
    /// Items in the order of their keys; none for those that are gone, and for those that can't
    /// be read. An error is the store's, not an item's.
    pub async fn get_readable(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        let found = self.get_each(keys).await?;
        Ok(found.into_iter().map(|read| read.ok().flatten()).collect())
    }

    /// The same, with why one can't be read, which is noted.
    pub async fn get_each(&self, keys: &[Key]) -> Result<Vec<ReadItem>, StoreError> {
        match self.store().get_many(keys).await {
            Ok(items) => return Ok(items.into_iter().map(Ok).collect()),
            Err(error) if error.unreadable().is_none() => return Err(error),
            Err(_) => {}
        }
        // One of them at least: each by itself, so that only those are left out.
        let mut items = Vec::with_capacity(keys.len());
        for found in join_all(keys.iter().map(|key| self.store().get(key))).await {
            items.push(self.readable(found)?);
        }
        Ok(items)
    }

    /// What was read; none where it can't be, which is noted. An error is the store's.
    pub fn past_unreadable<T>(&self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        Ok(self.readable(read)?.ok())
    }

    /// What was read, or why it can't be, which is noted. An outer error is the store's.
    pub fn readable<T>(
        &self,
        read: Result<T, StoreError>,
    ) -> Result<Result<T, StoreError>, StoreError> {
        let Err(error) = &read else { return Ok(read) };
        let Some(key) = error.unreadable() else { return read.map(Ok) };
        self.note_unreadable(key, &reason_of(error));
        Ok(read)
    }

    /// The same of what was done for one of several.
    pub(super) fn past_unreadable_part<T>(
        &self,
        done: Result<T, ServiceError>,
    ) -> Result<Option<T>, ServiceError> {
        match done {
            Err(ServiceError::Unreadable { key, reason }) => {
                self.note_unreadable(&key, &reason);
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    fn note_unreadable(&self, key: &Key, reason: &str) {
        let mut known = self.unreadable().lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains_key(key) {
            return;
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(key.clone(), reason.to_owned());
        }
        drop(known);
        tracing::error!(%key, reason, "item {key} can't be read and is left out: {reason}");
    }

    /// How many items could not be read since the process started, up to a thousand.
    pub fn unreadable_items(&self) -> usize {
        self.unreadable().lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Without the key, which stands beside it.
fn reason_of(error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { reason, .. } => reason.clone(),
        StoreError::Newer { found, known, .. } => {
            format!("it has schema {found}, this build knows up to {known}")
        }
        other => other.to_string(),
    }
}
