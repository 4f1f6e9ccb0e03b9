//! Publishes the ledger's events in order and at least once. Neither a single item nor a bus
//! that is down blocks recording.
//!
//! The ledger is the outbox. A batch that the bus does not accept is retried, with all later
//! ones, until it does. If the bus accepts only some events, the other items are parked with the
//! batches that contain them, and their later events join them, so each item's events keep their
//! order. Events that the bus refuses for their content are parked at once, and so are those
//! that a reachable bus has refused repeatedly, even if there are no others for it to accept.

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

use crate::error::RecordError;
use crate::recorded::Changed;
use crate::tenant::{CLOCK_SKEW, TenantRecorder};

/// Batches published per call, so that a backlog does not delay other tenants.
const MAX_BATCHES: u64 = 64;
/// Batches searched per call for an item's events.
const MAX_SEARCHED: u64 = 256;
/// Items whose events are tried alone before the bus counts as down for the whole batch.
const MAX_PROBES: usize = 4;
/// An attempt ends after this many batches of which the bus accepted nothing: one event that is
/// never accepted may be a whole batch.
const MAX_REFUSED: usize = 4;
/// Consecutive attempts without progress until the events that a reachable bus refused are
/// parked by item: about a minute for a busy tenant, five for a quiet one. Otherwise one event
/// would block all others where few are wanted.
const MAX_ATTEMPTS: u32 = 6;
/// The position is saved after this many batches; a call that is killed resumes there.
const KEEP_INTERVAL: u64 = 8;
/// Backoff while the bus is down, first and longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A tenant's publishing state.
#[derive(Default)]
pub struct Publishing {
    failures: u32,
    /// The bus is not retried before this time on the monotonic clock.
    until: Duration,
    /// The publish position that a new recorder would find.
    pub(crate) kept: u64,
}

/// Why the bus did not accept all events.
struct BusRefusal {
    reason: String,
    down: bool,
    /// These were refused for their content; all others were accepted.
    refused: Vec<EventId>,
}

impl BusRefusal {
    fn note(self, sent: &mut PublishResult) {
        (sent.reason, sent.down) = (self.reason, self.down);
    }
}

/// The events of one item in a batch.
struct ItemEvents {
    key: Arc<str>,
    first: u64,
    last: u64,
    events: Vec<Event>,
}

impl ItemEvents {
    fn holds_any(&self, ids: &[EventId]) -> bool {
        self.events.iter().any(|event| ids.contains(&event.event_id))
    }
}

/// The result of publishing a batch.
#[derive(Default)]
struct PublishResult {
    /// Whether the bus accepted anything; `None` if it got no events.
    accepted: Option<bool>,
    /// Items, with their last version, whose events were not published.
    kept: Vec<(Arc<str>, u64)>,
    reason: String,
    /// The bus was unreachable, which is no reason to park events.
    down: bool,
}

/// A batch with unpublished events.
struct UnpublishedBatch {
    seq: u64,
    kept: Vec<(Arc<str>, u64)>,
}

/// The batches processed after the publish position.
#[derive(Default)]
struct PendingBatches {
    batches: Vec<UnpublishedBatch>,
    /// Batches of which the bus accepted nothing.
    refusals: usize,
    down: bool,
    /// The last batch processed.
    last_seq: u64,
    reason: String,
}

impl PendingBatches {
    fn add(&mut self, seq: u64, sent: PublishResult) {
        self.last_seq = seq;
        self.down |= sent.down;
        self.refusals += usize::from(sent.accepted == Some(false));
        if !sent.reason.is_empty() {
            self.reason = sent.reason;
        }
        if !sent.kept.is_empty() {
            self.batches.push(UnpublishedBatch { seq, kept: sent.kept });
        }
    }

    fn holds(&self, item: &Arc<str>) -> bool {
        self.batches.iter().any(|batch| batch.kept.iter().any(|(kept, _)| kept == item))
    }
}

impl TenantRecorder {
    /// Whether everything recorded is published or parked.
    pub fn is_published(&self) -> bool {
        self.head.published >= self.head.seq
    }

    /// Clears the backoff.
    pub fn publish_now(&mut self) {
        self.publishing.until = Duration::ZERO;
    }

