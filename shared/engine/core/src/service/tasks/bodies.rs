//! Where payloads and results are stored: in the header, in an item next to it, or in a blob.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use watchbill_domain::{Body, Task, TaskId, TaskLimits, TenantId, Timestamp};

use super::{Tasks, not_found};
use crate::ports::{BlobError, BlobKey, Key, Precondition, StoreError, Write};
use crate::repo::{self, Child, StoredTask, body_item, decode, read_body};
use crate::service::unreadable::ReadItem;
use crate::service::{FullTask, ServiceError};

/// Above this a body is a blob: an item's write costs by the kilobyte, and DynamoDB limits it
/// to 400 KB.
const BLOB: usize = 100 * 1024;

/// One of a task's bodies.
pub(super) struct BodyPart {
    what: &'static str,
    sort: &'static str,
    /// Up to this many bytes it is stored in the header.
    inline: usize,
    most: usize,
}

pub(super) const PAYLOAD: BodyPart = BodyPart {
    what: "payload",
    sort: repo::PAYLOAD,
    // Every change rewrites the header.
    inline: 400,
    most: TaskLimits::PAYLOAD,
};

const RESULT: BodyPart = BodyPart {
    what: "result",
    sort: repo::RESULT,
    // Written once, at the end.
    inline: 4 * 1024,
    most: TaskLimits::RESULT,
};

/// A body whose place is chosen, and the extra write it needs.
pub struct StoredBody {
    pub body: Body,
    extra_writes: Option<SeparateBody>,
}

enum SeparateBody {
    Item(&'static str, Bytes),
    Blob(BlobKey, Bytes),
}

impl BodyPart {
    pub fn put(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        object: &Map<String, Value>,
    ) -> Result<StoredBody, ServiceError> {
        let json = serde_json::to_vec(object).expect("a JSON object serializes");
        let bytes = json.len();
        if bytes > self.most {
            return Err(ServiceError::TooLarge { what: self.what, bytes, most: self.most });
        }
        if bytes <= self.inline {
            return Ok(StoredBody { body: Body::In(object.clone()), extra_writes: None });
        }
        if bytes <= BLOB {
            let extra_writes = Some(SeparateBody::Item(self.sort, json.into()));
            return Ok(StoredBody { body: Body::Item(bytes as u64), extra_writes });
        }
        let key = BlobKey::of(tenant, id, &json);
        let body = Body::Blob(key.to_string(), bytes as u64);
        Ok(StoredBody { body, extra_writes: Some(SeparateBody::Blob(key, json.into())) })
    }
}

impl Tasks {
    /// Writes the blob, or returns the item for the commit.
    pub(super) async fn write_body(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        placed: &StoredBody,
        expires: Timestamp,
    ) -> Result<Option<Write>, ServiceError> {
        match &placed.extra_writes {
            None => Ok(None),
            Some(SeparateBody::Blob(key, json)) => {
                self.context.blobs().put(key, json.clone()).await?;
                Ok(None)
            }
            Some(SeparateBody::Item(sort, json)) => {
                let item = body_item(tenant, id, sort, json.clone(), expires);
                Ok(Some(Write::Put { item, expect: Precondition::Absent }))
            }
        }
    }

    /// Chooses the place of a result; [`put_result`](Self::put_result) stores it.
    pub fn place_result(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        object: &Map<String, Value>,
    ) -> Result<StoredBody, ServiceError> {
        RESULT.put(tenant, id, object)
    }

    /// A result in an item belongs in the commit that ends the task, so that no stale run can
    /// change the result of a finished task. A result in a blob is durable when this returns
    /// and carries the hash of its bytes.
    pub async fn put_result(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        placed: &StoredBody,
    ) -> Result<Option<Write>, ServiceError> {
        let now = self.context.clock().now();
        self.write_body(tenant, id, placed, self.context.rules().keep_beside(Some(now), now)).await
    }

