//! Journal of external effects. The intent is committed before the attempt, the outcome after
//! it. A finished effect returns its recorded result and is not repeated. An intent without an
//! outcome is unknown, and is looked up at the provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_core::ports::{Key, Precondition, Write};
use watchbill_core::repo::StoredTask;
use watchbill_core::repo::{self, EffectRecord, EffectResult, Entity as _, Versioned, encode};
use watchbill_core::service::{AuthorizedChange, Core, ServiceError, TransactError};
use watchbill_domain::{Question, Status, Task, TaskId, TenantId, ToolCall, canonical_hash};
use watchbill_redact as redact;

use crate::executor::authorize_call;
use crate::run::{NotAuthorized, PlannedFor};

/// How long the provider may still act after our timeout has passed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ATTEMPTS: u32 = 16;
/// A person's answers when the journal contains another call under an effect's key.
const GO_ON: &str = "go on anew";
const CANCEL: &str = "cancel";

/// One effect at a provider.
#[async_trait]
pub trait Effect: Send + Sync {
    /// Identifies the effect within its task.
    fn key(&self) -> String;
    /// Text for people: `create deployment`.
    fn what(&self) -> String;
    /// Text for people: which deployment.
    fn target(&self) -> String;
    /// The key by which the provider can find it.
    fn provider_key(&self) -> String;
    /// The timeout of one attempt, and of one lookup.
    fn time_out(&self) -> Duration;
    /// The call as the policy sees it.
    fn call(&self) -> ToolCall;

    async fn attempt(&self) -> Attempt;

    /// Asks the provider whether the effect happened. A lookup that exceeds the timeout is
    /// inconclusive.
    async fn look_up(&self) -> Lookup;

    /// Undoes this run's effect if both runs' attempts succeeded: called when this run's
    /// attempt was sent and another outcome was written meanwhile.
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
pub enum Lookup {
    Happened(Map<String, Value>),
    Absent,
    /// The provider can't tell: a person must decide.
    Inconclusive {
        error: String,
    },
}

/// The result of executing an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum EffectOutcome {
    Done(Map<String, Value>),
    Refused {
        error: String,
        retry: bool,
    },
    /// Not known yet; check again after this long.
    Unsettled {
        after: Duration,
        error: String,
    },
    /// Can't be determined: a person must decide.
    Undecidable {
        error: String,
    },
    /// The journal contains another call under this key, so its result is not this call's. The
    /// run blocks the task with the question. After the answer the same call continues or is
    /// refused.
    Mismatch {
        error: String,
        question: Question,
    },
    /// Governance does not authorize it. The run ends with this, see
    /// [`RunOutcome::NotAuthorized`].
    ///
    /// [`RunOutcome::NotAuthorized`]: crate::run::RunOutcome::NotAuthorized
    NotAuthorized(NotAuthorized),
    /// This run may not act (any more): the task was cancelled, another run holds it, or the
    /// rest of the lease is shorter than the effect's timeout.
    Stopped {
        reason: String,
    },
}

/// The journal of one run.
#[derive(Clone)]
pub struct Journal {
    core: Core,
    tenant: TenantId,
    task: TaskId,
    fence: u64,
    changed: Arc<AtomicBool>,
    planned: Option<PlannedFor>,
}

impl Journal {
    /// For the run that holds the task now.
    pub fn of_run(core: Core, task: &Task) -> Self {
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        let (fence, changed) = (task.fence, Arc::default());
        Self { core, tenant, task: id, fence, changed, planned: None }
    }

    /// Adds the plan that the run was claimed with.
    #[must_use]
    pub fn planned(self, planned: Option<PlannedFor>) -> Self {
        Self { planned, ..self }
    }

