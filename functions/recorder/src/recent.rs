use std::collections::HashMap;

use watchbill_core::domain::Timestamp;

/// After this many items in the younger half the older one is forgotten.
const HALF: usize = 100_000;

/// Up to which version items were recorded, for all batches since a moment. Two halves, so
/// that the older can be dropped whole and memory stays bounded.
pub struct Recent {
    /// What was recorded before this moment is not known here.
    since: Timestamp,
    young_since: Timestamp,
    old: HashMap<Box<str>, u64>,
    young: HashMap<Box<str>, u64>,
}

impl Recent {
    pub fn since(at: Timestamp) -> Self {
        Self { since: at, young_since: at, old: HashMap::new(), young: HashMap::new() }
    }

    /// Whether everything recorded at or after `at` is known.
    pub fn covers(&self, at: Timestamp) -> bool {
        at >= self.since
    }

    pub fn version(&self, item: &str) -> Option<u64> {
        self.young.get(item).or_else(|| self.old.get(item)).copied()
    }

    pub fn note(&mut self, item: &str, version: u64, now: Timestamp) {
        let known = self.version(item).unwrap_or(0);
        self.young.insert(item.into(), version.max(known));
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
            self.since = self.young_since;
            self.young_since = now;
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
}
