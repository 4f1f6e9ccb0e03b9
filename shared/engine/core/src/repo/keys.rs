//! The keys of all items. All partitions of a tenant begin with `T#<tenant>#`.

use std::sync::Arc;

use watchbill_domain::{
    Agent, ApprovalId, EventId, Status, TaskId, TenantId, Timestamp, escape_key_part,
};

use crate::ports::{BlobKey, Key};

/// The sort of an item that is the only one, or the head, of its partition.
pub const HEAD: &str = "0";

/// The sort of an item stored next to a head that the store cannot read.
const ASIDE: &str = "1";

/// Prefixes of the sorts of steps, log overflow and children in a task's partition.
pub const STEPS: &str = "S#";
pub const LOGS: &str = "L#";
pub const CHILDREN: &str = "C#";
/// Sort of the counter of a task's children.
pub const CHILD_COUNT: &str = "N";
/// Sorts of a payload and of a result that are too large for the header.
pub const PAYLOAD: &str = "P";
pub const RESULT: &str = "R";

fn part(tenant: &TenantId, rest: std::fmt::Arguments<'_>) -> Arc<str> {
    format!("T#{tenant}#{rest}").into()
}

/// The prefix of all partitions of a tenant.
pub fn tenant_prefix(tenant: &TenantId) -> String {
    format!("T#{tenant}#")
}

/// The tenant of a key; `None` for keys of the whole installation.
pub fn tenant_of(key: &Key) -> Option<TenantId> {
    let (tenant, _) = key.partition.strip_prefix("T#")?.split_once('#')?;
    TenantId::parse(tenant).ok()
}

pub fn task_partition(tenant: &TenantId, id: &TaskId) -> Arc<str> {
    part(tenant, format_args!("task#{}", escape_key_part(id.as_str())))
}

pub fn task_key(tenant: &TenantId, id: &TaskId) -> Key {
    Key::new(task_partition(tenant, id), HEAD)
}

/// The head of the task that a blob belongs to, where the blob's key contains the task id.
pub fn blob_task_key(blob: &BlobKey) -> Option<Key> {
    let (tenant, task) = blob.task()?;
    Some(Key::new(format!("T#{tenant}#task#{task}"), HEAD))
}

pub fn approval_key(tenant: &TenantId, id: &ApprovalId) -> Key {
    Key::new(part(tenant, format_args!("appr#{}", escape_key_part(id.as_str()))), HEAD)
}

pub fn event_key(tenant: &TenantId, id: &EventId) -> Key {
    Key::new(part(tenant, format_args!("evt#{}", escape_key_part(id.as_str()))), HEAD)
}

/// A link that was used up.
pub fn link_key(tenant: &TenantId, nonce: &str) -> Key {
    Key::new(part(tenant, format_args!("link#{}", escape_key_part(nonce))), HEAD)
}

/// The parked changes of an item, by the item's partition.
pub fn parked_key(tenant: &TenantId, partition: &str) -> Key {
    let own = format!("T#{tenant}#");
    let rest = partition.strip_prefix(own.as_str()).unwrap_or(partition);
    Key::new(part(tenant, format_args!("park#{rest}")), HEAD)
}

/// The key for parked changes while the store cannot read the item under the usual key.
pub fn parked_key_aside(tenant: &TenantId, partition: &str) -> Key {
    Key { sort: ASIDE.into(), ..parked_key(tenant, partition) }
}

/// The partition of the item whose changes are parked under a key.
pub fn parked_partition(key: &Key) -> Option<Arc<str>> {
    let tenant = tenant_of(key)?;
    let rest = key.partition.strip_prefix(tenant_prefix(&tenant).as_str())?;
    Some(part(&tenant, format_args!("{}", rest.strip_prefix("park#")?)))
}

pub fn parked_tenant_key(tenant: &TenantId) -> Key {
    Key::new(part(tenant, format_args!("parked")), HEAD)
}

/// As for [`parked_key_aside`].
pub fn parked_tenant_key_aside(tenant: &TenantId) -> Key {
    Key { sort: ASIDE.into(), ..parked_tenant_key(tenant) }
}

