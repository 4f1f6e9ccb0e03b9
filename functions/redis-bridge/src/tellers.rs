//! Who tells of a task's life: the bundle, where it keeps the task; else the peer's programs.
//! What both would say is said once.

use std::collections::VecDeque;
use std::time::Duration;

use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::peer::{Origin, PeerEvent, ReadTask};

use crate::Sides;
use crate::drive::Trouble;
use crate::ids::tasks_of_peer;
use crate::mine::Mine;

/// What the bundle says of each of its tasks, and the peer's programs of each of theirs.
const OF_A_LIFE: &[&str] = &[
    "task.created",
    "task.assigned",
    "task.started",
    "task.completed",
    "task.failed",
    "task.cancelled",
];
/// Between two looks whether a task has been taken, and by whom.
const LOOK: Duration = Duration::from_millis(500);
/// For how long that is waited for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Events of tasks that wait; beyond, the oldest are taken in.
const MAX_WAITING: usize = 10_000;
/// Looked at in one go.
const PAGE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    Bundle,
    Peer,
    /// Whoever takes the task out of the queue.
    Open,
}

pub(crate) struct Tellers {
    sides: Sides,
    mine: Mine,
    /// By the time of the next look.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    event: PeerEvent,
    since: Duration,
    look_at: Duration,
}

impl Tellers {
    pub fn new(sides: Sides, mine: Mine) -> Self {
        Self { sides, mine, waiting: VecDeque::new() }
    }

    /// Who tells what an event says.
    pub async fn of(&self, event: &PeerEvent) -> Result<Teller, Trouble> {
        let of_a_life = OF_A_LIFE.contains(&event.event.event_type.as_str());
        match event.peer_task.as_ref().filter(|_| of_a_life) {
            None => Ok(Teller::Peer),
            Some(name) => {
                let told = self.look(std::slice::from_ref(name)).await?;
                Ok(told.first().copied().unwrap_or(Teller::Peer))
            }
        }
    }

    /// Keeps an event until it is known who tells it.
    pub fn wait(&mut self, event: PeerEvent) {
        let now = self.sides.clock.monotonic();
        self.waiting.push_back(Waiting { event, since: now, look_at: now + LOOK });
    }

    /// Of those that wait, the ones that are the peer's to tell.
    pub async fn decided(&mut self) -> Result<Vec<PeerEvent>, Trouble> {
        let now = self.sides.clock.monotonic();
        let due = self.waiting.iter().take(PAGE).take_while(|one| one.look_at <= now).count();
        let over = self.waiting.len().saturating_sub(MAX_WAITING).min(PAGE);
        let looked_at = due.max(over);
        let name = |one: &Waiting| one.event.peer_task.clone().unwrap_or_default();
        let names: Vec<String> = self.waiting.iter().take(looked_at).map(name).collect();
        let tellers = self.look(&names).await?;
        let mut decided = Vec::new();
        let looked_at: Vec<Waiting> = self.waiting.drain(..looked_at).collect();
        for (at, (mut one, teller)) in looked_at.into_iter().zip(tellers).enumerate() {
            let waits_on = at >= over && now.saturating_sub(one.since) < MAX_WAIT;
            match teller {
                Teller::Bundle => {}
                Teller::Open if waits_on => {
                    one.look_at = now + LOOK;
                    self.waiting.push_back(one);
                }
                Teller::Open | Teller::Peer => decided.push(one.event),
            }
        }
        Ok(decided)
    }

    async fn look(&self, names: &[String]) -> Result<Vec<Teller>, Trouble> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.sides.peer.read_tasks(names).await?;
        // After it: what was taken before that look is known here by now.
        let here = tasks_of_peer(&*self.sides.home, names).await?;
        let mut tellers = Vec::with_capacity(names.len());
        for (there, here) in there.iter().zip(&here) {
            tellers.push(self.judge(there.as_ref(), here.as_ref()).await?);
        }
        Ok(tellers)
    }

    async fn judge(
        &self,
        there: Option<&ReadTask>,
        here: Option<&TaskView>,
    ) -> Result<Teller, Trouble> {
        if here.is_some_and(|task| self.sides.peer.origin(task) == Some(Origin::Queue)) {
            return Ok(Teller::Bundle);
        }
        let Some(there) = there else { return Ok(Teller::Peer) };
        if there.fed.is_some() {
            return Ok(Teller::Bundle);
        }
        let waits = matches!(Status::parse(&there.status), Ok(Status::Pending | Status::Assigned));
        let to = there.to.filter(|_| waits && self.mine.takes_any());
        Ok(match to {
            Some(to) if self.mine.is_taken(&to).await? => Teller::Open,
            _ => Teller::Peer,
        })
    }
}
