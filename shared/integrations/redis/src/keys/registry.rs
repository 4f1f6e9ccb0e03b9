//! The registry in which a domain's programs find agents.

use std::time::Duration;

use watchbill_wire::legacy::LegacyError;

use super::queue::millis;
use super::{RedisKeys, Registration};
use crate::batch::{Batch, Key, Kind, Lua, lua};

const ALL: Key = Key::fixed("agents:all", Kind::Set);
const DOMAINS: Key = Key::fixed("agents:domains", Kind::Set);

static BEAT: Lua = lua!("beat");

fn of_type(domain: &str) -> Key {
    Key::new(format!("agents:domains:{domain}"), Kind::Set)
}

fn info(id: &str) -> Key {
    Key::new(format!("agents:info:{id}"), Kind::Hash)
}

fn heartbeat(id: &str) -> Key {
    Key::new(format!("agents:heartbeat:{id}"), Kind::Text)
}

impl RedisKeys {
    pub async fn register(&self, registration: &Registration) -> Result<(), LegacyError> {
        let (id, at) = (registration.id.as_str(), registration.at.as_str());
        let mut fields = vec![
            ("agent_id", id),
            ("role", "domain"),
            ("domain_type", &registration.domain),
            ("status", "active"),
            ("created_at", at),
            ("last_heartbeat", at),
            ("metadata", &registration.metadata),
        ];
        if let Some(container) = &registration.container_id {
            fields.push(("container_id", container));
        }
        // The description is written before the sets in which the agent is found.
        let mut batch = Batch::new();
        batch.plain("HSET", &[&info(id)]).arg(fields);
        self.line.all(batch).await?;
        let mut batch = Batch::new();
        for set in [ALL, DOMAINS, of_type(&registration.domain)] {
            batch.plain("SADD", &[&set]).arg(id);
        }
        self.line.all(batch).await.map(drop)
    }

    pub async fn beat(&self, id: &str, at: &str, lasts: Duration) -> Result<bool, LegacyError> {
        let mut batch = Batch::new();
        batch.script(&BEAT, &[&info(id)]).arg(at);
        let known: bool = self.line.one(batch).await?;
        if known {
            let mut batch = Batch::new();
            batch.plain("SET", &[&heartbeat(id)]).arg(at).arg("PX").arg(millis(lasts).max(1));
            self.line.all(batch).await?;
        }
        Ok(known)
    }

    pub async fn deregister(&self, registration: &Registration) -> Result<(), LegacyError> {
        let id = registration.id.as_str();
        let mut batch = Batch::new();
        for set in [ALL, DOMAINS, of_type(&registration.domain)] {
            batch.plain("SREM", &[&set]).arg(id);
        }
        batch.plain("DEL", &[&heartbeat(id)]);
        batch.plain("DEL", &[&info(id)]);
        self.line.all(batch).await.map(drop)
    }
}
