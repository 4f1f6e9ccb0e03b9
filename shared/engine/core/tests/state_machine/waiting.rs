//! Tasks that wait through no fault of their own: they are checked and found again, their
//! approvals outlive the wait, and the log does not grow.

use std::time::Duration;

use watchbill_core::decide::{
    Authorization, Command, VersionedAuthorization, next_due, usable_until,
};
use watchbill_domain::{Agent, ChangeKind, Status, Timestamp};

use super::{Life, Outcome, RunResult, Setup};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const BUSY: Command = Command::Tick { lane_busy: true };
const IDLE: Command = Command::Tick { lane_busy: false };

fn begin() -> Life {
    Life::begin(&Setup::plain(false)).unwrap()
}

impl Life {
    fn until_due(&self) -> Duration {
        next_due(&self.task, self.now).unwrap().since(self.now)
    }

    /// An agent claims the task; governance decides as given.
    fn claim(&mut self, decision: Authorization) {
        let command = Command::Claim {
            agent: self.task.agent,
            owner: "one".into(),
            assignment: self.task.assignment,
            authorization: VersionedAuthorization { version: self.version, decision },
        };
        let before = self.version;
        self.after(Duration::ZERO, &command).unwrap();
        assert_eq!(self.version, before + 1, "not claimed: {:?}", self.task);
    }

    fn end(&mut self, ending: RunResult) {
        let (events, notes, outcome) = (Vec::new(), Vec::new(), Outcome::default());
        let fence = self.task.fence;
        let command = Command::End { fence, ending, events, notes, outcome };
        self.after(Duration::ZERO, &command).unwrap();
    }

    fn approve(&mut self, use_within: Duration) {
        let (by, proof) = ("kim".to_owned(), "hash".to_owned());
        let use_by = self.now.plus(use_within);
        self.after(Duration::ZERO, &Command::Approve { by, proof, use_by }).unwrap();
        assert_eq!(self.task.status, Status::Assigned);
    }

    fn is_usable(&self) -> bool {
        let grant = self.task.grants.last().unwrap();
        self.now < usable_until(&self.task, grant, self.now, &self.rules)
    }

    fn times(&self, what: ChangeKind) -> usize {
        self.log.iter().filter(|entry| entry.what == what).count()
    }
}

fn frozen(until: Timestamp) -> Authorization {
    Authorization::Deferred { until, why: "freeze 'weekend'".into() }
}

#[test]
fn excused_offers_back_off_and_are_not_logged() {
    let mut life = begin();
    let mut distances = Vec::new();
    for _ in 0..12 {
        let wait = life.until_due();
        distances.push(wait.as_secs() / 60);
        let before = life.version;
        life.after(wait, &BUSY).unwrap();
        assert_eq!(life.version, before + 1);
        assert_eq!(life.task.offered_version, life.version, "the router is told by the header");
    }
    assert_eq!(distances, [15, 15, 30, 60, 120, 240, 360, 360, 360, 360, 360, 360]);
    assert_eq!((life.log.len(), life.task.offers), (1, 0), "nothing but its creation is told");
}

#[test]
fn the_end_of_a_backlog_brings_the_next_offer_at_once() {
    let mut life = begin();
    for _ in 0..8 {
        life.after(life.until_due(), &BUSY).unwrap();
    }
    assert!(life.until_due() >= 5 * HOUR);
    let before = life.version;
    life.after(MINUTE, &Command::Recall).unwrap();
    assert_eq!((life.version, life.task.offered_version), (before + 1, before + 1));
    assert_eq!((life.until_due(), life.task.excused), (15 * MINUTE, 0));
    // From here on offers are no longer excused, and the five offers count.
    while !life.task.status.is_terminal() {
        life.after(life.until_due(), &IDLE).unwrap();
    }
    assert_eq!(life.times(ChangeKind::Offered), 5);
}

