//! Effects outside, accounted for: the intent is durable before the attempt, the outcome
//! after it. A finished step gives its recorded result back and is not repeated; one with
//! an intent and no outcome is unknown, and is looked up.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::domain::{Status, Task, TaskId, TenantId};
use watchbill_core::govern::ToolCall;
use watchbill_core::ports::{Commit, CommitError, Expect, Key, Write};
use watchbill_core::repo::StoredTask;
use watchbill_core::repo::{self, Entity as _, Step, StepOutcome, Versioned, decode, encode};
use watchbill_core::service::{Core, Runner, ServiceError, Verdict};

use crate::run::Withheld;

/// What a provider may still do after its time-out has passed on our side.
const SETTLING: Duration = Duration::from_secs(10);
const TRIES: u32 = 16;

/// One effect at a provider.
#[async_trait]
pub trait Effect: Send + Sync {
    /// Names the effect within its task.
    fn key(&self) -> String;
    /// For people: `create deployment`.
    fn what(&self) -> String;
    /// For people: which one.
    fn target(&self) -> String;
    /// What it can be found by at the provider.
    fn provider_key(&self) -> String;
    /// The longest that one attempt takes.
    fn time_out(&self) -> Duration;
    /// As policy sees it.
    fn call(&self) -> ToolCall;

    async fn attempt(&self) -> Attempt;

    /// Asks the provider whether it happened.
    async fn look_up(&self) -> LookedUp;

