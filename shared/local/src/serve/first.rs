//! The first start: an admin key, and a first real task.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value};
use watchbill_adapters_host::entropy::SystemEntropy;
use watchbill_adapters_local::private_folder;
use watchbill_core::domain::{Caller, Event, Priority, Role, Task, TaskType, TenantId};
use watchbill_core::ports::{Entropy as _, FixedSecret};
use watchbill_core::service::{Core, EventFilter, Identity, NewTask, TimelineKind};

use super::config::Config;
use super::say;

/// Where the admin key is.
pub enum AdminKey {
    /// Made just now: shown this once.
    Made {
        key: String,
        file: PathBuf,
    },
    There {
        file: PathBuf,
    },
    /// There are keys, but this file is gone.
    Elsewhere,
}

/// Makes an admin key if the store has never had a key.
pub async fn admin_key(core: &Core, config: &Config) -> anyhow::Result<AdminKey> {
    let file = config.data.join("admin.key");
    let tenant = TenantId::default();
    let keys = core.keys(&tenant).await.context("reading the keys")?;
    if !keys.is_empty() {
        return Ok(if file.exists() { AdminKey::There { file } } else { AdminKey::Elsewhere });
    }
    let by = Caller {
        name: "first start".to_owned(),
        role: Role::Admin,
        tenant: tenant.clone(),
        made_by: None,
    };
    let (key, _) =
        core.create_first_key(&by, &tenant, "admin").await.context("making an admin key")?;
    write_private(&file, &key)?;
    Ok(AdminKey::Made { key, file })
}

/// What approval links are signed with: made at the first start, kept beside the store.
pub fn link_secret(data: &Path) -> anyhow::Result<Arc<FixedSecret>> {
    private_folder(data).with_context(|| format!("{} can't be made", data.display()))?;
    let file = data.join("link.key");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("{} can't be read", file.display()));
        }
    };
    // One that was not written to its end is none.
    if text.ends_with('\n') && text.trim().len() == 64 {
        return Ok(Arc::new(FixedSecret(text.trim().into())));
    }
    let secret = format!("{:032x}{:032x}", random(), random());
    write_private(&file, &secret)?;
    Ok(Arc::new(FixedSecret(secret.into())))
}

fn random() -> u128 {
    SystemEntropy.write_id().0
}

fn write_private(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let written = options.open(file).and_then(|mut open| writeln!(open, "{text}"));
    written.with_context(|| format!("{} can't be written", file.display()))
}

/// Whether to run the first task: once, on the first start, where agents run.
pub fn wanted(config: &Config, admin: &AdminKey) -> bool {
    config.first_task && config.slots > 0 && matches!(admin, AdminKey::Made { .. })
}

/// Monitors this very machine and tells how that goes, a line for each change.
pub async fn first_task(core: Core, wanted: bool) {
    if !wanted {
        return;
    }
    if let Err(error) = try_first_task(&core).await {
        tracing::warn!("the first task did not run: {error}");
    }
}

async fn try_first_task(core: &Core) -> anyhow::Result<()> {
    let tenant = TenantId::default();
    let mut payload = Map::new();
    payload.insert("service".into(), Value::from("system"));
    let new = NewTask {
        tenant: tenant.clone(),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        source: "system".to_owned(),
        payload,
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "first start".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Cause(vec!["first task".to_owned()]),
        hops: 0,
    };
    let task = core.create_task(new).await?.task.task;
    say::line("first task", &format!("{} ({})", task.title(), task.id));
    follow(core, &task).await?;
    report(core, &task).await
}

/// A line for each event of the task, until it has ended.
async fn follow(core: &Core, task: &Task) -> anyhow::Result<()> {
    let filter = EventFilter { event_type: None, task_id: Some(task.id.clone()) };
    let mut shown = std::collections::HashSet::new();
    for _ in 0..60 {
        let mark = core.wake().mark(&watchbill_core::ports::Topic::Ledger(task.tenant.clone()));
        let mut events = core.events(&task.tenant, &filter, 50, None).await?.events;
        events.reverse();
        for event in events {
            if shown.insert(event.event_id.clone()) {
                say::line(clock_of(&event), &in_words(&event));
            }
            if ["task.completed", "task.failed", "task.cancelled", "task.blocked"]
                .contains(&event.event_type.as_str())
            {
                return Ok(());
            }
        }
        let topic = watchbill_core::ports::Topic::Ledger(task.tenant.clone());
        core.wake().wait(&topic, mark, Duration::from_secs(1)).await;
    }
    Ok(())
}

fn clock_of(event: &Event) -> &'static str {
    match event.event_type.as_str() {
        "task.created" => "created",
        "task.started" => "started",
        "task.completed" => "completed",
        "task.failed" => "failed",
        _ => "event",
    }
}

fn in_words(event: &Event) -> String {
    let field = |name: &str| {
        event.payload.get(name).map(|v| match v {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let at = event.timestamp.to_string();
    let more = match event.event_type.as_str() {
        "task.created" => format!("for {}", field("assigned_to").unwrap_or_default()),
        "task.started" => format!("by {}", field("assigned_to").unwrap_or_default()),
        "task.completed" => format!("after {} ms", field("duration_ms").unwrap_or_default()),
        _ => field("error").or_else(|| field("reason")).unwrap_or_default(),
    };
    format!("{at}  {}  {more}", event.event_type)
}

/// What came of it, in two lines.
async fn report(core: &Core, task: &Task) -> anyhow::Result<()> {
    let full = core.task(&task.tenant, &task.id).await?;
    let timeline = core.timeline(&task.tenant, &task.id).await?;
    let steps = timeline.iter().filter(|entry| entry.kind == TimelineKind::Step);
    for step in steps {
        say::line(&step.what, &step.text);
    }
    if let Some(health) = full.result.as_ref().and_then(|result| result.get("health")) {
        let status = health.get("status").and_then(Value::as_str).unwrap_or("unknown");
        say::line(
            "result",
            &format!("this machine is {status}; see it with: watchbill get {}", task.id),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_secret_is_made_once_and_is_for_its_owner_alone() {
        let above = tempfile::tempdir().unwrap();
        let data = above.path().join("data");
        let first = link_secret(&data).unwrap();
        assert_eq!(first.0.len(), 64);
        assert_eq!(link_secret(&data).unwrap().0, first.0);
        #[cfg(unix)]
        for (path, wanted) in [(data.clone(), 0o700), (data.join("link.key"), 0o600)] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, wanted, "{}", path.display());
        }
        // One that was cut off is none.
        std::fs::write(data.join("link.key"), &first.0[..20]).unwrap();
        let anew = link_secret(&data).unwrap();
        assert!(anew.0.len() == 64 && anew.0 != first.0);
    }
}