    /// Whether a mutating effect of this run succeeded, now or in an earlier run whose recorded
    /// result was returned.
    pub fn changed_something(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Executes an effect at most once, as far as this can be determined.
    pub async fn execute(&self, effect: &dyn Effect) -> Result<EffectOutcome, ServiceError> {
        let call = effect.call();
        if !call.mutating {
            // Governance would permit it as a call that only reads.
            let error = format!(
                "tool '{}' is mutating, but its call is marked as read-only: its spec needs the \
                 class Mutating",
                call.tool
            );
            return Ok(EffectOutcome::Refused { error, retry: false });
        }
        let taken = self.execute_call(effect, &hash_of(&call)).await?;
        if matches!(taken, EffectOutcome::Done(_)) {
            self.changed.store(true, Ordering::Relaxed);
        }
        Ok(taken)
    }

    async fn execute_call(
        &self,
        effect: &dyn Effect,
        hash: &str,
    ) -> Result<EffectOutcome, ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let held = match self.may_act(effect.time_out()).await? {
                Ok(held) => held,
                Err(reason) => return Ok(EffectOutcome::Stopped { reason }),
            };
            let version = held.version;
            let known = self.stored(&effect.key()).await?;
            let intent = self.intent(effect, hash);
            let mut writes = Vec::new();
            let before = match known {
                Some(step) if is_other(&step.value, hash) => {
                    match answered(&held.value, &step.value, hash) {
                        Answered::GoOn => {}
                        Answered::Outcome(taken) => return Ok(taken),
                    }
                    writes.push(archived(&step));
                    Precondition::Version(step.version)
                }
                Some(step) if step.value.outcome.is_some() => return Ok(recorded(&step.value)),
                Some(step) => match self.settle(&step, effect).await? {
                    Settled::Outcome(taken) => return Ok(taken),
                    // The lookup took time: the rest of the lease must suffice for an attempt.
                    Settled::Absent => match self.may_act(effect.time_out()).await? {
                        Ok(_) => Precondition::Version(step.version),
                        Err(reason) => return Ok(EffectOutcome::Stopped { reason }),
                    },
                },
                None => Precondition::Absent,
            };
            // As late as possible: any later change of the task makes the intent's commit fail.
            if let Some(not_authorized) = self.authorize(&held, &effect.call()).await? {
                return Ok(EffectOutcome::NotAuthorized(not_authorized));
            }
            if !self.write_intent(&intent, before, version, writes).await? {
                continue;
            }
            return self.attempt(effect, intent).await;
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Why governance does not authorize this call; `None` if it does.
    async fn authorize(
        &self,
        held: &StoredTask,
        call: &ToolCall,
    ) -> Result<Option<NotAuthorized>, ServiceError> {
        let payload = self.core.tasks().payload(&held.value).await?;
        let known = self.planned.as_ref().and_then(|plan| plan.of(&payload));
        let AuthorizedChange { authorization, extra_writes, .. } =
            authorize_call(&self.core, held, &payload, known, call).await?;
        let of = Some((call.clone(), authorization.version));
        Ok((!authorization.decision.is_granted()).then_some(NotAuthorized {
            authorization: authorization.decision,
            extra_writes,
            of,
        }))
    }

    /// The task, if this run still holds it long enough for the effect.
    async fn may_act(
        &self,
        time_out: Duration,
    ) -> Result<Result<StoredTask, String>, ServiceError> {
        let Some(stored) = self.core.tasks().stored(&self.tenant, &self.task).await? else {
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
            _ => Ok(Err(format!("less than {} s of the lease remain", time_out.as_secs()))),
        }
    }

    async fn stored(&self, key: &str) -> Result<Option<Versioned<EffectRecord>>, ServiceError> {
        let sort = format!("{}{}", repo::STEPS, watchbill_domain::escape_key_part(key));
        let key = Key::new(repo::task_partition(&self.tenant, &self.task), sort);
        self.core.context().load(&key).await
    }

    fn intent(&self, effect: &dyn Effect, hash: &str) -> EffectRecord {
        let now = self.core.clock().now();
        EffectRecord {
            tenant: self.tenant.clone(),
            task: self.task.clone(),
            key: effect.key(),
            what: effect.what(),
            target: effect.target(),
            provider_key: effect.provider_key(),
            fence: self.fence,
            intended_at: now,
            settles_at: now.plus(effect.time_out() + SETTLE_TIMEOUT),
            outcome: None,
            call_hash: Some(hash.to_owned()),
            expires: Some(self.core.rules().keep_beside(None, now)),
        }
    }

    /// Returns false after a conflict: re-check.
    async fn write_intent(
        &self,
        intent: &EffectRecord,
        before: Precondition,
        header: u64,
        mut writes: Vec<Write>,
    ) -> Result<bool, ServiceError> {
        writes.push(Write::Put { item: encode(intent, None), expect: before });
        writes.push(Write::Check {
            key: repo::task_key(&self.tenant, &self.task),
            expect: Precondition::Version(header),
        });
        // Sent once: the intent depends on the rest of the lease and on the authorization at
        // this time, which are re-checked after each pause.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Ok(written) => Ok(written.is_ok()),
            Err(TransactError::Busy { after }) => {
                self.core.clock().sleep(after).await;
                Ok(false)
            }
            // It may have been written: the next run finds our own intent and settles it.
            Err(TransactError::Unknown { reason }) => Err(ServiceError::Down { reason }),
            Err(error) => Err(error.into()),
        }
    }

