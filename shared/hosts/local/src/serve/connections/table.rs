//! The open connections. When all places are taken, the longest idle one gives way: active
//! callers are served however many are idle.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use watchbill_api::network;

/// One address gets at most one part in this many of all places.
const PART_OF_ADDRESS: usize = 2;
/// Faults of the same kind are logged once in this period, with their number.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// What has happened to connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionMetrics {
    pub open: usize,
    pub most: usize,
    /// Connections that got no place.
    pub refused: u64,
    /// Waiting connections that were closed for others.
    pub gave_way: u64,
    /// Connections that the system could not accept.
    pub failed_accepts: u64,
}

struct Entry {
    address: Option<IpAddr>,
    /// Its key in `waiting`, while it waits for a request.
    since: Option<u64>,
    gives_way: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<u64, Entry>,
    /// Connections that wait for a request, the longest waiting first.
    waiting: BTreeMap<u64, u64>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
    figures: ConnectionMetrics,
    logged: Option<Duration>,
    logged_accepts: Option<Duration>,
}

pub struct Table {
    most: usize,
    of_address: usize,
    inner: Mutex<Inner>,
}

impl Table {
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, of_address: most.div_ceil(PART_OF_ADDRESS), inner: Mutex::default() }
    }

    /// A place for a new connection. `address` is `None` unless it belongs to one caller.
    pub fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Duration,
    ) -> Option<ConnectionSlot> {
        let address = address.map(network);
        let mut inner = self.lock();
        let of_address = address.and_then(|address| inner.by_address.get(&address));
        let over_part = of_address.is_some_and(|held| *held >= self.of_address);
        let full = over_part || inner.open.len() >= self.most;
        if full {
            let made = inner.make_room(address.filter(|_| over_part));
            inner.figures.refused += u64::from(!made);
            inner.log_full(now, self.most);
            if !made {
                return None;
            }
        }
        let (id, since) = (inner.number(), inner.number());
        let gives_way = Arc::new(Notify::new());
        let entry = Entry { address, since: Some(since), gives_way: gives_way.clone() };
        inner.open.insert(id, entry);
        inner.waiting.insert(since, id);
        if let Some(address) = address {
            *inner.by_address.entry(address).or_default() += 1;
        }
        drop(inner);
        Some(ConnectionSlot { table: self.clone(), id, gives_way })
    }

    /// The system accepted no connection, usually because files ran out: one is closed.
    pub fn accept_failed(&self, error: &io::Error, now: Duration) {
        let mut inner = self.lock();
        inner.figures.failed_accepts += 1;
        inner.make_room(None);
        if is_due(&mut inner.logged_accepts, now) {
            let (open, failed) = (inner.open.len(), inner.figures.failed_accepts);
            tracing::error!(open, failed, "connections can't be accepted: {error}; trying again");
        }
    }

    pub fn figures(&self) -> ConnectionMetrics {
        let inner = self.lock();
        ConnectionMetrics { open: inner.open.len(), most: self.most, ..inner.figures }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code under this lock panics")
    }
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Closes the connection that has waited longest, of this address if one is given.
    fn make_room(&mut self, address: Option<IpAddr>) -> bool {
        let longest = match address {
            None => self.waiting.values().next().copied(),
            Some(_) => {
                let mut waiting = self.waiting.values();
                waiting.find(|id| self.open.get(id).is_some_and(|e| e.address == address)).copied()
            }
        };
        let closed = longest.and_then(|id| self.remove(id));
        if let Some(entry) = &closed {
            self.figures.gave_way += 1;
            entry.gives_way.notify_one();
        }
        closed.is_some()
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        if let Some(since) = entry.since {
            self.waiting.remove(&since);
        }
        if let Some(address) = entry.address
            && let Some(held) = self.by_address.get_mut(&address)
        {
            *held -= 1;
            if *held == 0 {
                self.by_address.remove(&address);
            }
        }
        Some(entry)
    }

    fn log_full(&mut self, now: Duration, most: usize) {
        if is_due(&mut self.logged, now) {
            let ConnectionMetrics { refused, gave_way, .. } = self.figures;
            tracing::warn!(
                most,
                refused,
                gave_way,
                "all connections are in use: the longest idle or the new one is closed"
            );
        }
    }
}

