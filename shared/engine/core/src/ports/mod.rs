//! The core's dependencies on its environment, as small traits. Each has at least two
//! implementations, which pass one conformance suite in `testkit`.

mod blobs;
mod bus;
mod clock;
mod entropy;
mod lanes;
mod list_cursor;
mod secret;
mod store;
mod wake;
mod webhook;

pub use blobs::{BlobError, BlobKey, Blobs};
pub use bus::{Bus, BusError, Buses};
pub use clock::Clock;
pub use entropy::Entropy;
pub use lanes::{LaneMessage, Lanes, LanesError};
pub use list_cursor::ListCursor;
pub use secret::{FixedSecret, SecretSource};
pub use store::{
    Change, Commit, CommitError, CounterAdd, DUE_SHARDS, DueKey, Item, Key, ListEntry, ListRange,
    MAX_WRITES, NewItem, Page, Precondition, Query, Store, StoreError, WhichList, Write, WriteId,
    due_shard,
};
pub use wake::{Topic, Wake};
pub use webhook::Webhook;
