//! Effects outside, accounted for: the intent is durable before the attempt, the outcome
//! after it. A finished step gives its recorded result back and is not repeated; one with
//! an intent and no outcome is unknown, and is looked up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_core::ports::{Expect, Key, Write};
use watchbill_core::repo::StoredTask;
use watchbill_core::repo::{self, Entity as _, Step, StepOutcome, Versioned, encode};
use watchbill_core::service::{Core, ServiceError, TransactError, Verdict};
use watchbill_domain::{Question, Status, Task, TaskId, TenantId, ToolCall, canonical_hash};
use watchbill_redact as redact;

use crate::executor::judge_call;
use crate::run::{PlannedFor, Withheld};

/// What a provider may still do after its time-out has passed on our side.
const SETTLING: Duration = Duration::from_secs(10);
const TRIES: u32 = 16;
/// What a person may answer where the journal holds another call under an effect's key.
const GO_ON: &str = "go on anew";
const CANCEL: &str = "cancel";

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
    /// The longest that one attempt takes, and one look-up.
    fn time_out(&self) -> Duration;
    /// As policy sees it.
    fn call(&self) -> ToolCall;

    async fn attempt(&self) -> Attempt;

    /// Asks the provider whether it happened. One that takes longer than the time-out can't tell.
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
    /// The journal holds another call under this key, so its result is not this call's: the run
    /// blocks the task with the question. Answered, the same call goes on or is refused.
    Mismatch {
        error: String,
        question: Question,
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
    changed: Arc<AtomicBool>,
    planned: Option<PlannedFor>,
}

impl Steps {
    /// Of the run that holds the task now.
    pub fn of_run(core: Core, task: &Task) -> Self {
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        let (fence, changed) = (task.fence, Arc::default());
        Self { core, tenant, task: id, fence, changed, planned: None }
    }

    /// The same, with the plan that the run was claimed with.
    #[must_use]
    pub fn planned(self, planned: Option<PlannedFor>) -> Self {
        Self { planned, ..self }
    }

    /// Whether an effect of this run that changes something has come off, now or in an earlier run
    /// whose result was given back.
    pub fn changed_something(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Takes an effect at most once as far as can be known.
    pub async fn take(&self, effect: &dyn Effect) -> Result<Taken, ServiceError> {
        let call = effect.call();
        if !call.mutating {
            // Governance would let it through as a call that only reads.
            let error = format!(
                "tool '{}' changes something outside, and its call says that it only reads: its spec \
                 needs the class Mutating",
                call.tool
            );
            return Ok(Taken::Refused { error, retry: false });
        }
        let taken = self.take_call(effect, &hash_of(&call)).await?;
        if matches!(taken, Taken::Done(_)) {
            self.changed.store(true, Ordering::Relaxed);
        }
        Ok(taken)
    }

    async fn take_call(&self, effect: &dyn Effect, hash: &str) -> Result<Taken, ServiceError> {
        for _ in 0..TRIES {
            let held = match self.may_act(effect.time_out()).await? {
                Ok(held) => held,
                Err(reason) => return Ok(Taken::Stopped { reason }),
            };
            let version = held.version;
            let known = self.stored(&effect.key()).await?;
            let intent = self.intent(effect, hash);
            let mut writes = Vec::new();
            let before = match known {
                Some(step) if is_other(&step.value, hash) => {
                    match answered(&held.value, &step.value, hash) {
                        Answered::GoOn => {}
                        Answered::Taken(taken) => return Ok(taken),
                    }
                    writes.push(archived(&step));
                    Expect::Version(step.version)
                }
                Some(step) if step.value.outcome.is_some() => return Ok(recorded(&step.value)),
                Some(step) => match self.settle(&step, effect).await? {
                    Settled::Taken(taken) => return Ok(taken),
                    // The look-up took its time: what is left must hold an attempt.
                    Settled::DidNot => match self.may_act(effect.time_out()).await? {
                        Ok(_) => Expect::Version(step.version),
                        Err(reason) => return Ok(Taken::Stopped { reason }),
                    },
                },
                None => Expect::Absent,
            };
            // At the last moment: whatever changes the task from here on fails the intent.
            if let Some(withheld) = self.leave(&held, &effect.call()).await? {
                return Ok(Taken::Withheld(withheld));
            }
            if !self.write_intent(&intent, before, version, writes).await? {
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
        let payload = self.core.tasks().payload(&held.value).await?;
        let known = self.planned.as_ref().and_then(|plan| plan.of(&payload));
        let Verdict { proof, beside, .. } =
            judge_call(&self.core, held, &payload, known, call).await?;
        let of = Some((call.clone(), proof.version));
        Ok((!proof.leave.is_granted()).then_some(Withheld { leave: proof.leave, beside, of }))
    }

    /// The task if this run still holds it, with time for the effect.
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
            _ => Ok(Err(format!("less than {} s of the lease are left", time_out.as_secs()))),
        }
    }

    async fn stored(&self, key: &str) -> Result<Option<Versioned<Step>>, ServiceError> {
        let sort = format!("{}{}", repo::STEPS, watchbill_domain::escape_key_part(key));
        let key = Key::new(repo::task_partition(&self.tenant, &self.task), sort);
        self.core.context().load(&key).await
    }

    fn intent(&self, effect: &dyn Effect, hash: &str) -> Step {
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
            call_hash: Some(hash.to_owned()),
            expires: Some(self.core.rules().keep_beside(None, now)),
        }
    }

