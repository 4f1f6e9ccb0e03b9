//! The first start: creates an admin key, and runs a first real task.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};
use watchbill_core::ports::{Entropy as _, FixedSecret};
use watchbill_core::service::{Core, EventFilter, Identity, NewTask, TimelineKind, is_key};
use watchbill_domain::{Caller, Event, Priority, Role, Task, TaskType, TenantId};
use watchbill_host::entropy::SystemEntropy;
use watchbill_sqlite::private::{private_folder, restrict, write_private};

use super::config::Config;
use super::console;

/// Where the admin key is.
pub enum AdminKey {
    /// Created just now, and shown only this once.
    Made {
        key: String,
        file: PathBuf,
    },
    There {
        file: PathBuf,
    },
    /// Keys exist, but this file does not.
    Elsewhere,
}

/// Creates an admin key if the store never had one. The file is written first: a key that no one
/// has would lock everyone out for good, and a file that the store does not know is used by the
/// next start.
pub async fn admin_key(core: &Core, data: &Path) -> anyhow::Result<AdminKey> {
    let file = data.join("admin.key");
    let tenant = TenantId::default();
    if core.tenants().exists(&tenant).await.context("reading the keys")? {
        return Ok(if file.exists() { AdminKey::There { file } } else { AdminKey::Elsewhere });
    }
    let key = match read_if_exists(&file)? {
        Some(text) if is_key(text.trim()) => text.trim().to_owned(),
        Some(_) => bail!(
            "{} does not contain a Watchbill key, and the store has none: move the file away, so \
             that a new key can be created",
            file.display()
        ),
        None => {
            let key = core.keys().random();
            keep(&file, &key)?;
            key
        }
    };
    let by = Caller {
        name: "first start".to_owned(),
        role: Role::Admin,
        tenant: tenant.clone(),
        made_by: None,
    };
    core.keys()
        .create_first(&by, &tenant, "admin", key.clone())
        .await
        .context("creating the admin key")?;
    Ok(AdminKey::Made { key, file })
}

fn read_if_exists(file: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} can't be read", file.display())),
    }
}

fn keep(file: &Path, secret: &str) -> anyhow::Result<()> {
    write_private(file, &format!("{secret}\n"))
        .with_context(|| format!("{} can't be written", file.display()))
}

/// The secret that signs approval links. It is created at the first start and kept next to the
/// store.
pub fn link_secret(data: &Path) -> anyhow::Result<Arc<FixedSecret>> {
    private_folder(data).with_context(|| format!("{} can't be created", data.display()))?;
    let file = data.join("link.key");
    if let Some(text) = read_if_exists(&file)? {
        restrict(&file).with_context(|| {
            format!("the permissions of {} can't be restricted", file.display())
        })?;
        if text.ends_with('\n') && text.trim().len() == 64 {
            return Ok(Arc::new(FixedSecret(text.trim().into())));
        }
        // An incomplete file, as earlier builds could leave it, does not count.
        std::fs::remove_file(&file)
            .with_context(|| format!("{} can't be removed", file.display()))?;
    }
    let secret = format!("{:032x}{:032x}", random(), random());
    keep(&file, &secret)?;
    Ok(Arc::new(FixedSecret(secret.into())))
}

fn random() -> u128 {
    SystemEntropy.write_id().0
}

/// Whether to run the first task: only on the first start, and only if agents run.
pub fn wanted(config: &Config, admin: &AdminKey) -> bool {
    config.first_task && config.slots > 0 && matches!(admin, AdminKey::Made { .. })
}