#[test]
fn a_tick_for_another_reason_notices_the_end_of_the_backlog() {
    let mut life = Life::begin(&Setup { no_sla: false, ..Setup::plain(false) }).unwrap();
    while life.until_due() < HOUR {
        life.after(life.until_due(), &BUSY).unwrap();
    }
    let sla = life.task.sla.clone().unwrap();
    let warning = sla.warn_at(life.task.created_at);
    while life.now.plus(life.until_due()) < warning {
        life.after(life.until_due(), &BUSY).unwrap();
    }
    assert!(life.task.excused > 0 && life.task.offer_at.is_some_and(|at| at > warning));
    life.after(warning.since(life.now), &IDLE).unwrap();
    assert!(life.task.sla.as_ref().is_some_and(|sla| sla.warned));
    assert_eq!((life.task.offers, life.task.excused), (1, 0));
}

#[test]
fn a_task_deferred_by_a_freeze_resumes_at_its_end_and_is_logged_once() {
    let mut life = begin();
    let end = life.now.plus(60 * HOUR);
    let mut looks = 0;
    while life.now < end {
        life.claim(frozen(end));
        assert_eq!((life.task.status, life.task.assignment), (Status::Assigned, 2));
        looks += 1;
        let resume_at = life.task.resume_at.unwrap();
        assert!(resume_at > life.now && resume_at <= end.plus(30_000 * Duration::from_millis(1)));
        life.now = resume_at;
    }
    assert!(life.now.since(end) <= Duration::from_secs(30), "an hour late: {}", life.now);
    assert!(looks <= 15, "{looks} looks in 60 hours");
    assert_eq!((life.times(ChangeKind::Held), life.log.len()), (1, 2));
    life.claim(Authorization::Granted { note: None });
    assert_eq!(life.task.status, Status::InProgress);
    assert!(life.task.held.is_none() && life.task.waiting_since.is_none());
}

#[test]
fn another_deferral_reason_is_logged() {
    let mut life = begin();
    life.claim(frozen(life.now.plus(HOUR)));
    life.now = life.task.resume_at.unwrap();
    let why = "freeze 'release'".to_owned();
    life.claim(Authorization::Deferred { until: life.now.plus(HOUR), why });
    assert_eq!(life.times(ChangeKind::Held), 2);
}

#[test]
fn a_run_that_a_freeze_stops_is_woken_when_it_is_lifted() {
    let mut life = begin();
    life.claim(Authorization::Granted { note: None });
    let until = life.now.plus(60 * HOUR);
    life.end(RunResult::Deferred { until, why: "freeze 'weekend'".into() });
    assert_eq!((life.task.status, life.times(ChangeKind::Held)), (Status::InProgress, 1));
    assert!(life.task.resume_at.unwrap().since(life.now) <= 15 * MINUTE, "it may be lifted");
    let before = life.version;
    life.after(MINUTE, &Command::Wake).unwrap();
    assert_eq!((life.version, life.task.offered_version), (before + 1, before + 1));
    assert!(life.task.resume_at.unwrap().since(life.now) <= Duration::from_secs(30));
    life.now = life.task.resume_at.unwrap();
    life.claim(Authorization::Granted { note: None });
    assert!(life.task.lease.is_some());
}

#[test]
fn an_approval_outlives_a_freeze_but_not_a_day() {
    let mut life = Life::begin(&Setup::plain(true)).unwrap();
    life.approve(HOUR);
    let (given, end) = (life.now, life.now.plus(60 * HOUR));
    life.claim(frozen(end));
    for hours in [2, 8, 20] {
        life.now = given.plus(hours * HOUR);
        assert!(life.is_usable(), "{hours} hours held are no hours of its own");
        life.claim(frozen(end));
    }
    let recorded = life.task.grants[0].use_by;
    assert_eq!(recorded, given.plus(21 * HOUR), "moved on in the commit that records the wait");
    assert_eq!(life.task.approval.as_ref().unwrap().use_by, Some(recorded));
    life.now = given.plus(DAY).minus(MINUTE);
    assert!(life.is_usable());
    life.now = given.plus(DAY);
    assert!(!life.is_usable(), "never beyond a day after it was given");
    life.claim(frozen(end));
    assert_eq!(life.task.grants[0].use_by, given.plus(DAY));
}

