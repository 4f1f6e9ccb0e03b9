//! Publishes what the ledger holds: in its order, at least once, and without one item or a bus
//! that takes nothing holding up what is recorded.
//!
//! The ledger is the outbox. A batch whose events the bus does not take is tried again, with all
//! after it, until it does; recording goes on meanwhile. Where the bus takes some events and not
//! others, those items are parked with the batches they stand in, and their later events join
//! them, so that each item's events keep their order. What the bus refuses for what it holds is parked
//! at once. So are those that a bus that answers has refused again and again, also where there are
//! no others for it to take.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use watchbill_core::ledger::Batch;
use watchbill_core::ports::{Bus, BusError, Key};
use watchbill_core::repo::{HEAD, ParkedKey};
use watchbill_core::service::{Core, ServiceError, ToPark};
use watchbill_domain::{Event, EventId, EventType};

use crate::fault::Fault;
use crate::recorded::Changed;
use crate::tenant::{SKEW, TenantRecorder};

/// Batches that are published in one call, so that a backlog does not hold up other tenants.
const MAX_BATCHES: u64 = 64;
/// Batches that are looked through in one call for events of an item.
const MAX_SEARCHED: u64 = 256;
/// Items whose events are tried alone before the bus counts as down for the whole batch.
const MAX_PROBES: usize = 4;
/// Batches of which the bus took nothing that it was offered, until a try ends: a single event
/// that it never takes may be a whole batch.
const MAX_REFUSED: usize = 4;
/// Tries in a row that got nothing out, until what a bus that answers has refused is parked by
/// item: a minute of a busy tenant's, five of a quiet one's. Without it one event holds up all
/// others where few are wanted.
const MAX_TRIES: u32 = 6;
/// The place is kept after this many batches: a call that is ended before its time begins again
/// there.
const KEEP_EVERY: u64 = 8;
/// Until a bus that is down is tried again, doubled up to the most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How publishing stands for one tenant.
#[derive(Default)]
pub struct Publishing {
    failures: u32,
    /// The bus is not tried before this, on the monotonic clock.
    until: Duration,
    /// Up to which batch a new recorder would find that it was published.
    pub(crate) kept: u64,
}

/// Why the bus did not take all of what it was offered.
struct NotTaken {
    reason: String,
    down: bool,
    /// These are refused for what they hold, and all others were taken.
    refused: Vec<EventId>,
}

impl NotTaken {
    fn note(self, sent: &mut Sent) {
        (sent.reason, sent.down) = (self.reason, self.down);
    }
}

/// The events of one item in a batch.
struct Outgoing {
    key: Arc<str>,
    first: u64,
    last: u64,
    events: Vec<Event>,
}

impl Outgoing {
    fn holds_any(&self, ids: &[EventId]) -> bool {
        self.events.iter().any(|event| ids.contains(&event.event_id))
    }
}

/// What became of a batch.
#[derive(Default)]
struct Sent {
    /// Whether the bus took anything; none where it was not asked.
    took: Option<bool>,
    /// Items, with their last version, whose events did not go out.
    kept: Vec<(Arc<str>, u64)>,
    reason: String,
    /// The bus could not be reached: that says nothing of the events.
    down: bool,
}

/// A batch of which events did not go out.
struct Refused {
    seq: u64,
    kept: Vec<(Arc<str>, u64)>,
}

/// What was looked at beyond what is published.
#[derive(Default)]
struct Withheld {
    batches: Vec<Refused>,
    /// Batches of which the bus took nothing that it was offered.
    refusals: usize,
    down: bool,
    /// The last batch that was looked at.
    looked: u64,
    reason: String,
}

impl Withheld {
    fn add(&mut self, seq: u64, sent: Sent) {
        self.looked = seq;
        self.down |= sent.down;
        self.refusals += usize::from(sent.took == Some(false));
        if !sent.reason.is_empty() {
            self.reason = sent.reason;
        }
        if !sent.kept.is_empty() {
            self.batches.push(Refused { seq, kept: sent.kept });
        }
    }

