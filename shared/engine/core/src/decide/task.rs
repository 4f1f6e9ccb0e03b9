//! The entry point of the decisions on a task.

use std::time::Duration;

use serde_json::{Value, json};
use watchbill_domain::{
    ChangeKind, Grant, LogEntry, LoggedEvent, Outcome, Override, Sla, Status, Task, TaskLimits,
    Timestamp,
};
use watchbill_governance::BudgetMove;
use watchbill_redact as redact;

use super::{Command, DecisionContext, Rejection, budget, create, run, tick, wait};

/// A resume is checked this long after its time, in case its message is lost.
const RESUME_GRACE: Duration = Duration::from_secs(120);
/// If nothing else is due, an open task is checked again after this.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A task after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub task: Task,
    /// The previous version plus one. A change with nothing to report, such as another due
    /// time, has no entry in the log.
    pub version: u64,
    /// Changes that no longer fit in the header's log, to be stored in an item next to it.
    pub overflow: Vec<LogEntry>,
    /// What it reserves of the tenant's budget or releases, written in the same commit.
    pub budget: Option<BudgetMove>,
}

/// The only place that knows what may happen to a task.
pub fn decide(
    state: Option<(&Task, u64)>,
    command: &Command,
    facts: &DecisionContext<'_>,
) -> Result<Decided, Rejection> {
    match (state, command) {
        (Some((task, version)), _) => decide_on(task.clone(), version, command, facts),
        (None, Command::Create(draft)) => create::create(draft, facts),
        (None, _) => Err(Rejection::Absent),
    }
}

/// [`decide`] on an owned task: copying it costs more than deciding.
pub(crate) fn decide_on(
    task: Task,
    version: u64,
    command: &Command,
    facts: &DecisionContext<'_>,
) -> Result<Decided, Rejection> {
    let mut transition = Transition::new(task, version, facts);
    match command {
        Command::Create(_) => return Err(Rejection::Exists),
        Command::Approve { by, proof, use_by } => transition.approve(by, proof, *use_by)?,
        Command::Reject { by, reason } => transition.reject(by, reason.as_deref())?,
        Command::Vote { by, have, need } => transition.vote(by, *have, *need)?,
        Command::Expire => transition.expire()?,
        Command::Escalate { decide_by } => transition.escalate(*decide_by)?,
        Command::Override { freeze, by, reason } => transition.pass_freeze(freeze, by, reason)?,
        Command::Claim { agent, owner, assignment, authorization } => {
            run::claim(&mut transition, *agent, owner, *assignment, authorization)?;
        }
        Command::ClaimExternal { by, authorization } => {
            run::claim_external(&mut transition, by, authorization)?
        }
        Command::End { fence, ending, events, notes, outcome } => {
            run::end(&mut transition, *fence, ending, events, notes, outcome)?;
        }
        Command::Reserve { fence, quote, limits } => {
            budget::reserve(&mut transition, *fence, *quote, limits)?;
        }
        Command::Sent { fence, n } => budget::sent(&mut transition, *fence, *n)?,
        Command::Settle { fence, n, used } => budget::settle(&mut transition, *fence, *n, *used)?,
        Command::Release { fence, n } => budget::release(&mut transition, *fence, *n)?,
        Command::EndExternal { by, ending, authorization } => {
            run::end_external(&mut transition, by, ending, authorization)?;
        }
        Command::Cancel { by, reason, fence } => {
            transition.cancel(by, reason.as_deref(), *fence)?
        }
        Command::Answer { by, answer } => transition.answer(by, answer)?,
        Command::RetryNow { by } => transition.retry_now(by)?,
        Command::Reroute { agent } => transition.reroute(*agent)?,
        Command::Tick { lane_busy } => tick::tick(&mut transition, *lane_busy)?,
        Command::Postpone => tick::reschedule_check(&transition)?,
        Command::Wake => wait::wake(&mut transition)?,
        Command::Recall => wait::recall(&mut transition)?,
    }
    Ok(transition.finish())
}

/// When the task should be checked again; `None` once it has ended.
pub fn next_due(task: &Task, now: Timestamp) -> Option<Timestamp> {
    if task.status.is_terminal() {
        return None;
    }
    let sla = task.sla.as_ref().and_then(|sla| sla_mark(sla, task.created_at));
    let resume = task.resume_at.map(|at| at.plus(RESUME_GRACE));
    let outside = task
        .lease
        .as_ref()
        .filter(|lease| lease.epoch == watchbill_domain::Lease::OUTSIDE)
        .map(|lease| lease.until);
    let offer = match (task.status, resume) {
        // Waiting for the next retry does not mean that the task reference was lost.
        (_, Some(_)) => None,
        _ => task.offer_at,
    };
    // A run that crashed during a call may have left a reservation open.
    let leaked = task.reservation.as_ref().and(task.lease.as_ref()).map(|lease| lease.until);
    [sla, resume, outside, offer, leaked]
        .into_iter()
        .flatten()
        .min()
        .or(Some(now.plus(IDLE_CHECK_INTERVAL)))
}

