//! In: the peer's channels. Events go into the bundle where that is on; in any case what is
//! said there wakes the other directions.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_domain::EventId;
use watchbill_wire::peer::{Heard, Listening, PeerEvent, PeerListener};

use crate::Sides;
use crate::drive::{Direction, Pace, Trouble};
use crate::home::{EventOfPeer, HomeError};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::mine::Mine;
use crate::report::Figures;
use crate::settings::Settings;
use crate::tellers::{Teller, Tellers};

/// How long it is listened before the bridge looks whether it shall end.
const LISTEN: Duration = Duration::from_millis(500);
/// Ids that are remembered: an event is said twice, on its own channel and on that of all.
const REMEMBERED: usize = 10_000;

/// Whom the channels wake.
#[derive(Clone, Default)]
pub(crate) struct Wakes {
    pub drain: Arc<Notify>,
    pub feed: Arc<Notify>,
    pub domains: Arc<Notify>,
}

pub(crate) struct In {
    sides: Sides,
    figures: Arc<Figures>,
    settings: Arc<Settings>,
    wakes: Wakes,
    listener: Option<Box<dyn PeerListener>>,
    seen: Seen,
    tellers: Tellers,
    /// Heard just now.
    held: Option<PeerEvent>,
    /// To be carried in, in this order.
    ready: VecDeque<PeerEvent>,
}

impl In {
    pub fn new(
        sides: Sides,
        figures: Arc<Figures>,
        settings: Arc<Settings>,
        mine: Mine,
        wakes: Wakes,
    ) -> Self {
        Self {
            tellers: Tellers::new(sides.clone(), mine),
            sides,
            figures,
            settings,
            wakes,
            listener: None,
            seen: Seen::default(),
            held: None,
            ready: VecDeque::new(),
        }
    }

    /// Whether there is anything to listen for.
    pub fn is_wanted(settings: &Settings) -> bool {
        settings.events_in
            || settings.drain.is_some()
            || !settings.feed.is_empty()
            || !settings.domains.is_empty()
    }

    fn listening(&self) -> Listening {
        let settings = &self.settings;
        Listening {
            types: settings.drain.is_some() || !settings.feed.is_empty(),
            events: settings.events_in,
            domains: settings.domains.iter().cloned().collect(),
        }
    }

    fn hear(&mut self, heard: Heard) {
        let (channel, event_type, event) = match heard {
            Heard::Notice => return self.wakes.domains.notify_one(),
            Heard::Event { channel, event_type, event } => (channel, event_type, event),
        };
        match event_type.as_str() {
            "task.created" | "task.assigned" => self.wakes.drain.notify_one(),
            other if other.starts_with("task.") => self.wakes.feed.notify_one(),
            _ => {}
        }
        match event {
            Ok(Some(event)) if self.seen.is_new(&event.id) => self.held = Some(event),
            Ok(_) => {}
            Err(reason) => self.refuse(&channel, &reason),
        }
    }

    fn refuse(&self, what: &str, reason: &str) {
        self.figures.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("what was said on {what} is not taken as an event: {reason}");
    }

    /// What was heard is to be carried in, or is told here anyway, or waits until that is known.
    async fn sort_out(&mut self) -> Result<(), Trouble> {
        self.ready.extend(self.tellers.decided().await?);
        let Some(held) = &self.held else { return Ok(()) };
        let teller = self.tellers.of(held).await?;
        let Some(held) = self.held.take() else { return Ok(()) };
        match teller {
            Teller::Bundle => {}
            Teller::Peer => self.ready.push_back(held),
            Teller::Open => self.tellers.wait(held),
        }
        Ok(())
    }

    /// Into the bundle with what is ready.
    async fn carry_in(&mut self) -> Result<(), Trouble> {
        while let Some(event) = self.ready.front().cloned() {
            let PeerEvent { id, mut event, peer_task, hops } = event;
            if let Some(name) = peer_task.filter(|name| is_ambiguous(name)) {
                let known = tasks_of_peer(&*self.sides.home, &[name]).await?.pop().flatten();
                event.task_id = known.map(|task| task.task_id).or(event.task_id);
            }
            let event_type = event.event_type.to_string();
            match self.sides.home.publish(EventOfPeer { id, event, hops }).await {
                Ok(()) => {
                    self.figures.events_in.fetch_add(1, Ordering::Relaxed);
                }
                Err(error @ HomeError::Retry { .. }) => return Err(error.into()),
                Err(error) => self.refuse(&event_type, &error.to_string()),
            }
            self.ready.pop_front();
        }
        Ok(())
    }
}

#[async_trait]
impl Direction for In {
    fn name(&self) -> &'static str {
        "in"
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        self.sort_out().await?;
        self.carry_in().await?;
        let mut listener = match self.listener.take() {
            Some(listener) => listener,
            None => self.sides.peer.listen(&self.listening()).await?,
        };
        let heard = tokio::select! {
            heard = listener.next() => Some(heard?),
            // So that an end is seen.
            () = self.sides.clock.sleep(LISTEN) => None,
        };
        self.listener = Some(listener);
        if let Some(heard) = heard {
            self.hear(heard);
        }
        Ok(Pace::On)
    }
}

/// The last ids that came.
#[derive(Default)]
struct Seen {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Seen {
    fn is_new(&mut self, id: &EventId) -> bool {
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id.clone());
        if self.order.len() > REMEMBERED {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.ids.remove(&oldest));
        }
        true
    }
}