    /// Publishes recorded batches as far as the bus accepts them: at least one, more until
    /// `until` on the monotonic clock. `newest` saves reading the last batch.
    pub async fn publish(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        newest: Option<&Batch>,
        until: Duration,
    ) -> Result<(), RecordError> {
        if self.is_published() || core.clock().monotonic() < self.publishing.until {
            return Ok(());
        }
        let shared = core.clock().monotonic() < self.shared_until;
        if shared && self.head.published + 1 < self.head.seq {
            // Other recorders have usually published their own batches by now.
            self.find_place(core).await?;
        }
        let mut pending = PendingBatches::default();
        let first = self.head.published + 1;
        for seq in first..=self.head.seq.min(self.head.published + MAX_BATCHES) {
            if seq > first && core.clock().monotonic() >= until {
                break;
            }
            let sent = self.send_batch(core, bus, newest, seq, &pending, until).await?;
            let accepted = sent.accepted;
            pending.add(seq, sent);
            // A batch without wanted events does not show that the bus works.
            if accepted == Some(true) || pending.refusals == 0 {
                self.reached(core, &mut pending).await?;
            }
            if accepted == Some(true) {
                self.publishing.failures = 0;
            }
            if pending.refusals >= MAX_REFUSED {
                break;
            }
        }
        self.end_try(core, pending).await?;
        if shared {
            // At once: other recorders are about to read it.
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
        pending: &PendingBatches,
        until: Duration,
    ) -> Result<PublishResult, RecordError> {
        let read;
        let batch = match newest.filter(|batch| batch.seq == seq) {
            Some(batch) => Some(batch),
            None => {
                read = self.ledger.batch(seq).await?;
                read.as_ref()
            }
        };
        match batch {
            Some(batch) => self.send(core, bus, batch, pending, until).await,
            None => Ok(PublishResult::default()),
        }
    }

    /// Advances the position over all processed batches and parks the items that were not
    /// published.
    async fn reached(
        &mut self,
        core: &Core,
        pending: &mut PendingBatches,
    ) -> Result<(), RecordError> {
        for refused in pending.batches.drain(..) {
            self.park_unsent(core, &refused, &pending.reason).await?;
        }
        self.head.published = pending.last_seq;
        self.note_sent();
        *pending = PendingBatches::default();
        if self.head.published >= self.publishing.kept + KEEP_INTERVAL {
            self.keep_place(core).await;
        }
        Ok(())
    }

    async fn end_try(
        &mut self,
        core: &Core,
        mut pending: PendingBatches,
    ) -> Result<(), RecordError> {
        if pending.refusals > 0 {
            let failures = self.publishing.failures.saturating_add(1);
            if !pending.down && failures >= MAX_ATTEMPTS {
                self.reached(core, &mut pending).await?;
                // If the next ones are refused too, they are parked sooner.
                self.publishing.failures = MAX_ATTEMPTS / 2;
            } else {
                let wait = BACKOFF.0.saturating_mul(1 << self.publishing.failures.min(16));
                self.publishing.until = core.clock().monotonic() + wait.min(BACKOFF.1);
                self.publishing.failures = failures;
            }
        }
        if !self.is_published() {
            if self.head.published > self.publishing.kept {
                self.keep_place(core).await;
            }
            // Requests a later attempt, also in case the tenant stays quiet.
            let reason = match &*pending.reason {
                "" => "more batches are to be published",
                reason => reason,
            };
            core.parking().hold_events(&self.tenant, reason).await?;
        }
        Ok(())
    }

    /// Sends a batch's events to the bus, except those of items with earlier events waiting.
    async fn send(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        batch: &Batch,
        pending: &PendingBatches,
        until: Duration,
    ) -> Result<PublishResult, RecordError> {
        let outgoing = self.outgoing(bus, batch);
        let held = self.held(core, &outgoing).await?;
        let waits = |key: &Arc<str>| held.contains(key) || pending.holds(key);
        let (wait, send): (Vec<_>, Vec<_>) = outgoing.into_iter().partition(|of| waits(&of.key));
        let mut sent = PublishResult::default();
        sent.kept.extend(wait.into_iter().map(|of| (of.key, of.last)));
        if !send.is_empty() {
            self.put(core, bus, send, &mut sent, until).await;
        }
        let now = core.clock().now();
        for entry in &batch.entries {
            let (key, version) = self.place_of(entry);
            if sent.accepted != Some(false) && !sent.kept.iter().any(|(kept, _)| *kept == key) {
                self.recent.mark_done(&key, version, now);
            }
        }
        Ok(sent)
    }

    /// Sends all events at once; if that fails, each item's alone, while there is time.
    async fn put(
        &self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        send: Vec<ItemEvents>,
        sent: &mut PublishResult,
        until: Duration,
    ) {
        let all: Vec<Event> = send.iter().flat_map(|of| of.events.clone()).collect();
        match self.put_events(bus, &all).await {
            Ok(()) => {
                sent.accepted = Some(true);
                return;
            }
            // A final response: retrying would not change it.
            Err(why) if !why.refused.is_empty() => {
                sent.accepted = Some(true);
                let refused = |of: &ItemEvents| of.holds_any(&why.refused);
                sent.kept.extend(send.into_iter().filter(refused).map(|of| (of.key, of.last)));
                why.note(sent);
                return;
            }
            Err(why) => why.note(sent),
        }
        let (mut accepted, mut failed) = (false, 0);
        for of in send {
            let tried = accepted || failed < MAX_PROBES;
            if tried && core.clock().monotonic() < until {
                match self.put_events(bus, &of.events).await {
                    Ok(()) => {
                        accepted = true;
                        continue;
                    }
                    Err(why) => {
                        accepted |= !why.refused.is_empty();
                        why.note(sent);
                    }
                }
                failed += 1;
            }
            sent.kept.push((of.key, of.last));
        }
        sent.accepted = Some(accepted);
    }

    /// A panic of a subscriber in this process counts as a refusal.
    async fn put_events(&self, bus: &Arc<dyn Bus>, events: &[Event]) -> Result<(), BusRefusal> {
        match AssertUnwindSafe(bus.publish(&self.tenant, events)).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let (reason, down) = (error.to_string(), matches!(error, BusError::Down { .. }));
                let refused = match error {
                    BusError::Refused { events, .. } => events,
                    _ => Vec::new(),
                };
                Err(BusRefusal { reason, down, refused })
            }
            Err(panic) => {
                let (reason, refused) = (RecordError::panicked(&*panic).to_string(), Vec::new());
                Err(BusRefusal { reason, down: false, refused })
            }
        }
    }

    /// The batch's wanted events by item, in batch order. Most events have no subscriber here,
    /// and building an event costs more than checking.
    fn outgoing(&self, bus: &Arc<dyn Bus>, batch: &Batch) -> Vec<ItemEvents> {
        let wanted = |event_type: &EventType| bus.wants(&self.tenant, event_type);
        let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut outgoing: Vec<ItemEvents> = Vec::new();
        for entry in &batch.entries {
            let events = entry.events_where(wanted);
            if events.is_empty() {
                continue;
            }
            let (key, version) = self.place_of(entry);
            let place = *places.entry(key.clone()).or_insert_with(|| {
                outgoing.push(ItemEvents {
                    key,
                    first: version,
                    last: version,
                    events: Vec::new(),
                });
                outgoing.len() - 1
            });
            outgoing[place].last = version;
            outgoing[place].events.extend(events);
        }
        outgoing
    }

    /// The items with parked earlier events.
    async fn held(
        &self,
        core: &Core,
        outgoing: &[ItemEvents],
    ) -> Result<Vec<Arc<str>>, RecordError> {
        let unsure = |of: &&ItemEvents| !self.recent.is_settled_before(&of.key, of.first);
        let keys: Vec<Arc<str>> = outgoing.iter().filter(unsure).map(|of| of.key.clone()).collect();
        let parked = core.parking().find(&self.tenant, &keys).await?;
        let held = parked.into_iter().flatten().map(|parked| parked.value);
        Ok(held.filter(ParkedKey::holds_events).map(|of| of.partition).collect())
    }

    async fn park_unsent(
        &mut self,
        core: &Core,
        refused: &UnpublishedBatch,
        reason: &str,
    ) -> Result<(), RecordError> {
        refused.kept.iter().for_each(|(key, _)| self.recent.note_parked(key));
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

    /// Searches for the batches with an item's unpublished events when they are unknown, from
    /// its first change on; a bounded number per call, at least one.
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
        // Later batches are not published yet, and will wait behind this item.
        let mut end = self.head.published.min(from + MAX_SEARCHED - 1);
        for seq in from..=end {
            if seq > from && core.clock().monotonic() >= until {
                end = seq - 1;
                break;
            }
            // An unreadable batch can't be published either.
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

    /// No change is recorded before it happened. For a deleted item nothing is known.
    async fn first_batch_of(&self, core: &Core, partition: &Arc<str>) -> Result<u64, ServiceError> {
        let head = Key::new(partition.clone(), HEAD);
        let item = core.context().readable(core.store().get(&head).await)?.ok().flatten();
        let began = item.and_then(|item| Changed { item: &item, first: 1 }.read().ok()?.began());
        let first = match began {
            None => Some(1),
            Some(began) => self.ledger.first_since(began.minus(CLOCK_SKEW)).await?,
        };
        Ok(first.unwrap_or(self.head.seq + 1))
    }

    /// Publishes an item's parked events in order, at least one batch. Returns how many batches
    /// are done, and why the next one failed unless the time was over.
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
                if let Err(why) = self.put_events(bus, &of.events).await {
                    return Ok((done, Some(why.reason)));
                }
            }
        }
        Ok((parked.unsent.len(), None))
    }
}