fn is_due(logged: &mut Option<Duration>, now: Duration) -> bool {
    let due = logged.is_none_or(|at| now.saturating_sub(at) >= LOG_PERIOD);
    if due {
        *logged = Some(now);
    }
    due
}

/// A connection's place. It is freed on drop.
pub struct ConnectionSlot {
    table: Arc<Table>,
    id: u64,
    gives_way: Arc<Notify>,
}

impl ConnectionSlot {
    /// Resolves when another connection needs the place.
    pub async fn gave_way(&self) {
        self.gives_way.notified().await;
    }

    /// Marks the connection as busy until the returned value is dropped. It does not give way.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut inner = self.table.lock();
        let since = inner.open.get_mut(&self.id).and_then(|entry| entry.since.take());
        if let Some(since) = since {
            inner.waiting.remove(&since);
        }
        Busy(self.clone())
    }

    fn wait(&self) {
        let mut inner = self.table.lock();
        let since = inner.number();
        if let Some(entry) = inner.open.get_mut(&self.id) {
            entry.since = Some(since);
            inner.waiting.insert(since, self.id);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.table.lock().remove(self.id);
    }
}

/// A request in progress on a connection.
pub struct Busy(Arc<ConnectionSlot>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([203, 0, 113, last]))
    }

    async fn has_given_way(place: &ConnectionSlot) -> bool {
        tokio::time::timeout(Duration::ZERO, place.gave_way()).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_has_waited_longest_gives_way_and_a_busy_one_never() {
        let table = Arc::new(Table::new(3));
        let places: Vec<_> =
            (1..=3).map(|n| Arc::new(table.enter(address(n), NOW).unwrap())).collect();
        let busy = places[0].busy();
        let new = Arc::new(table.enter(address(4), NOW).unwrap());
        assert!(has_given_way(&places[1]).await, "the longest idle");
        assert!(!has_given_way(&places[0]).await && !has_given_way(&places[2]).await);
        // Its request is finished: from now on it waits, and has waited for the shortest time.
        drop(busy);
        let _newer = table.enter(address(5), NOW).unwrap();
        assert!(has_given_way(&places[2]).await);
        let all: Vec<_> = [&places[0], &new].map(|place| place.busy()).into();
        let _newest = table.enter(address(6), NOW).unwrap();
        let figures = table.figures();
        assert_eq!((figures.open, figures.gave_way, figures.refused), (3, 3, 0));
        drop(all);
    }

    #[tokio::test]
    async fn with_no_idle_connection_the_new_one_is_refused() {
        let table = Arc::new(Table::new(2));
        let places: Vec<_> =
            (1..=2).map(|n| Arc::new(table.enter(address(n), NOW).unwrap())).collect();
        let busy: Vec<_> = places.iter().map(ConnectionSlot::busy).collect();
        assert!(table.enter(address(3), NOW).is_none());
        assert_eq!(table.figures().refused, 1);
        drop((busy, places));
        assert!(table.enter(address(3), NOW).is_some());
        assert_eq!(table.figures().open, 0, "a place is free when its connection ends");
    }

    #[tokio::test]
    async fn an_address_beyond_its_part_takes_from_itself() {
        let table = Arc::new(Table::new(10));
        let other = table.enter(address(1), NOW).unwrap();
        let many: Vec<_> = (0..5).map(|_| table.enter(address(2), NOW).unwrap()).collect();
        let sixth = table.enter(address(2), NOW).unwrap();
        assert!(has_given_way(&many[0]).await && !has_given_way(&other).await);
        let proxied: Vec<_> = (0..4).map(|_| table.enter(None, NOW).unwrap()).collect();
        assert_eq!((proxied.len(), table.figures().open), (4, 10));
        let places: Vec<_> = many.into_iter().skip(1).map(Arc::new).collect();
        let _busy: Vec<_> = places.iter().map(ConnectionSlot::busy).collect();
        drop(sixth);
        assert!(table.enter(address(2), NOW).is_some());
    }

    #[test]
    fn faults_are_logged_once_in_a_while() {
        let mut logged = None;
        let at = Duration::from_secs;
        let due: Vec<_> = [0, 1, 59, 60, 61, 120].map(|n| is_due(&mut logged, at(n))).into();
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
