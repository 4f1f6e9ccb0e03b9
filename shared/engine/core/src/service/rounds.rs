//! Rounds over all tenants, some tenants at a time, by any process: once a day, or once for
//! each policy.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use watchbill_domain::{TenantId, Timestamp};

use super::{Context, ServiceError};
use crate::ports::{Precondition, Write};
use crate::repo::{Round, Versioned, decode, encode, round_key};

/// A process's cache of its rounds, so that it reads each round from the store once. A round
/// that the store cannot keep is only kept here.
#[derive(Default)]
pub struct Rounds(Mutex<HashMap<String, Round>>);

impl Rounds {
    /// Where the round of a day (or of a policy, by its fingerprint) continues: after a tenant,
    /// or at the first one. `None` once it is done.
    pub async fn place(
        &self,
        context: &Context,
        name: &'static str,
        day: &str,
    ) -> Result<Option<Option<TenantId>>, ServiceError> {
        let round = self.round(context, name, day).await?;
        Ok((!round.done).then_some(round.after))
    }

    /// When any process first saw that this round is due. The first caller stores the time, so
    /// that a round that has to wait begins however short-lived the processes are. `None` where
    /// it has begun already.
    pub async fn opened(
        &self,
        context: &Context,
        name: &'static str,
        day: &str,
    ) -> Result<Option<Timestamp>, ServiceError> {
        let mut round = self.round(context, name, day).await?;
        if round.done || round.after.is_some() {
            return Ok(None);
        }
        if round.opened.is_none() {
            round.opened = Some(context.clock().now());
            self.keep(context, round.clone()).await;
        }
        Ok(round.opened)
    }

    /// Stores that the round has reached a tenant; with `None`, its end.
    pub async fn reached(
        &self,
        context: &Context,
        name: &'static str,
        (day, after): (&str, Option<TenantId>),
    ) {
        let done = after.is_none();
        let opened = self.known(name, day).and_then(|round| round.opened);
        let round = Round { name: name.into(), day: day.into(), opened, after, done };
        self.keep(context, round).await;
    }

    async fn round(
        &self,
        context: &Context,
        name: &'static str,
        day: &str,
    ) -> Result<Round, ServiceError> {
        if let Some(known) = self.known(name, day) {
            return Ok(known);
        }
        let stored = stored_round(context, name).await?.map(|stored| stored.value);
        let new =
            || Round { name: name.into(), day: day.into(), opened: None, after: None, done: false };
        let round = stored.filter(|round| round.day == day).unwrap_or_else(new);
        self.know(round.clone());
        Ok(round)
    }

    async fn keep(&self, context: &Context, round: Round) {
        self.know(round.clone());
        if let Err(error) = keep_round(context, &round).await {
            // A new process begins further back: parts may be done twice.
            tracing::warn!(round = %round.name, "the round's progress is not stored: {error}");
        }
    }

    fn known(&self, name: &str, day: &str) -> Option<Round> {
        let rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.get(name).filter(|round| round.day == day).cloned()
    }

    fn know(&self, round: Round) {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.insert(round.name.clone(), round);
    }
}

/// An unreadable round counts as none: it begins again.
async fn stored_round(
    context: &Context,
    name: &str,
) -> Result<Option<Versioned<Round>>, ServiceError> {
    let item = context.past_unreadable(context.store().get(&round_key(name)).await)?.flatten();
    Ok(match item {
        Some(item) => context.past_unreadable(decode(&item))?,
        None => None,
    })
}

/// On a conflict, a concurrent process has stored another position and processed those tenants too.
async fn keep_round(context: &Context, round: &Round) -> Result<(), ServiceError> {
    let stored = context.store().get(&round_key(&round.name)).await?;
    let expect =
        stored.map_or(Precondition::Absent, |stored| Precondition::Version(stored.version));
    let writes = vec![Write::Put { item: encode(round, None), expect }];
    context.transact(writes).await?.ok();
    Ok(())
}
