//! Caches which item versions one tenant's ledger has, so that the recorder need not read it.

use std::collections::HashMap;

use watchbill_domain::Timestamp;

/// Items in the younger generation after which the older one is dropped.
const GENERATION_SIZE: usize = 100_000;

#[derive(Clone, Copy, Default)]
struct Known {
    /// The last recorded version, if known.
    version: Option<u64>,
    /// No version up to this one is parked, as far as changes have arrived.
    done_up_to: u64,
}

/// The last recorded version per item, for all batches since a time. Two generations: the older
/// one is dropped as a whole, so memory stays bounded.
pub struct RecordedVersions {
    /// What was recorded before this time is unknown here.
    since: Timestamp,
    young_since: Timestamp,
    old: HashMap<Box<str>, Known>,
    young: HashMap<Box<str>, Known>,
}

impl RecordedVersions {
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
    /// arrives. Changes arrive in order, so nothing can be parked before the first.
    pub fn is_settled_before(&self, item: &str, version: u64) -> bool {
        version == 1 || self.known(item).is_some_and(|known| known.done_up_to + 1 == version)
    }

    pub fn note(&mut self, item: &str, version: u64, now: Timestamp) {
        let known = self.known(item).unwrap_or_default();
        self.insert(item, Known { version: known.version.max(Some(version)), ..known }, now);
    }

    fn insert(&mut self, item: &str, known: Known, now: Timestamp) {
        self.young.insert(item.into(), known);
        if self.young.len() >= GENERATION_SIZE {
            self.old = std::mem::take(&mut self.young);
            self.since = self.young_since;
            self.young_since = now;
        }
    }

    /// Everything of the item up to `version` is recorded and published, or needs neither.
    pub fn mark_done(&mut self, item: &str, version: u64, now: Timestamp) {
        self.note(item, version, now);
        self.nothing_parked(item, version, now);
    }

    /// Nothing of the item up to `version` is parked. This does not say what is recorded.
    pub fn nothing_parked(&mut self, item: &str, version: u64, now: Timestamp) {
        let known = self.known(item).unwrap_or_default();
        self.insert(item, Known { done_up_to: known.done_up_to.max(version), ..known }, now);
    }

    /// Something of the item was parked.
    pub fn note_parked(&mut self, item: &str) {
        for half in [&mut self.young, &mut self.old] {
            if let Some(known) = half.get_mut(item) {
                known.done_up_to = 0;
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
        let mut recent = RecordedVersions::since(at(0));
        for i in 0..GENERATION_SIZE {
            recent.note(&i.to_string(), 1, at(10));
        }
        assert!(recent.covers(at(0)));
        assert_eq!(recent.version("5"), Some(1));
        for i in 0..GENERATION_SIZE {
            recent.note(&format!("b{i}"), 1, at(20));
        }
        assert_eq!(recent.version("5"), None);
        assert!(!recent.covers(at(5)));
        assert!(recent.covers(at(10)));
    }

    #[test]
    fn what_is_settled_is_known_for_the_next_version_alone() {
        let at = Timestamp::from_millis(0);
        let mut recent = RecordedVersions::since(at);
        assert!(recent.is_settled_before("a", 1));
        recent.note("a", 1, at);
        assert!(!recent.is_settled_before("a", 2), "recorded, not known to be sent");
        recent.mark_done("a", 1, at);
        assert!(recent.is_settled_before("a", 2));
        assert!(!recent.is_settled_before("a", 3));
        recent.nothing_parked("a", 4, at);
        assert_eq!(recent.version("a"), Some(1), "what is recorded is not guessed");
        assert!(recent.is_settled_before("a", 5));
        recent.note_parked("a");
        assert!(!recent.is_settled_before("a", 5));
        assert_eq!(recent.version("a"), Some(1), "recorded all the same");
    }
}
