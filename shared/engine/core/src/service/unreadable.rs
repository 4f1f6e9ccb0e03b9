//! Unreadable items: lists, sweeps and refills skip them, and the log names them. `/health`
//! counts them until the process ends.

use std::sync::PoisonError;

use futures_util::future::join_all;

use super::{Context, ServiceError};
use crate::ports::{Item, Key, StoreError};

/// This many are remembered by name; any more are logged each time.
const MAX_REMEMBERED: usize = 1_000;

/// An item, `None` where there is none, or why it is unreadable.
pub type ReadItem = Result<Option<Item>, StoreError>;

impl Context {
    /// Items in the order of their keys; `None` for missing and for unreadable ones. An error
    /// is the store's, not an item's.
    pub async fn get_readable(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        let found = self.get_each(keys).await?;
        Ok(found.into_iter().map(|read| read.ok().flatten()).collect())
    }

    /// The same, with the error of an unreadable item, which is noted.
    pub async fn get_each(&self, keys: &[Key]) -> Result<Vec<ReadItem>, StoreError> {
        match self.store().get_many(keys).await {
            Ok(items) => return Ok(items.into_iter().map(Ok).collect()),
            Err(error) if error.unreadable().is_none() => return Err(error),
            Err(_) => {}
        }
        // At least one is unreadable: each is read by itself, so that only those are left out.
        let mut items = Vec::with_capacity(keys.len());
        for found in join_all(keys.iter().map(|key| self.store().get(key))).await {
            items.push(self.readable(found)?);
        }
        Ok(items)
    }

    /// The value that was read; `None` if it is unreadable, which is noted. An error is the
    /// store's.
    pub fn past_unreadable<T>(&self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        Ok(self.readable(read)?.ok())
    }

    /// The value that was read, or why it is unreadable, which is noted. An outer error is the
    /// store's.
    pub fn readable<T>(
        &self,
        read: Result<T, StoreError>,
    ) -> Result<Result<T, StoreError>, StoreError> {
        let Err(error) = &read else { return Ok(read) };
        let Some(key) = error.unreadable() else { return read.map(Ok) };
        self.note_unreadable(key, &reason_of(error));
        Ok(read)
    }

    /// The same for the result of one of several operations.
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
        tracing::error!(%key, reason, "an item can't be read and is skipped");
    }

    /// The number of items that were unreadable since the process started, up to a thousand.
    pub fn unreadable_items(&self) -> usize {
        self.unreadable().lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Without the key, which is a log field.
fn reason_of(error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { reason, .. } => reason.clone(),
        StoreError::Newer { found, known, .. } => {
            format!("it has schema {found}, this build knows up to {known}")
        }
        other => other.to_string(),
    }
}