#[test]
fn an_approval_outlives_a_backlog() {
    let mut life = Life::begin(&Setup::plain(true)).unwrap();
    life.approve(HOUR);
    let given = life.now;
    for _ in 0..6 {
        life.after(life.until_due(), &BUSY).unwrap();
    }
    // The time between two checks counts too, though it is not recorded yet.
    life.now = life.now.plus(3 * HOUR);
    let waited = life.now.since(given);
    assert!(waited > 10 * HOUR && life.is_usable());
    life.claim(Authorization::Granted { note: None });
    assert_eq!(life.task.grants[0].use_by, given.plus(HOUR + waited));
}

#[test]
fn an_approval_that_ran_out_before_the_wait_stays_so() {
    let mut life = Life::begin(&Setup::plain(true)).unwrap();
    life.approve(MINUTE);
    life.now = life.now.plus(2 * MINUTE);
    let use_by = life.task.grants[0].use_by;
    life.claim(frozen(life.now.plus(HOUR)));
    life.now = life.task.resume_at.unwrap();
    assert!(!life.is_usable());
    life.claim(frozen(life.now.plus(HOUR)));
    assert_eq!(life.task.grants[0].use_by, use_by);
}

#[test]
fn a_year_of_ticks_while_waiting_for_a_person_is_not_logged() {
    for question in [false, true] {
        let mut life = Life::begin(&Setup::plain(!question)).unwrap();
        if question {
            life.claim(Authorization::Granted { note: None });
            life.end(RunResult::Blocked { reason: "which one?".into(), question: None });
        }
        let told = life.log.len();
        let end = life.now.plus(365 * DAY);
        while life.now < end {
            life.after(life.until_due().max(MINUTE), &IDLE).unwrap();
        }
        assert_eq!(life.log.len(), told, "{:?}", life.log.last());
        assert!(life.version <= told as u64 + 366, "{} writes in a year", life.version);
    }
}

/// A suspended run that is not resumed at its time is enqueued again for as long as it takes.
#[test]
fn a_suspended_run_that_is_not_resumed_is_logged_once() {
    let mut life = begin();
    life.claim(Authorization::Granted { note: None });
    life.end(RunResult::Suspended { resume_at: life.now.plus(MINUTE), note: "building".into() });
    let (told, began) = (life.log.len(), life.now);
    while life.now < began.plus(30 * DAY) {
        let wait = life.until_due();
        assert!(wait <= 6 * HOUR);
        life.after(wait, &IDLE).unwrap();
        assert!(life.task.offered_version == life.version || life.times(ChangeKind::Offered) == 1);
    }
    assert_eq!((life.log.len(), life.times(ChangeKind::Offered)), (told + 1, 1));
}

/// Another lane, the same wait: the end of the freeze still wakes the task, and its approval is
/// extended by the rest of the wait.
#[test]
fn a_deferred_task_that_changes_its_lane_keeps_waiting() {
    for reroute in [false, true] {
        let setup =
            Setup { lift: true, no_sla: false, sla_seconds: Some(600), ..Setup::plain(true) };
        let mut life = Life::begin(&setup).unwrap();
        life.approve(HOUR);
        let (given, end) = (life.now, life.now.plus(6 * HOUR));
        life.claim(frozen(end));
        let held = life.task.held.clone();
        let (resume_at, assignment) = (life.task.resume_at, life.task.assignment);
        if reroute {
            life.task.agent = Agent::Dev;
            life.after(MINUTE, &Command::Reroute { agent: Agent::Ops }).unwrap();
        } else {
            life.after(12 * MINUTE, &IDLE).unwrap();
            assert!(life.task.sla.as_ref().is_some_and(|sla| sla.lifted));
        }
        assert!(life.task.assignment > assignment, "another pointer");
        assert_eq!((&life.task.held, life.task.resume_at), (&held, resume_at));
        life.now = given.plus(5 * HOUR);
        assert!(life.is_usable(), "hours held are no hours of its own");
        life.claim(frozen(end));
        assert_eq!(life.task.grants[0].use_by, given.plus(6 * HOUR));
        assert_eq!(life.times(ChangeKind::Held), 1, "it is the same hold");
    }
}