    /// A task with everything stored next to its header.
    pub async fn get(&self, tenant: &TenantId, id: &TaskId) -> Result<FullTask, ServiceError> {
        let Some(stored) = self.stored(tenant, id).await? else { return Err(not_found(id)) };
        match self.whole_task(stored).await {
            // It expired between two reads.
            Err(ServiceError::Down { .. }) if self.stored(tenant, id).await?.is_none() => {
                Err(not_found(id))
            }
            whole => whole,
        }
    }

    async fn whole_task(&self, stored: StoredTask) -> Result<FullTask, ServiceError> {
        let mut parts = self.parts(stored).await?;
        let task = &parts.full.task;
        parts.full.payload = self.whole(&task.payload, &parts.payload, task).await?;
        parts.full.result = match &task.result {
            None => None,
            Some(result) => Some(self.whole(result, &parts.result, task).await?),
        };
        Ok(parts.full)
    }

    /// Tasks by their ids, without their children; `None` for a missing one, and for an
    /// unreadable one, which is noted. The reads are strongly consistent, and a single call
    /// where all bodies are in the headers.
    pub async fn get_many(
        &self,
        tenant: &TenantId,
        ids: &[TaskId],
    ) -> Result<Vec<Option<FullTask>>, ServiceError> {
        let keys: Vec<Key> = ids.iter().map(|id| repo::task_key(tenant, id)).collect();
        let mut found = Vec::with_capacity(ids.len());
        for item in self.context.get_each(&keys).await? {
            let stored = match item {
                Ok(Some(item)) => self.context.past_unreadable(decode::<Task>(&item))?,
                Ok(None) | Err(_) => None,
            };
            let Some(stored) = stored else {
                found.push(None);
                continue;
            };
            let task = &stored.value;
            let full = match (&task.payload, &task.result) {
                (Body::In(payload), None | Some(Body::In(_))) => FullTask {
                    version: stored.version,
                    payload: payload.clone(),
                    result: task.result.as_ref().and_then(Body::inline).cloned(),
                    children: Vec::new(),
                    task: stored.value,
                },
                _ => self.listed_task(stored).await?,
            };
            found.push(Some(full));
        }
        Ok(found)
    }

    /// The same for a list, which must not become as large as all its results together: a
    /// result in a blob is replaced by its size and where to read it. A lost body is replaced
    /// in the same way, so that it does not remove the other entries from the list.
    pub(super) async fn listed_task(&self, stored: StoredTask) -> Result<FullTask, ServiceError> {
        let mut parts = self.parts(stored).await?;
        let task = &parts.full.task;
        let payload = self.load(&task.payload, &parts.payload).await?;
        parts.full.payload = payload.unwrap_or_else(|_| left_out(&task.payload, &task.id));
        parts.full.result = match &task.result {
            None => None,
            Some(result @ Body::Blob(..)) => Some(left_out(result, &task.id)),
            Some(result) => {
                let found = self.load(result, &parts.result).await?;
                Some(found.unwrap_or_else(|_| left_out(result, &task.id)))
            }
        };
        Ok(parts.full)
    }

    /// The items next to a header without its history: a task with many changes has a long one,
    /// and none of it is shown.
    async fn parts(&self, stored: StoredTask) -> Result<DecodedTask, ServiceError> {
        let partition = repo::task_partition(&stored.value.tenant, &stored.value.id);
        let extra_writes = |body: Option<&Body>| matches!(body, Some(Body::Item(_)));
        let places = [
            (repo::PAYLOAD, extra_writes(Some(&stored.value.payload))),
            (repo::RESULT, extra_writes(stored.value.result.as_ref())),
        ];
        let keys = places.iter().filter(|(_, is)| *is);
        let keys: Vec<Key> = keys.map(|(sort, _)| Key::new(partition.clone(), *sort)).collect();
        let bodies = match keys.is_empty() {
            true => Vec::new(),
            false => self.context.get_each(&keys).await?,
        };
        let at = |sort: &str| {
            let of = keys.iter().zip(&bodies).find(|(key, _)| &*key.sort == sort);
            of.map_or(Ok(None), |(_, item)| item.clone())
        };
        let (payload, result) = (at(repo::PAYLOAD), at(repo::RESULT));
        let mut children = Vec::new();
        for item in self.context.store().collect_each(&partition, repo::CHILDREN).await? {
            let child =
                self.context.past_unreadable(item.and_then(|item| decode::<Child>(&item)))?;
            children.extend(child.map(|child| child.value.child));
        }
        let full = FullTask {
            task: stored.value,
            version: stored.version,
            payload: Map::new(),
            result: None,
            children,
        };
        Ok(DecodedTask { full, payload, result })
    }