/// Monitors this machine and prints a line for each change.
pub async fn first_task(core: Core, wanted: bool) {
    if !wanted {
        return;
    }
    if let Err(error) = try_first_task(&core).await {
        tracing::warn!("the first task did not run: {error:#}");
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
    let task = core.tasks().create(new).await?.task.task;
    console::line("first task", &format!("{} ({})", task.title(), task.id));
    follow(core, &task).await?;
    report(core, &task).await
}

/// Prints a line for each event of the task, until it has ended.
async fn follow(core: &Core, task: &Task) -> anyhow::Result<()> {
    let filter = EventFilter { event_type: None, task_id: Some(task.id.clone()) };
    let mut shown = std::collections::HashSet::new();
    for _ in 0..60 {
        let mark = core.wake().mark(&watchbill_core::ports::Topic::Ledger(task.tenant.clone()));
        let mut events = core.events().list(&task.tenant, &filter, 50, None).await?.events;
        events.reverse();
        for event in events {
            if shown.insert(event.event_id.clone()) {
                console::line(clock_of(&event), &describe(&event));
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

fn describe(event: &Event) -> String {
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

/// Prints the steps and the result.
async fn report(core: &Core, task: &Task) -> anyhow::Result<()> {
    let full = core.tasks().get(&task.tenant, &task.id).await?;
    let timeline = core.tasks().timeline(&task.tenant, &task.id).await?;
    let steps = timeline.iter().filter(|entry| entry.kind == TimelineKind::EffectRecord);
    for step in steps {
        console::line(&step.what, &step.text);
    }
    if let Some(health) = full.result.as_ref().and_then(|result| result.get("health")) {
        let status = health.get("status").and_then(Value::as_str).unwrap_or("unknown");
        console::line(
            "result",
            &format!("this machine is {status}; see it with: watchbill get {}", task.id),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::wake::LocalWake;
    use watchbill_core::decide::EngineConfig;
    use watchbill_core::service::Ports;
    use watchbill_domain::hash_key;
    use watchbill_sqlite::blobs::FolderBlobs;
    use watchbill_sqlite::sqlite::{Options, SqliteStore};
    use watchbill_testkit::{FakeClock, SeededEntropy};

    use super::*;

    fn core(data: &Path, seed: u64) -> Core {
        let ports = Ports {
            store: Arc::new(SqliteStore::open(data, Options::default()).unwrap()),
            blobs: Arc::new(FolderBlobs::open(data).unwrap()),
            clock: Arc::new(FakeClock::default()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            wake: Arc::new(LocalWake::new()),
        };
        Core::new(ports, Arc::new(EngineConfig::default()), 1)
    }

    async fn is_live(core: &Core, key: &str) -> bool {
        core.keys().by_hash(&hash_key(key)).await.unwrap().is_some()
    }

    /// Interrupted before the file, before the commit, or after both: the next start always ends
    /// with one key, which is in the file.
    #[tokio::test]
    async fn an_interrupted_first_start_locks_no_one_out() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("admin.key");
        // Before the file is renamed: a part of it exists, and no key.
        std::fs::write(data.path().join("admin.key.half"), "wb_12").unwrap();
        // The commit fails because the store is closed.
        let store = Arc::new(SqliteStore::open(data.path(), Options::default()).unwrap());
        store.close().await;
        let ports = Ports {
            store: store.clone(),
            blobs: Arc::new(FolderBlobs::open(data.path()).unwrap()),
            clock: Arc::new(FakeClock::default()),
            entropy: Arc::new(SeededEntropy::new(1)),
            wake: Arc::new(LocalWake::new()),
        };
        let broken = Core::new(ports, Arc::new(EngineConfig::default()), 1);
        admin_key(&broken, data.path()).await.map(drop).unwrap_err();
        let written = std::fs::read_to_string(&file).unwrap();
        drop((broken, store));

        let next = core(data.path(), 2);
        assert!(next.keys().list(&TenantId::default(), 10, None).await.unwrap().keys.is_empty());
        let AdminKey::Made { key, .. } = admin_key(&next, data.path()).await.unwrap() else {
            panic!("the key is shown, because no one has seen it yet")
        };
        assert_eq!(written, format!("{key}\n"), "the file is not rewritten");
        assert!(is_live(&next, &key).await);
        assert!(matches!(admin_key(&next, data.path()).await.unwrap(), AdminKey::There { .. }));
        assert_eq!(next.keys().list(&TenantId::default(), 10, None).await.unwrap().keys.len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_no_key_of_ours_is_not_written_over() {
        let data = tempfile::tempdir().unwrap();
        let core = core(data.path(), 1);
        std::fs::write(data.path().join("admin.key"), "somebody's notes").unwrap();
        let error = admin_key(&core, data.path()).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("move the file away"), "{error}");
        assert!(core.keys().list(&TenantId::default(), 10, None).await.unwrap().keys.is_empty());
        let kept = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
        assert_eq!(kept, "somebody's notes");
    }

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
        // An incomplete file does not count.
        std::fs::write(data.join("link.key"), &first.0[..20]).unwrap();
        let renewed = link_secret(&data).unwrap();
        assert!(renewed.0.len() == 64 && renewed.0 != first.0);
    }
}
