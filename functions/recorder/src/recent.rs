//! What one tenant's recorder remembers of the ledger, so that it need not read it.

use std::collections::HashMap;

use watchbill_domain::Timestamp;

/// After this many items in the younger half the older one is forgotten.
const HALF: usize = 100_000;

#[derive(Clone, Copy, Default)]
struct Known {
    /// Recorded up to this version, where that is known.
    version: Option<u64>,
    /// Up to this version nothing of the item is parked, as far as its changes have come.
    settled: u64,
}

/// Up to which version items were recorded, for all batches since a moment. Two halves, so
/// that the older can be dropped whole and memory stays bounded.
pub struct Recent {
    /// What was recorded before this moment is not known here.
    since: Timestamp,
    young_since: Timestamp,
    old: HashMap<Box<str>, Known>,
    young: HashMap<Box<str>, Known>,
}

impl Recent {
    pub fn since(at: Timestamp) -> Self {
        Self { since: at, young_since: at, old: HashMap::new(), young: HashMap::new() }
    }

    /// Whether everything recorded at or after `at` is known.
    pub fn covers(&self, at: Timestamp) -> bool {
        at >= self.since
    }

    fn known(&self, item: &str) -> Option<Known> {
        self.young.get(item).or_else(|| self.old.get(item)).copied()
    }

    pub fn version(&self, item: &str) -> Option<u64> {
        self.known(item)?.version
    }

    /// Whether it is certain that nothing of the item is parked when its change `version`
    /// comes. A change comes after those before it, so the first has none.
    pub fn is_settled_before(&self, item: &str, version: u64) -> bool {
        version == 1 || self.known(item).is_some_and(|known| known.settled + 1 == version)
    }

    pub fn note(&mut self, item: &str, version: u64, now: Timestamp) {
        let known = self.known(item).unwrap_or_default();
        self.insert(item, Known { version: known.version.max(Some(version)), ..known }, now);
    }

    fn insert(&mut self, item: &str, known: Known, now: Timestamp) {
        self.young.insert(item.into(), known);
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
            self.since = self.young_since;
            self.young_since = now;
        }
    }

    /// Everything of the item up to `version` has been recorded and sent, or was never to be.
    pub fn settle(&mut self, item: &str, version: u64, now: Timestamp) {
        self.note(item, version, now);
        self.nothing_parked(item, version, now);
    }

    /// Nothing of the item is parked, of all that came up to `version`. What of it is recorded
    /// is another matter.
    pub fn nothing_parked(&mut self, item: &str, version: u64, now: Timestamp) {
        let known = self.known(item).unwrap_or_default();
        self.insert(item, Known { settled: known.settled.max(version), ..known }, now);
    }

    /// Something of the item was parked.
    pub fn unsettle(&mut self, item: &str) {
        for half in [&mut self.young, &mut self.old] {
            if let Some(known) = half.get_mut(item) {
                known.settled = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_older_half_and_says_so() {
        let at = Timestamp::from_millis;
        let mut recent = Recent::since(at(0));
        for i in 0..HALF {
            recent.note(&i.to_string(), 1, at(10));
        }
        assert!(recent.covers(at(0)));
        assert_eq!(recent.version("5"), Some(1));
        for i in 0..HALF {
            recent.note(&format!("b{i}"), 1, at(20));
        }
        assert_eq!(recent.version("5"), None);
        assert!(!recent.covers(at(5)));
        assert!(recent.covers(at(10)));
    }

    #[test]
    fn what_is_settled_is_known_for_the_next_version_alone() {
        let at = Timestamp::from_millis(0);
        let mut recent = Recent::since(at);
        assert!(recent.is_settled_before("a", 1));
        recent.note("a", 1, at);
        assert!(!recent.is_settled_before("a", 2), "recorded, not known to be sent");
        recent.settle("a", 1, at);
        assert!(recent.is_settled_before("a", 2));
        assert!(!recent.is_settled_before("a", 3));
        recent.nothing_parked("a", 4, at);
        assert_eq!(recent.version("a"), Some(1), "what is recorded is not guessed");
        assert!(recent.is_settled_before("a", 5));
        recent.unsettle("a");
        assert!(!recent.is_settled_before("a", 5));
        assert_eq!(recent.version("a"), Some(1), "recorded all the same");
    }
}