    fn holds(&self, item: &Arc<str>) -> bool {
        self.batches.iter().any(|batch| batch.kept.iter().any(|(kept, _)| kept == item))
    }
}

impl TenantRecorder {
    /// Whether everything that is recorded was published, or is parked.
    pub fn is_published(&self) -> bool {
        self.head.published >= self.head.seq
    }

    /// Tries again at once, whatever it was told before.
    pub fn publish_now(&mut self) {
        self.publishing.until = Duration::ZERO;
    }

    /// Publishes what is recorded and not published yet, as far as the bus takes it, one batch at
    /// least and the others until a moment on the monotonic clock. `newest` saves reading the last
    /// batch.
    pub async fn publish(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        newest: Option<&Batch>,
        until: Duration,
    ) -> Result<(), Fault> {
        if self.is_published() || core.clock().monotonic() < self.publishing.until {
            return Ok(());
        }
        let shared = core.clock().monotonic() < self.shared_until;
        if shared && self.head.published + 1 < self.head.seq {
            // What others appended they mostly have sent by now.
            self.find_place(core).await?;
        }
        let mut withheld = Withheld::default();
        let first = self.head.published + 1;
        for seq in first..=self.head.seq.min(self.head.published + MAX_BATCHES) {
            if seq > first && core.clock().monotonic() >= until {
                break;
            }
            let sent = self.send_batch(core, bus, newest, seq, &withheld, until).await?;
            let took = sent.took;
            withheld.add(seq, sent);
            // Batches of which nothing is wanted say nothing of the bus.
            if took == Some(true) || withheld.refusals == 0 {
                self.reached(core, &mut withheld).await?;
            }
            if took == Some(true) {
                self.publishing.failures = 0;
            }
            if withheld.refusals >= MAX_REFUSED {
                break;
            }
        }
        self.end_try(core, withheld).await?;
        if shared {
            // At once: others are about to look.
            self.keep_place_if_unknown(core).await;
        }
        Ok(())
    }

    async fn send_batch(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        newest: Option<&Batch>,
        seq: u64,
        withheld: &Withheld,
        until: Duration,
    ) -> Result<Sent, Fault> {
        let read;
        let batch = match newest.filter(|batch| batch.seq == seq) {
            Some(batch) => Some(batch),
            None => {
                read = self.ledger.batch(seq).await?;
                read.as_ref()
            }
        };
        match batch {
            Some(batch) => self.send(core, bus, batch, withheld, until).await,
            None => Ok(Sent::default()),
        }
    }

    /// All that was looked at is published, but for items that are parked with it.
    async fn reached(&mut self, core: &Core, withheld: &mut Withheld) -> Result<(), Fault> {
        for refused in withheld.batches.drain(..) {
            self.park_unsent(core, &refused, &withheld.reason).await?;
        }
        self.head.published = withheld.looked;
        self.note_sent();
        *withheld = Withheld::default();
        if self.head.published >= self.publishing.kept + KEEP_EVERY {
            self.keep_place(core).await;
        }
        Ok(())
    }

    async fn end_try(&mut self, core: &Core, mut withheld: Withheld) -> Result<(), Fault> {
        if withheld.refusals > 0 {
            let failures = self.publishing.failures.saturating_add(1);
            if !withheld.down && failures >= MAX_TRIES {
                self.reached(core, &mut withheld).await?;
                // If the next are refused as well, that is believed sooner.
                self.publishing.failures = MAX_TRIES / 2;
            } else {
                let wait = WAIT.0.saturating_mul(1 << self.publishing.failures.min(16));
                self.publishing.until = core.clock().monotonic() + wait.min(WAIT.1);
                self.publishing.failures = failures;
            }
        }
        if !self.is_published() {
            if self.head.published > self.publishing.kept {
                self.keep_place(core).await;
            }
            // Somebody comes back to it, also where the tenant stays quiet.
            let reason = match &*withheld.reason {
                "" => "more is to be published",
                reason => reason,
            };
            core.parking().hold_events(&self.tenant, reason).await?;
        }
        Ok(())
    }

