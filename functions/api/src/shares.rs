//! Bounds how much of a scarce resource each tenant and each caller may hold, so that none can
//! take it all.
//!
//! A quarter of the total, and of each tenant's part, is reserved for holders of nothing, so a
//! newcomer gets a share even if a few hold their maximum.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The reserved part for new holders: one in this many.
const RESERVE: usize = 4;

/// How much may be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub all: usize,
    pub tenant: usize,
    pub caller: usize,
}

/// Whose bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundReached {
    Caller,
    Tenant,
    All,
}

impl BoundReached {
    pub fn whose(self) -> &'static str {
        match self {
            BoundReached::Caller => "this caller",
            BoundReached::Tenant => "this tenant",
            BoundReached::All => "this server",
        }
    }
}

#[derive(Default)]
struct Tenant {
    held: usize,
    callers: HashMap<String, usize>,
}

#[derive(Default)]
struct Usage {
    all: usize,
    tenants: HashMap<String, Tenant>,
}

/// Cheap to clone; all clones share the same state.
#[derive(Clone)]
pub struct Shares {
    bounds: Bounds,
    held: Arc<Mutex<Usage>>,
}

/// Who holds a share: a tenant's caller, or an address without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Empty for callers without a key.
    pub tenant: String,
    pub caller: String,
}

impl Shares {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, held: Arc::default() }
    }

    /// Takes `weight` until the share is dropped.
    pub fn take(&self, holder: &Holder, weight: usize) -> Result<Share, BoundReached> {
        let mut held = self.lock();
        let tenant = held.tenants.get(&holder.tenant);
        let of_tenant = tenant.map_or(0, |tenant| tenant.held);
        let of_caller =
            tenant.and_then(|tenant| tenant.callers.get(&holder.caller)).copied().unwrap_or(0);
        let fits = |held: usize, bound: usize, is_first: bool| {
            let bound = if is_first { bound } else { bound - bound / RESERVE };
            held.saturating_add(weight) <= bound
        };
        // A holder of nothing may take a share that is larger than a caller's bound.
        if of_caller > 0 && of_caller.saturating_add(weight) > self.bounds.caller {
            return Err(BoundReached::Caller);
        }
        if !fits(of_tenant, self.bounds.tenant, of_caller == 0) {
            return Err(BoundReached::Tenant);
        }
        if !fits(held.all, self.bounds.all, of_tenant == 0) {
            return Err(BoundReached::All);
        }
        held.all += weight;
        let tenant = held.tenants.entry(holder.tenant.clone()).or_default();
        tenant.held += weight;
        *tenant.callers.entry(holder.caller.clone()).or_default() += weight;
        Ok(Share { shares: self.clone(), holder: holder.clone(), weight })
    }

    /// The total held now.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.lock().all
    }

    fn release(&self, holder: &Holder, weight: usize) {
        let mut held = self.lock();
        held.all -= weight;
        let Some(tenant) = held.tenants.get_mut(&holder.tenant) else { return };
        tenant.held -= weight;
        if let Some(caller) = tenant.callers.get_mut(&holder.caller) {
            *caller -= weight;
            if *caller == 0 {
                tenant.callers.remove(&holder.caller);
            }
        }
        // Holders of nothing are removed from memory.
        if tenant.callers.is_empty() {
            held.tenants.remove(&holder.tenant);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.held.lock().expect("nothing under this lock panics")
    }
}

/// A held amount, released on drop.
pub struct Share {
    shares: Shares,
    holder: Holder,
    weight: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.release(&self.holder, self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(tenant: &str, caller: &str) -> Holder {
        Holder { tenant: tenant.into(), caller: caller.into() }
    }

    /// Takes shares until one is refused.
    fn take_all(shares: &Shares, tenant: &str, caller: &str) -> (Vec<Share>, BoundReached) {
        let mut taken = Vec::new();
        loop {
            match shares.take(&holder(tenant, caller), 1) {
                Ok(share) => taken.push(share),
                Err(full) => return (taken, full),
            }
        }
    }

    const BOUNDS: Bounds = Bounds { all: 64, tenant: 32, caller: 16 };

    #[test]
    fn a_caller_and_a_tenant_take_no_more_than_their_part() {
        let shares = Shares::new(BOUNDS);
        let (one, full) = take_all(&shares, "a", "1");
        assert_eq!((one.len(), full), (16, BoundReached::Caller));
        let (two, full) = take_all(&shares, "a", "2");
        assert_eq!(
            (two.len(), full),
            (8, BoundReached::Tenant),
            "the rest is for those without any"
        );
        assert!(shares.take(&holder("a", "3"), 1).is_ok());
        drop(two);
        assert_eq!(take_all(&shares, "a", "2").0.len(), 8);
    }

    #[test]
    fn a_newcomer_gets_a_share_while_a_few_hold_their_maximum() {
        let shares = Shares::new(BOUNDS);
        let mut all = Vec::new();
        for tenant in ["a", "b", "c", "d"] {
            for caller in ["1", "2", "3"] {
                all.extend(take_all(&shares, tenant, caller).0);
            }
        }
        // Those four have reached the total bound; twelve more get one share each.
        for n in 0..12 {
            let late = shares.take(&holder(&format!("late {n}"), "1"), 1);
            all.push(late.unwrap_or_else(|full| panic!("{n}: {full:?}, {} held", shares.held())));
        }
        // Once everything is taken, no one gets a share, new or not.
        let mut more = (12..).map(|n| shares.take(&holder(&format!("late {n}"), "1"), 1));
        all.extend(more.by_ref().map_while(Result::ok).take(BOUNDS.all));
        assert_eq!(shares.held(), BOUNDS.all);
        assert_eq!(more.next().and_then(Result::err), Some(BoundReached::All));
        drop(more);
        drop(all);
        assert_eq!(shares.held(), 0);
        assert!(shares.lock().tenants.is_empty(), "nothing is remembered of them");
    }

    #[test]
    fn a_share_larger_than_a_part_is_given_to_a_holder_of_nothing() {
        let shares = Shares::new(BOUNDS);
        let big = shares.take(&holder("a", "1"), 20).unwrap();
        assert_eq!(shares.take(&holder("a", "1"), 1).err(), Some(BoundReached::Caller));
        assert_eq!(shares.take(&holder("a", "2"), 33).err(), Some(BoundReached::Tenant));
        drop(big);
        assert!(shares.take(&holder("a", "1"), 1).is_ok());
        assert!(shares.take(&holder("a", "1"), usize::MAX).is_err());
    }
}