/// An audit record until it is in the ledger.
pub fn record_key(tenant: &TenantId, id: &str) -> Key {
    Key::new(part(tenant, format_args!("rec#{}", escape_key_part(id))), HEAD)
}

/// Whether the ledger holds the changes of this key's item: a task, a published event or an
/// audit record.
pub fn is_recordable_key(key: &Key) -> bool {
    let own = tenant_of(key).and_then(|tenant| {
        key.partition.strip_prefix(tenant_prefix(&tenant).as_str()).map(str::to_owned)
    });
    let recorded = |own: String| ["task#", "evt#", "rec#"].iter().any(|of| own.starts_with(of));
    *key.sort == *HEAD && own.is_some_and(recorded)
}

/// The tenant's ledger; sorts are batch numbers.
pub fn ledger_partition(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("led#0"))
}

pub fn ledger_key(tenant: &TenantId, seq: u64) -> Key {
    Key::new(ledger_partition(tenant), format!("{seq:012}"))
}

pub fn fold_key(tenant: &TenantId, name: &str) -> Key {
    Key::new(part(tenant, format_args!("fold#{name}")), HEAD)
}

/// A tenant's usage and reservations on the UTC day of a time.
pub fn budget_key(tenant: &TenantId, at: Timestamp) -> Key {
    Key::new(part(tenant, format_args!("budget#{}", at.day())), HEAD)
}

/// A tenant's own budget limits.
pub fn limits_key(tenant: &TenantId) -> Key {
    Key::new(part(tenant, format_args!("limits")), HEAD)
}

pub fn alert_key(tenant: &TenantId, id: &str) -> Key {
    Key::new(part(tenant, format_args!("alert#{}", escape_key_part(id))), HEAD)
}

/// A time window in which a reaction runs once for a subject.
pub fn window_key(tenant: &TenantId, reaction: &str, subject: &str) -> Key {
    let (reaction, subject) = (escape_key_part(reaction), escape_key_part(subject));
    Key::new(part(tenant, format_args!("react#{reaction}#{subject}")), HEAD)
}

pub fn api_key(hash: &str) -> Key {
    Key::new(format!("K#{hash}"), HEAD)
}

/// The policy that a process last found in force, for all tenants.
pub fn policy_key() -> Key {
    Key::new("SYS#policy", HEAD)
}

/// How far a round over all tenants has come.
pub fn round_key(name: &str) -> Key {
    Key::new(format!("SYS#round#{name}"), HEAD)
}

/// Slots of a tenant's waiting calls; sorts are their numbers.
pub fn waits_partition(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("waits"))
}

/// Slots of all tenants' waiting calls.
pub const ALL_WAITS: &str = "SYS#waits";

/// List of all tasks of a tenant, by creation.
pub fn tasks_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("tasks#0"))
}

/// List of the tasks that wait for a person or have failed.
pub fn attention_list(tenant: &TenantId, status: Status) -> Arc<str> {
    part(tenant, format_args!("attn#{status}"))
}

/// List of the tasks that wait for an external worker.
pub fn outside_list(tenant: &TenantId, agent: Agent) -> Arc<str> {
    part(tenant, format_args!("out#{agent}"))
}

/// List of deferred tasks, without those of external workers.
pub fn held_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("held#0"))
}

pub fn approvals_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("apprs#0"))
}

pub fn open_approvals_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("apprs-open#0"))
}

pub fn alerts_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("alerts#0"))
}

pub fn open_alerts_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("alerts-open#0"))
}

/// Valid keys. Keys that were revoked before there was a list of revoked keys are here too.
pub fn keys_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("keys#0"))
}

/// Parked items by the time of their next replay.
pub fn parked_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("parked#0"))
}

pub fn revoked_keys_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("keys-revoked#0"))
}

/// Ledger batches by recording time.
pub fn ledger_list(tenant: &TenantId) -> Arc<str> {
    part(tenant, format_args!("leds#0"))
}

/// The tenants of this store.
pub const TENANTS: &str = "TENANTS";

/// The tenants that have parked changes.
pub const PARKED: &str = "PARKED";