    async fn attempt(
        &self,
        effect: &dyn Effect,
        intent: EffectRecord,
    ) -> Result<EffectOutcome, ServiceError> {
        let limit = self.core.clock().sleep(effect.time_out());
        let attempt = tokio::select! {
            biased;
            attempt = effect.attempt() => attempt,
            () = limit => Attempt::Unknown { error: "no response in time".to_owned() },
        };
        match attempt {
            Attempt::Done(result) => self.record(effect, intent, true, result, false).await,
            Attempt::Refused { error, retry } => {
                if retry {
                    // It did not happen and may be retried. The intent stays without an
                    // outcome, and the lookup will find nothing.
                    return Ok(EffectOutcome::Refused { error, retry });
                }
                let mut result = Map::new();
                result.insert("error".into(), Value::from(error));
                self.record(effect, intent, false, result, false).await
            }
            Attempt::Unknown { error } => {
                let after = intent.settles_at.since(self.core.clock().now());
                Ok(EffectOutcome::Unsettled { after, error })
            }
        }
    }

    /// Settles an intent without an outcome: asks the provider, but not before the earlier
    /// attempt has had time to settle.
    async fn settle(
        &self,
        step: &Versioned<EffectRecord>,
        effect: &dyn Effect,
    ) -> Result<Settled, ServiceError> {
        let now = self.core.clock().now();
        if step.value.settles_at > now {
            let after = step.value.settles_at.since(now);
            let error = "an earlier attempt may still be in progress".to_owned();
            return Ok(Settled::Outcome(EffectOutcome::Unsettled { after, error }));
        }
        let limit = self.core.clock().sleep(effect.time_out());
        let found = tokio::select! {
            biased;
            found = effect.look_up() => found,
            () = limit => {
                let seconds = effect.time_out().as_secs();
                let error = format!("no response to the lookup within {seconds} s");
                Lookup::Inconclusive { error }
            }
        };
        Ok(match found {
            Lookup::Absent => Settled::Absent,
            Lookup::Inconclusive { error } => {
                Settled::Outcome(EffectOutcome::Undecidable { error })
            }
            Lookup::Happened(result) => {
                let intent = step.value.clone();
                Settled::Outcome(self.record(effect, intent, true, result, true).await?)
            }
        })
    }