    /// Offers a batch's events to the bus, but for those of items of which earlier ones wait.
    async fn send(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        batch: &Batch,
        withheld: &Withheld,
        until: Duration,
    ) -> Result<Sent, Fault> {
        let outgoing = self.outgoing(bus, batch);
        let held = self.held(core, &outgoing).await?;
        let waits = |key: &Arc<str>| held.contains(key) || withheld.holds(key);
        let (wait, send): (Vec<_>, Vec<_>) = outgoing.into_iter().partition(|of| waits(&of.key));
        let mut sent = Sent::default();
        sent.kept.extend(wait.into_iter().map(|of| (of.key, of.last)));
        if !send.is_empty() {
            self.offer(core, bus, send, &mut sent, until).await;
        }
        let now = core.clock().now();
        for entry in &batch.entries {
            let (key, version) = self.place_of(entry);
            if sent.took != Some(false) && !sent.kept.iter().any(|(kept, _)| *kept == key) {
                self.recent.settle(&key, version, now);
            }
        }
        Ok(sent)
    }

    /// All at once; where that fails, each item's alone, as far as there is time.
    async fn offer(
        &self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        send: Vec<Outgoing>,
        sent: &mut Sent,
        until: Duration,
    ) {
        let all: Vec<Event> = send.iter().flat_map(|of| of.events.clone()).collect();
        match self.offer_events(bus, &all).await {
            Ok(()) => {
                sent.took = Some(true);
                return;
            }
            // The bus has answered for good: nothing more is waited for.
            Err(why) if !why.refused.is_empty() => {
                sent.took = Some(true);
                let refused = |of: &Outgoing| of.holds_any(&why.refused);
                sent.kept.extend(send.into_iter().filter(refused).map(|of| (of.key, of.last)));
                why.note(sent);
                return;
            }
            Err(why) => why.note(sent),
        }
        let (mut took, mut failed) = (false, 0);
        for of in send {
            let tried = took || failed < MAX_PROBES;
            if tried && core.clock().monotonic() < until {
                match self.offer_events(bus, &of.events).await {
                    Ok(()) => {
                        took = true;
                        continue;
                    }
                    Err(why) => {
                        took |= !why.refused.is_empty();
                        why.note(sent);
                    }
                }
                failed += 1;
            }
            sent.kept.push((of.key, of.last));
        }
        sent.took = Some(took);
    }