    /// The payload of a task, wherever it is stored.
    pub async fn payload(&self, task: &Task) -> Result<Map<String, Value>, ServiceError> {
        let item = match &task.payload {
            Body::In(_) | Body::Blob(..) => None,
            Body::Item(_) => {
                let key = Key::new(repo::task_partition(&task.tenant, &task.id), repo::PAYLOAD);
                self.context.store().get(&key).await?
            }
        };
        self.whole(&task.payload, &Ok(item), task).await
    }

    async fn whole(
        &self,
        body: &Body,
        extra_writes: &ReadItem,
        task: &Task,
    ) -> Result<Map<String, Value>, ServiceError> {
        self.load(body, extra_writes).await?.map_err(|lost| match lost {
            BodyFault::Gone(what) => {
                ServiceError::Down { reason: format!("task '{}' refers to {what}", task.id) }
            }
            BodyFault::Unreadable(why) => why.into(),
        })
    }

    /// A body from where it is stored, or its permanent fault.
    async fn load(
        &self,
        body: &Body,
        extra_writes: &ReadItem,
    ) -> Result<Result<Map<String, Value>, BodyFault>, ServiceError> {
        let (name, bytes) = match (body, extra_writes) {
            (Body::In(map), _) => return Ok(Ok(map.clone())),
            (Body::Item(_), Ok(Some(item))) => {
                return Ok(self.context.readable(read_body(item))?.map_err(BodyFault::Unreadable));
            }
            (Body::Item(bytes), Ok(None)) => {
                let gone = format!("an item of {bytes} bytes that is missing");
                return Ok(Err(BodyFault::Gone(gone)));
            }
            (Body::Item(_), Err(why)) => return Ok(Err(BodyFault::Unreadable(why.clone()))),
            (Body::Blob(name, bytes), _) => (name, bytes),
        };
        let lost = |what: &str| {
            Ok(Err(BodyFault::Gone(format!("blob '{name}' of {bytes} bytes, {what}"))))
        };
        let Some(key) = BlobKey::parse(name) else { return lost("which is not a blob name") };
        let Some(json) = self.context.blobs().get(&key).await? else {
            return lost("which is missing: restore it from a backup, or submit the task again");
        };
        // What was approved is what runs, even if someone has tampered with the files.
        if !key.is_of(&json) {
            return lost("whose bytes do not match its hash");
        }
        match serde_json::from_slice(&json) {
            Ok(map) => Ok(Ok(map)),
            Err(error) => lost(&format!("which can't be read: {error}")),
        }
    }
}

/// A decoded header, with the items of its bodies.
struct DecodedTask {
    full: FullTask,
    payload: ReadItem,
    result: ReadItem,
}

/// The permanent fault of a body.
enum BodyFault {
    /// The referenced body is missing or wrong; the text describes how.
    Gone(String),
    Unreadable(StoreError),
}

/// Bytes of a result in a list.
pub(super) fn listed_bytes(result: Option<&Body>) -> usize {
    match result {
        None | Some(Body::Blob(..)) => 0,
        Some(result) => result.bytes(),
    }
}

fn left_out(body: &Body, id: &TaskId) -> Map<String, Value> {
    let bytes = match body {
        Body::In(_) => None,
        Body::Item(bytes) | Body::Blob(_, bytes) => Some(bytes),
    };
    let left_out = json!({ "bytes": bytes, "read": format!("GET /tasks/{id}") });
    Map::from_iter([("left_out".to_owned(), left_out)])
}

impl From<BlobError> for ServiceError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Busy { after } => {
                ServiceError::Busy { after: after.max(Duration::from_millis(50)) }
            }
            BlobError::Down { .. } => ServiceError::Down { reason: error.to_string() },
        }
    }
}