fn sla_mark(sla: &Sla, created_at: Timestamp) -> Option<Timestamp> {
    match (sla.warned, sla.violated) {
        (false, false) => Some(sla.warn_at(created_at).min(sla.deadline)),
        (true, false) => Some(sla.deadline),
        (_, true) => None,
    }
}

/// A change in progress: the new task, and its log entry.
pub(super) struct Transition<'a> {
    pub task: Task,
    pub facts: &'a DecisionContext<'a>,
    version: u64,
    before: Status,
    what: ChangeKind,
    by: String,
    note: Option<String>,
    events: Vec<LoggedEvent>,
    /// What the run that ends here used, and its score changes.
    pub outcome: Option<Outcome>,
    /// The fence of a run that begins.
    pub run: Option<u64>,
    pub budget: Option<BudgetMove>,
}

impl<'a> Transition<'a> {
    pub fn new(task: Task, version: u64, facts: &'a DecisionContext<'a>) -> Self {
        let before = task.status;
        Self {
            task,
            facts,
            version,
            before,
            what: ChangeKind::Checked,
            by: String::new(),
            note: None,
            events: Vec::new(),
            outcome: None,
            run: None,
            budget: None,
        }
    }

    /// The version that is decided on.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn log_change(&mut self, what: ChangeKind, by: &str, note: Option<&str>) {
        self.what = what;
        self.by = redact::text(by).into_owned();
        self.note = note.map(|n| clip(n, 200));
    }

    pub fn event(&mut self, event_type: &str, payload: Value) {
        let mut event = LoggedEvent::own(event_type, payload);
        redact::object(&mut event.payload);
        self.events.push(event);
    }

    /// Marks that the task reference is enqueued again without anything else to report.
    pub fn offers_silently(&mut self) {
        self.task.offered_version = self.version + 1;
    }

    /// Whether the change has nothing to log.
    fn is_silent(&self) -> bool {
        self.what == ChangeKind::Checked
            && self.before == self.task.status
            && self.events.is_empty()
            && self.outcome.is_none()
            && self.budget.is_none()
    }

    /// An event without a payload of its own.
    pub fn plain_event(&mut self, event_type: &str) {
        self.event(event_type, Value::Null);
    }

    pub fn events(&mut self, more: &[LoggedEvent]) {
        let given = self.events.len();
        self.events.extend_from_slice(more);
        self.events[given..].iter_mut().for_each(|event| redact::object(&mut event.payload));
    }

    pub fn finish(mut self) -> Decided {
        budget::take_back_if_over(&mut self);
        let what = self.what;
        budget::report_usage(&mut self, what);
        let version = self.version + 1;
        if self.is_silent() {
            return Decided { task: self.task, version, overflow: Vec::new(), budget: None };
        }
        let status = self.task.status;
        self.task.log.push(LogEntry {
            version,
            at: self.facts.now,
            what: self.what,
            by: self.by,
            status,
            before: (self.version > 0 && self.before != status).then_some(self.before),
            note: self.note,
            events: self.events,
            outcome: self.outcome,
            run: self.run,
        });
        let mut overflow = Vec::new();
        if self.task.log.len() > TaskLimits::LOG {
            // Half at a time, so that a long-lived task costs one more item every eight changes.
            overflow = self.task.log.drain(..TaskLimits::LOG / 2).collect();
        }
        Decided { task: self.task, version, overflow, budget: self.budget }
    }

    pub fn illegal(&self, what: &'static str) -> Rejection {
        Rejection::Illegal { status: self.task.status, what }
    }

    pub fn demand(&self, allowed: &[Status], what: &'static str) -> Result<(), Rejection> {
        if allowed.contains(&self.task.status) { Ok(()) } else { Err(self.illegal(what)) }
    }

    /// Rejects a caller that acts under an earlier claim.
    pub fn demand_fence(&self, fence: Option<u64>) -> Result<(), Rejection> {
        let current = self.task.fence;
        match fence {
            Some(asked) if asked != current => Err(Rejection::Fenced { asked, current }),
            _ => Ok(()),
        }
    }

    /// Puts the task into its lane: a new assignment, whose task reference the router sends.
    /// Blocks it instead if no process of this build does its agent's work.
    pub fn assign(&mut self, resume_at: Option<Timestamp>) {
        wait::extend_grants(self);
        if self.facts.rules.is_left_to_nobody(self.task.agent, self.task.task_type) {
            return self.block_as_not_built();
        }
        let task = &mut self.task;
        task.status = Status::Assigned;
        task.assignment += 1;
        task.lease = None;
        task.resume_at = resume_at;
        task.offers = 0;
        task.excused = 0;
        task.held = None;
        task.not_built = false;
        let outside = self.facts.rules.is_left_outside(task.agent, task.task_type);
        task.external = outside;
        let from = resume_at.unwrap_or(self.facts.now);
        task.offer_at = (!outside).then(|| from.plus(self.facts.rules.offer_every));
    }

    /// A new task reference for the same wait, such as in another lane. The deferral is kept,
    /// and the wait still does not count against the task.
    pub fn assign_elsewhere(&mut self) {
        let (resume_at, held) = (self.task.resume_at, self.task.held.take());
        self.assign(resume_at);
        if held.is_some() && resume_at.is_some() && self.task.status == Status::Assigned {
            self.task.held = held;
            self.task.waiting_since = Some(self.facts.now);
        }
    }

    /// Ends the task for good.
    pub fn end(&mut self, status: Status) {
        debug_assert!(status.is_terminal(), "only terminal states end a task");
        let task = &mut self.task;
        task.status = status;
        task.lease = None;
        task.resume_at = None;
        task.offer_at = None;
        task.held = None;
        task.not_built = false;
        task.waiting_since = None;
        task.finished_at = Some(self.facts.now);
    }

    /// Ends the task as failed.
    pub fn fail(&mut self, by: &str, error: &str) {
        self.end(Status::Failed);
        self.task.error = Some(clip(error, TaskLimits::ERROR));
        self.log_change(ChangeKind::Failed, by, Some(error));
        self.event("task.failed", json!({ "error": clip(error, 500) }));
    }

    fn approve(&mut self, by: &str, proof: &str, use_by: Timestamp) -> Result<(), Rejection> {
        self.demand(&[Status::Pending, Status::Blocked], "approved")?;
        let Some(approval) = &mut self.task.approval else {
            return Err(self.illegal("approved: it needs no approval"));
        };
        if approval.proof.is_some() {
            return Err(self.illegal("approved twice"));
        }
        approval.proof = Some(proof.to_owned());
        approval.approved_by = Some(by.to_owned());
        approval.use_by = Some(use_by);
        let id = approval.id.clone();
        let (hash, asked) = (proof.to_owned(), approval.asked.clone());
        let salt = approval.salt.clone();
        let now = self.facts.now;
        let grants = &mut self.task.grants;
        grants.retain(|grant| grant.use_by > now && grant.hash != hash);
        grants.push(Grant { hash, asked, use_by, salt, approved_at: Some(now) });
        let most = TaskLimits::GRANTS;
        grants.drain(..grants.len().saturating_sub(most));
        self.assign(None);
        self.log_change(ChangeKind::Approved, by, None);
        self.event("approval.approved", json!({ "approval_id": id, "approved_by": by }));
        self.assigned_event(json!({}));
        Ok(())
    }

    fn vote(&mut self, by: &str, have: usize, need: u8) -> Result<(), Rejection> {
        self.demand(&[Status::Pending, Status::Blocked], "voted on")?;
        self.log_change(ChangeKind::Voted, by, Some(&format!("{have} of {need} have approved")));
        Ok(())
    }

    fn escalate(&mut self, decide_by: Timestamp) -> Result<(), Rejection> {
        self.demand(&[Status::Pending, Status::Blocked], "escalated")?;
        let id = self.task.approval.as_ref().map(|a| a.id.clone());
        self.log_change(ChangeKind::Escalated, "", Some("nobody has decided on its approval yet"));
        let payload = json!({ "approval_id": id, "decide_by": decide_by.to_string() });
        self.event("approval.escalated", payload);
        Ok(())
    }

    fn pass_freeze(&mut self, freeze: &str, by: &str, reason: &str) -> Result<(), Rejection> {
        if self.task.status.is_terminal() {
            return Err(self.illegal("allowed to pass a freeze"));
        }
        self.task.overrides.retain(|other| other.freeze != freeze);
        self.task.overrides.push(Override {
            freeze: freeze.to_owned(),
            by: by.to_owned(),
            at: self.facts.now,
            reason: clip(reason, 500),
        });
        let before = self.task.assignment;
        match self.task.status {
            Status::Assigned if self.task.resume_at.is_some() => self.assign(None),
            Status::InProgress if self.task.lease.is_none() => {
                self.task.resume_at = Some(self.facts.now);
                self.task.assignment += 1;
            }
            _ => {}
        }
        if self.task.assignment > before {
            self.event("task.assigned", json!({ "assigned_to": self.task.agent }));
        }
        self.log_change(ChangeKind::Overridden, by, Some(&format!("freeze '{freeze}': {reason}")));
        Ok(())
    }

    fn reject(&mut self, by: &str, reason: Option<&str>) -> Result<(), Rejection> {
        self.demand(&[Status::Pending, Status::Blocked], "rejected")?;
        let id = self.task.approval.as_ref().map(|a| a.id.clone());
        self.end(Status::Cancelled);
        let why = reason.map_or(format!("rejected by {by}"), |r| format!("rejected by {by}: {r}"));
        self.task.error = Some(clip(&why, TaskLimits::ERROR));
        self.log_change(ChangeKind::Rejected, by, reason);
        let payload = json!({ "approval_id": id, "rejected_by": by, "reason": reason });
        self.event("approval.rejected", payload);
        self.event("task.cancelled", json!({ "reason": why }));
        Ok(())
    }

    fn expire(&mut self) -> Result<(), Rejection> {
        self.demand(&[Status::Pending, Status::Blocked], "expired")?;
        let id = self.task.approval.as_ref().map(|a| a.id.clone());
        self.end(Status::Cancelled);
        let why = "nobody decided on its approval in time";
        self.task.error = Some(why.to_owned());
        self.log_change(ChangeKind::Expired, "", Some(why));
        self.event("approval.expired", json!({ "approval_id": id }));
        self.event("task.cancelled", json!({ "reason": why }));
        Ok(())
    }

    fn cancel(
        &mut self,
        by: &str,
        reason: Option<&str>,
        fence: Option<u64>,
    ) -> Result<(), Rejection> {
        if self.task.status.is_terminal() {
            return Err(self.illegal("cancelled"));
        }
        self.demand_fence(fence)?;
        self.end(Status::Cancelled);
        let why =
            reason.map_or(format!("cancelled by {by}"), |r| format!("cancelled by {by}: {r}"));
        self.task.error = Some(clip(&why, TaskLimits::ERROR));
        self.log_change(ChangeKind::Cancelled, by, reason);
        self.event("task.cancelled", json!({ "reason": why }));
        Ok(())
    }

    fn answer(&mut self, by: &str, answer: &str) -> Result<(), Rejection> {
        self.demand(&[Status::Blocked], "answered")?;
        let waits_for_approval =
            self.task.approval.as_ref().is_some_and(|approval| approval.proof.is_none());
        if waits_for_approval {
            return Err(self.illegal("answered: it waits for an approval"));
        }
        if self.task.not_built {
            return Err(
                self.illegal("answered: it has no question, it waits for an external worker")
            );
        }
        if let Some(question) = &mut self.task.question {
            // Unredacted: the run that continues with it may need exactly this text.
            question.answer = Some(cut(answer, TaskLimits::ERROR));
            question.answered_by = Some(by.to_owned());
        }
        self.task.lost_runs = 0;
        self.assign(None);
        self.log_change(ChangeKind::Answered, by, Some(answer));
        self.assigned_event(json!({}));
        Ok(())
    }

    fn retry_now(&mut self, by: &str) -> Result<(), Rejection> {
        self.demand(&[Status::Blocked, Status::Assigned, Status::InProgress], "retried")?;
        let waits = match self.task.status {
            Status::Blocked => {
                self.task.approval.as_ref().is_none_or(|approval| approval.proof.is_some())
            }
            // Assigned or suspended: only if it waits for a future time.
            _ => self.task.lease.is_none() && self.task.resume_at.is_some(),
        };
        if !waits {
            return Err(self.illegal("retried: it is not waiting for a retry"));
        }
        self.task.lost_runs = 0;
        if self.task.status == Status::InProgress {
            // A suspended run continues with its steps; only the wait ends.
            self.task.resume_at = Some(self.facts.now);
            self.task.assignment += 1;
        } else {
            self.assign(None);
            if self.task.not_built {
                return Err(self.illegal("retried: its agent is not part of this build"));
            }
        }
        self.log_change(ChangeKind::Retried, by, None);
        self.assigned_event(json!({}));
        Ok(())
    }

    fn reroute(&mut self, reached: watchbill_domain::Agent) -> Result<(), Rejection> {
        self.demand(&[Status::Assigned], "rerouted")?;
        if reached == self.task.agent {
            return Err(Rejection::NothingDue);
        }
        self.task.misrouted += 1;
        self.assign_elsewhere();
        let note = format!("its lane message reached {reached}");
        self.log_change(ChangeKind::Rerouted, "", Some(&note));
        self.assigned_event(json!({}));
        Ok(())
    }
}

/// A text for the log: redacted, then [`cut`], because a cut secret might not be recognised.
pub(super) fn clip(text: &str, most: usize) -> String {
    cut(&redact::text(text), most)
}

/// The first `most` bytes, cut at a character boundary, with a mark where text is missing.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