    /// A subscriber in this process may break off over an event: that is an answer too.
    async fn offer_events(&self, bus: &Arc<dyn Bus>, events: &[Event]) -> Result<(), NotTaken> {
        match AssertUnwindSafe(bus.publish(&self.tenant, events)).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let (reason, down) = (error.to_string(), matches!(error, BusError::Down { .. }));
                let refused = match error {
                    BusError::Refused { events, .. } => events,
                    _ => Vec::new(),
                };
                Err(NotTaken { reason, down, refused })
            }
            Err(panic) => {
                let (reason, refused) = (Fault::panicked(&*panic).to_string(), Vec::new());
                Err(NotTaken { reason, down: false, refused })
            }
        }
    }

    /// The batch's wanted events by item, in the order of the batch. Most events interest
    /// nobody here, and making one costs more than asking.
    fn outgoing(&self, bus: &Arc<dyn Bus>, batch: &Batch) -> Vec<Outgoing> {
        let wanted = |event_type: &EventType| bus.wants(&self.tenant, event_type);
        let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut outgoing: Vec<Outgoing> = Vec::new();
        for entry in &batch.entries {
            let events = entry.events_where(wanted);
            if events.is_empty() {
                continue;
            }
            let (key, version) = self.place_of(entry);
            let place = *places.entry(key.clone()).or_insert_with(|| {
                outgoing.push(Outgoing { key, first: version, last: version, events: Vec::new() });
                outgoing.len() - 1
            });
            outgoing[place].last = version;
            outgoing[place].events.extend(events);
        }
        outgoing
    }

    /// Items of which earlier events are parked.
    async fn held(&self, core: &Core, outgoing: &[Outgoing]) -> Result<Vec<Arc<str>>, Fault> {
        let unsure = |of: &&Outgoing| !self.recent.is_settled_before(&of.key, of.first);
        let keys: Vec<Arc<str>> = outgoing.iter().filter(unsure).map(|of| of.key.clone()).collect();
        let parked = core.parking().find(&self.tenant, &keys).await?;
        let held = parked.into_iter().flatten().map(|parked| parked.value);
        Ok(held.filter(ParkedKey::holds_events).map(|of| of.partition).collect())
    }

    async fn park_unsent(
        &mut self,
        core: &Core,
        refused: &Refused,
        reason: &str,
    ) -> Result<(), Fault> {
        refused.kept.iter().for_each(|(key, _)| self.recent.unsettle(key));
        let to_park = |(key, last): &(Arc<str>, u64)| ToPark {
            partition: key.clone(),
            first: None,
            last: *last,
            unsent: Some(refused.seq),
        };
        let all: Vec<ToPark> = refused.kept.iter().map(to_park).collect();
        let reason = if reason.is_empty() { "earlier events are parked" } else { reason };
        Ok(core.parking().park(&self.tenant, &all, reason).await?)
    }

    /// Looks for the batches that hold events of an item of which it is not known what is still
    /// to be sent, from its first change on; so many in one call, and one at least.
    pub async fn find_unsent(
        &self,
        core: &Core,
        parked: &mut ParkedKey,
        until: Duration,
    ) -> Result<(), ServiceError> {
        let Some(from) = parked.unsent_from else { return Ok(()) };
        let from = match from {
            0 => self.first_batch_of(core, &parked.partition).await?,
            from => from,
        };
        // What comes after is not published yet, and waits behind this item when it is.
        let mut end = self.head.published.min(from + MAX_SEARCHED - 1);
        for seq in from..=end {
            if seq > from && core.clock().monotonic() >= until {
                end = seq - 1;
                break;
            }
            // From one that can't be read nothing can be sent either.
            let Some(batch) =
                core.context().past_unreadable(self.ledger.batch(seq).await)?.flatten()
            else {
                continue;
            };
            if batch.entries.iter().any(|entry| self.place_of(entry).0 == parked.partition)
                && let Err(place) = parked.unsent.binary_search(&seq)
            {
                parked.unsent.insert(place, seq);
            }
        }
        parked.unsent_from = (end < self.head.published).then_some(end + 1);
        Ok(())
    }

    /// No change of an item is recorded before it happened. Of an item that is gone nothing is
    /// known.
    async fn first_batch_of(&self, core: &Core, partition: &Arc<str>) -> Result<u64, ServiceError> {
        let head = Key::new(partition.clone(), HEAD);
        let item = core.context().readable(core.store().get(&head).await)?.ok().flatten();
        let began = item.and_then(|item| Changed { item: &item, first: 1 }.read().ok()?.began());
        let first = match began {
            None => Some(1),
            Some(began) => self.ledger.first_since(began.minus(SKEW)).await?,
        };
        Ok(first.unwrap_or(self.head.seq + 1))
    }

    /// Sends the parked events of one item, in order, of one batch at least. Answers how many
    /// batches of them are done, and why the next is not, unless its time was over.
    pub async fn resend(
        &self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        parked: &ParkedKey,
        until: Duration,
    ) -> Result<(usize, Option<String>), ServiceError> {
        for (done, seq) in parked.unsent.iter().enumerate() {
            if done > 0 && core.clock().monotonic() >= until {
                return Ok((done, None));
            }
            let Some(batch) = self.ledger.batch(*seq).await? else { continue };
            let mut outgoing = self.outgoing(bus, &batch);
            outgoing.retain(|of| of.key == parked.partition);
            for of in outgoing {
                if let Err(why) = self.offer_events(bus, &of.events).await {
                    return Ok((done, Some(why.reason)));
                }
            }
        }
        Ok((parked.unsent.len(), None))
    }
}
