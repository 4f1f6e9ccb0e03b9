//! Chooses the next message: by priority, by shares, by tenants in turn.

use std::collections::{HashMap, VecDeque};

use watchbill_core::ports::LaneMessage;
use watchbill_domain::{Priority, TenantId};

/// Shares of P1, P2 and P3 in starts while all three wait. P0 goes before all of them, up to its
/// share of the slots.
const SHARES: [u64; 3] = [50, 30, 20];
/// Divisible by every share.
const WHOLE: u64 = 300;

#[derive(Default)]
pub struct Schedule {
    p0: TenantTurns,
    shared: [Class; 3],
    /// The pass value that the classes have reached together. A class that was empty begins here
    /// and has no arrears.
    passed: u64,
}

#[derive(Default)]
struct Class {
    turns: TenantTurns,
    pass: u64,
}

/// The messages of one priority: tenants take turns, each in order of arrival.
#[derive(Default)]
struct TenantTurns {
    tenants: VecDeque<TenantId>,
    queues: HashMap<TenantId, VecDeque<LaneMessage>>,
}

impl Schedule {
    pub fn put(&mut self, message: LaneMessage) {
        let class = match message.priority {
            Priority::P0 => return self.p0.put(message),
            Priority::P1 => &mut self.shared[0],
            Priority::P2 => &mut self.shared[1],
            Priority::P3 => &mut self.shared[2],
        };
        if class.turns.is_empty() {
            class.pass = class.pass.max(self.passed);
        }
        class.turns.put(message);
    }

    pub fn next_p0(&mut self) -> Option<LaneMessage> {
        self.p0.next()
    }

    /// Whether both P0 and others wait.
    pub fn is_contended(&self) -> bool {
        !self.p0.is_empty() && self.shared.iter().any(|class| !class.turns.is_empty())
    }

    /// Any message: P0 first, or last if its share is used up.
    pub fn next(&mut self, p0_first: bool) -> Option<LaneMessage> {
        if p0_first {
            self.p0.next().or_else(|| self.next_shared())
        } else {
            self.next_shared().or_else(|| self.p0.next())
        }
    }

    fn next_shared(&mut self) -> Option<LaneMessage> {
        // The class with the lowest pass value, the higher priority if two are equal.
        let (place, class) = self
            .shared
            .iter_mut()
            .enumerate()
            .filter(|(_, class)| !class.turns.is_empty())
            .min_by_key(|(_, class)| class.pass)?;
        self.passed = class.pass;
        class.pass += WHOLE / SHARES[place];
        class.turns.next()
    }

    pub fn is_empty(&self) -> bool {
        self.p0.is_empty() && self.shared.iter().all(|class| class.turns.is_empty())
    }
}

impl TenantTurns {
    fn put(&mut self, message: LaneMessage) {
        if let Some(queue) = self.queues.get_mut(&message.tenant) {
            queue.push_back(message);
            return;
        }
        let tenant = message.tenant.clone();
        self.tenants.push_back(tenant.clone());
        self.queues.insert(tenant, VecDeque::from([message]));
    }

    fn next(&mut self) -> Option<LaneMessage> {
        let tenant = self.tenants.pop_front()?;
        let queue = self.queues.get_mut(&tenant)?;
        let message = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&tenant);
        } else {
            self.tenants.push_back(tenant);
        }
        message
    }

    fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}