    /// Undoes the younger of two that slipped through: called when this run's attempt went
    /// out and another's outcome had been written meanwhile.
    async fn undo(&self, result: &Map<String, Value>);
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    Done(Map<String, Value>),
    /// It certainly did not happen.
    Refused {
        error: String,
        retry: bool,
    },
    /// It may have happened.
    Unknown {
        error: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum LookedUp {
    Happened(Map<String, Value>),
    DidNot,
    /// The provider can't tell: a person is asked.
    CantTell {
        error: String,
    },
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    Done(Map<String, Value>),
    Refused {
        error: String,
        retry: bool,
    },
    /// Not known yet; look again after this long.
    Unsettled {
        after: Duration,
        error: String,
    },
    /// Not to be known: a person must say.
    Undecidable {
        error: String,
    },
    /// Governance does not let it: the run ends with this, see [`RunEnd::Withheld`].
    ///
    /// [`RunEnd::Withheld`]: crate::run::RunEnd::Withheld
    Withheld(Withheld),
    /// This run may not act (any more): it was cancelled, or another holds the task, or too
    /// little of the lease is left for the effect's time-out.
    Stopped {
        reason: String,
    },
}

/// The steps of one run.
#[derive(Clone)]
pub struct Steps {
    core: Core,
    tenant: TenantId,
    task: TaskId,
    fence: u64,
}

impl Steps {
    /// Of the run that holds the task now.
    pub fn of_run(core: Core, task: &Task) -> Self {
        Self { core, tenant: task.tenant.clone(), task: task.id.clone(), fence: task.fence }
    }

    /// Takes an effect at most once as far as can be known.
    pub async fn take(&self, effect: &dyn Effect) -> Result<Taken, ServiceError> {
        for _ in 0..TRIES {
            let held = match self.may_act(effect.time_out()).await? {
                Ok(held) => held,
                Err(reason) => return Ok(Taken::Stopped { reason }),
            };
            let version = held.version;
            let known = self.stored(&effect.key()).await?;
            let (intent, before) = match known {
                Some(step) if step.value.outcome.is_some() => return Ok(recorded(&step.value)),
                Some(step) => match self.settle(&step, effect).await? {
                    Settled::Taken(taken) => return Ok(taken),
                    Settled::DidNot => (self.intent(effect), Expect::Version(step.version)),
                },
                None => (self.intent(effect), Expect::Absent),
            };
            // At the last moment: whatever changes the task from here on fails the intent.
            if let Some(withheld) = self.leave(&held, &effect.call()).await? {
                return Ok(Taken::Withheld(withheld));
            }
            if !self.write_intent(&intent, before, version).await? {
                continue;
            }
            return self.attempt(effect, intent).await;
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// What governance has against this call, if anything.
    async fn leave(
        &self,
        held: &StoredTask,
        call: &ToolCall,
    ) -> Result<Option<Withheld>, ServiceError> {
        let payload = self.core.payload(&held.value).await?;
        let verdict = self.core.judge_call(held, &payload, Runner::Own, Some(call)).await?;
        let Verdict { proof, beside } = verdict;
        let of = Some((call.clone(), proof.version));
        Ok((!proof.leave.is_granted()).then_some(Withheld { leave: proof.leave, beside, of }))
    }

    /// The task if this run still holds it, with time for the effect.
    async fn may_act(
        &self,
        time_out: Duration,
    ) -> Result<Result<StoredTask, String>, ServiceError> {
        let Some(stored) = self.core.stored_task(&self.tenant, &self.task).await? else {
            return Ok(Err("the task is gone".to_owned()));
        };
        let task = &stored.value;
        if task.status != Status::InProgress {
            return Ok(Err(format!("the task is {}", task.status)));
        }
        if task.fence != self.fence {
            return Ok(Err("another run holds the task".to_owned()));
        }
        let now = self.core.clock().now();
        match &task.lease {
            Some(lease) if lease.until > now.plus(time_out) => Ok(Ok(stored)),
            _ => Ok(Err(format!("less than {} s of the lease are left", time_out.as_secs()))),
        }
    }

    async fn stored(&self, key: &str) -> Result<Option<Versioned<Step>>, ServiceError> {
        let sort = format!("{}{}", repo::STEPS, watchbill_core::domain::escape_key_part(key));
        let key = Key::new(repo::task_partition(&self.tenant, &self.task), sort);
        let item = self.core.store().get(&key).await?;
        Ok(item.as_ref().map(decode).transpose()?)
    }

    fn intent(&self, effect: &dyn Effect) -> Step {
        let now = self.core.clock().now();
        Step {
            tenant: self.tenant.clone(),
            task: self.task.clone(),
            key: effect.key(),
            what: effect.what(),
            target: effect.target(),
            provider_key: effect.provider_key(),
            fence: self.fence,
            intended_at: now,
            settles_at: now.plus(effect.time_out() + SETTLING),
            outcome: None,
            expires: Some(self.core.rules().keep_beside(None, now)),
        }
    }

    /// False: something changed meanwhile, look again.
    async fn write_intent(
        &self,
        intent: &Step,
        before: Expect,
        header: u64,
    ) -> Result<bool, ServiceError> {
        let writes = vec![
            Write::Put { item: encode(intent, None), expect: before },
            Write::Check {
                key: repo::task_key(&self.tenant, &self.task),
                expect: Expect::Version(header),
            },
        ];
        let id = self.core.entropy().write_id();
        match self.core.store().commit(Commit { id, writes }).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Busy { after }) => {
                self.core.clock().sleep(after).await;
                Ok(false)
            }
            // It may stand: the next look finds our own intent and settles it.
            Err(CommitError::Unknown { reason }) => Err(ServiceError::Down { reason }),
            Err(CommitError::Illegal { reason }) => Err(ServiceError::Down { reason }),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    async fn attempt(&self, effect: &dyn Effect, intent: Step) -> Result<Taken, ServiceError> {
        let limit = self.core.clock().sleep(effect.time_out());
        let attempt = tokio::select! {
            biased;
            attempt = effect.attempt() => attempt,
            () = limit => Attempt::Unknown { error: "no answer in time".to_owned() },
        };
        match attempt {
            Attempt::Done(result) => self.record(effect, intent, true, result, false).await,
            Attempt::Refused { error, retry } => {
                if retry {
                    // It did not happen and may be tried again: the intent stays without
                    // an outcome and the look-up will find nothing.
                    return Ok(Taken::Refused { error, retry });
                }
                let mut result = Map::new();
                result.insert("error".into(), Value::from(error));
                self.record(effect, intent, false, result, false).await
            }
            Attempt::Unknown { error } => {
                let after = intent.settles_at.since(self.core.clock().now());
                Ok(Taken::Unsettled { after, error })
            }
        }
    }

    /// An intent without an outcome: asks the provider, no sooner than what was sent then
    /// can have settled.
    async fn settle(
        &self,
        step: &Versioned<Step>,
        effect: &dyn Effect,
    ) -> Result<Settled, ServiceError> {
        let now = self.core.clock().now();
        if step.value.settles_at > now {
            let after = step.value.settles_at.since(now);
            let error = "an earlier attempt may still be under way".to_owned();
            return Ok(Settled::Taken(Taken::Unsettled { after, error }));
        }
        Ok(match effect.look_up().await {
            LookedUp::DidNot => Settled::DidNot,
            LookedUp::CantTell { error } => Settled::Taken(Taken::Undecidable { error }),
            LookedUp::Happened(result) => {
                let intent = step.value.clone();
                Settled::Taken(self.record(effect, intent, true, result, true).await?)
            }
        })
    }

    /// Writes the outcome, also for a run that was cancelled meanwhile: what was done was
    /// done. If another run's outcome stands already, that one is kept and ours undone.
    async fn record(
        &self,
        effect: &dyn Effect,
        mut step: Step,
        success: bool,
        result: Map<String, Value>,
        looked_up: bool,
    ) -> Result<Taken, ServiceError> {
        step.outcome =
            Some(StepOutcome { at: self.core.clock().now(), success, result, looked_up });
        for _ in 0..TRIES {
            let there = self.stored(&step.key).await?;
            let expect = match &there {
                None => Expect::Absent,
                Some(there) => Expect::Version(there.version),
            };
            if let Some(there) = there.filter(|there| there.value.outcome.is_some()) {
                let ours = step.outcome.as_ref().map(|o| &o.result);
                let kept = there.value.outcome.as_ref().map(|o| &o.result);
                if success && ours != kept && !same_attempt(&step, &there.value) {
                    effect.undo(ours.unwrap_or(&Map::new())).await;
                }
                return Ok(recorded(&there.value));
            }
            let writes = vec![Write::Put { item: encode(&step, None), expect }];
            let id = self.core.entropy().write_id();
            match self.core.store().commit(Commit { id, writes }).await {
                Ok(()) => return Ok(recorded(&step)),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Busy { after }) => self.core.clock().sleep(after).await,
                Err(_) => {}
            }
        }
        Err(ServiceError::Down {
            reason: format!("the outcome of {} can't be written", step.key()),
        })
    }
}

enum Settled {
    Taken(Taken),
    DidNot,
}

/// Whether two records are of one attempt: the run that made it and the one that looked it
/// up may describe it differently, and undoing it would undo the only one.
fn same_attempt(one: &Step, other: &Step) -> bool {
    (one.fence, one.intended_at) == (other.fence, other.intended_at)
}

fn recorded(step: &Step) -> Taken {
    match &step.outcome {
        Some(outcome) if outcome.success => Taken::Done(outcome.result.clone()),
        Some(outcome) => {
            let error = outcome.result.get("error").and_then(Value::as_str);
            Taken::Refused { error: error.unwrap_or("refused").to_owned(), retry: false }
        }
        None => Taken::Undecidable { error: "no outcome".to_owned() },
    }
}