    /// False: something changed meanwhile, look again.
    async fn write_intent(
        &self,
        intent: &Step,
        before: Expect,
        header: u64,
        mut writes: Vec<Write>,
    ) -> Result<bool, ServiceError> {
        writes.push(Write::Put { item: encode(intent, None), expect: before });
        writes.push(Write::Check {
            key: repo::task_key(&self.tenant, &self.task),
            expect: Expect::Version(header),
        });
        // Asked once: what the intent rests on (the lease's rest, governance's word) is of this
        // moment, and is looked at anew after each pause.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Ok(written) => Ok(written.is_ok()),
            Err(TransactError::Busy { after }) => {
                self.core.clock().sleep(after).await;
                Ok(false)
            }
            // It may stand: the next run finds our own intent and settles it.
            Err(TransactError::Unknown { reason }) => Err(ServiceError::Down { reason }),
            Err(error) => Err(error.into()),
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
        let limit = self.core.clock().sleep(effect.time_out());
        let found = tokio::select! {
            biased;
            found = effect.look_up() => found,
            () = limit => {
                let seconds = effect.time_out().as_secs();
                LookedUp::CantTell { error: format!("no answer to the look-up within {seconds} s") }
            }
        };
        Ok(match found {
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
                return Ok(match &step.call_hash {
                    Some(hash) if is_other(&there.value, hash) => mismatch(&there.value, hash),
                    _ => recorded(&there.value),
                });
            }
            let writes = vec![Write::Put { item: encode(&step, None), expect }];
            match self.core.context().transact(writes).await {
                Ok(Ok(())) => return Ok(recorded(&step)),
                // Not given up while the run lasts: what was done would have to be looked up.
                Ok(Err(_)) | Err(TransactError::Busy { .. } | TransactError::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::Down {
            reason: format!("the outcome of {} can't be written", step.key()),
        })
    }
}

/// Of the kind of the call and its arguments; a journal's entry is found by key and this.
fn hash_of(call: &ToolCall) -> String {
    canonical_hash(&json!([call.tool, call.arguments]))
}

fn is_other(step: &Step, hash: &str) -> bool {
    step.call_hash.as_deref().is_some_and(|stored| stored != hash)
}

enum Answered {
    GoOn,
    Taken(Taken),
}

/// What a person has said to exactly this mismatch.
fn answered(task: &Task, step: &Step, hash: &str) -> Answered {
    let asked = question(step, hash);
    let question = task.question.as_ref().filter(|question| question.text == asked.text);
    match question.and_then(|question| question.answer.as_deref()) {
        Some(GO_ON) => Answered::GoOn,
        Some(CANCEL) => {
            let error = format!("{} was not done: a person chose to cancel it", step.key);
            Answered::Taken(Taken::Refused { error, retry: false })
        }
        _ => Answered::Taken(mismatch(step, hash)),
    }
}

fn mismatch(step: &Step, hash: &str) -> Taken {
    let question = question(step, hash);
    Taken::Mismatch { error: question.text.clone(), question }
}

fn question(step: &Step, hash: &str) -> Question {
    let stands = match &step.outcome {
        Some(outcome) => format!("it is {}", outcome.in_words()),
        None => "what became of it is not known".to_owned(),
    };
    let stored: String = step.call_hash.iter().flat_map(|hash| hash.chars().take(12)).collect();
    let mut text = format!(
        "the journal holds '{}' ({} on {}, {stands}) with arguments {stored}; this run asks for \
         {hash:.12}: do the new one, or cancel?",
        step.key, step.what, step.target
    );
    // As it will be kept, or its answer would not be known again.
    redact::string(&mut text);
    Question {
        text,
        choices: vec![GO_ON.to_owned(), CANCEL.to_owned()],
        answer: None,
        answered_by: None,
    }
}

/// The entry that gives way to another call, under a key of its own: what was done stays told.
fn archived(step: &Versioned<Step>) -> Write {
    let key = format!("{}~{}", step.value.key, step.version);
    let kept = Step { key, ..step.value.clone() };
    Write::Put { item: encode(&kept, step.unknown.as_deref()), expect: Expect::Absent }
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