    /// Writes the outcome, even if the run was cancelled meanwhile, because the effect has
    /// happened. If another outcome is already recorded, it is kept and ours is undone.
    async fn record(
        &self,
        effect: &dyn Effect,
        mut step: EffectRecord,
        success: bool,
        result: Map<String, Value>,
        looked_up: bool,
    ) -> Result<EffectOutcome, ServiceError> {
        step.outcome =
            Some(EffectResult { at: self.core.clock().now(), success, result, looked_up });
        for _ in 0..MAX_ATTEMPTS {
            let stored = self.stored(&step.key).await?;
            let expect = match &stored {
                None => Precondition::Absent,
                Some(stored) => Precondition::Version(stored.version),
            };
            if let Some(stored) = stored.filter(|stored| stored.value.outcome.is_some()) {
                let ours = step.outcome.as_ref().map(|o| &o.result);
                let kept = stored.value.outcome.as_ref().map(|o| &o.result);
                if success && ours != kept && !same_attempt(&step, &stored.value) {
                    effect.undo(ours.unwrap_or(&Map::new())).await;
                }
                return Ok(match &step.call_hash {
                    Some(hash) if is_other(&stored.value, hash) => mismatch(&stored.value, hash),
                    _ => recorded(&stored.value),
                });
            }
            let writes = vec![Write::Put { item: encode(&step, None), expect }];
            match self.core.context().transact(writes).await {
                Ok(Ok(())) => return Ok(recorded(&step)),
                // Not given up while the run lasts: otherwise the effect would have to be
                // looked up.
                Ok(Err(_)) | Err(TransactError::Busy { .. } | TransactError::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::Down {
            reason: format!("the outcome of {} can't be written", step.key()),
        })
    }
}

/// Hash of the tool and its arguments. A journal entry is identified by its key and this hash.
fn hash_of(call: &ToolCall) -> String {
    canonical_hash(&json!([call.tool, call.arguments]))
}

fn is_other(step: &EffectRecord, hash: &str) -> bool {
    step.call_hash.as_deref().is_some_and(|stored| stored != hash)
}

enum Answered {
    GoOn,
    Outcome(EffectOutcome),
}

/// A person's answer to exactly this mismatch.
fn answered(task: &Task, step: &EffectRecord, hash: &str) -> Answered {
    let asked = question(step, hash);
    let question = task.question.as_ref().filter(|question| question.text == asked.text);
    match question.and_then(|question| question.answer.as_deref()) {
        Some(GO_ON) => Answered::GoOn,
        Some(CANCEL) => {
            let error = format!("{} was not done: a person chose to cancel it", step.key);
            Answered::Outcome(EffectOutcome::Refused { error, retry: false })
        }
        _ => Answered::Outcome(mismatch(step, hash)),
    }
}

fn mismatch(step: &EffectRecord, hash: &str) -> EffectOutcome {
    let question = question(step, hash);
    EffectOutcome::Mismatch { error: question.text.clone(), question }
}

fn question(step: &EffectRecord, hash: &str) -> Question {
    let outcome = match &step.outcome {
        Some(outcome) => format!("it is {}", outcome.describe()),
        None => "what became of it is not known".to_owned(),
    };
    let stored: String = step.call_hash.iter().flat_map(|hash| hash.chars().take(12)).collect();
    let mut text = format!(
        "the journal holds '{}' ({} on {}, {outcome}) with arguments {stored}; this run asks for \
         {hash:.12}: do the new one, or cancel?",
        step.key, step.what, step.target
    );
    // Redacted as it will be stored, or its answer would not be recognised.
    redact::string(&mut text);
    Question {
        text,
        choices: vec![GO_ON.to_owned(), CANCEL.to_owned()],
        answer: None,
        answered_by: None,
    }
}

/// The entry that another call replaces, under a key of its own, so that it stays on record.
fn archived(step: &Versioned<EffectRecord>) -> Write {
    let key = format!("{}~{}", step.value.key, step.version);
    let kept = EffectRecord { key, ..step.value.clone() };
    Write::Put { item: encode(&kept, step.unknown.as_deref()), expect: Precondition::Absent }
}

enum Settled {
    Outcome(EffectOutcome),
    Absent,
}

/// Whether two records are of one attempt. The run that made it and the one that looked it up
/// may describe it differently, and undoing it would undo the only one.
fn same_attempt(one: &EffectRecord, other: &EffectRecord) -> bool {
    (one.fence, one.intended_at) == (other.fence, other.intended_at)
}

fn recorded(step: &EffectRecord) -> EffectOutcome {
    match &step.outcome {
        Some(outcome) if outcome.success => EffectOutcome::Done(outcome.result.clone()),
        Some(outcome) => {
            let error = outcome.result.get("error").and_then(Value::as_str);
            EffectOutcome::Refused { error: error.unwrap_or("refused").to_owned(), retry: false }
        }
        None => EffectOutcome::Undecidable { error: "no outcome".to_owned() },
    }
}
