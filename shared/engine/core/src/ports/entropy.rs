//! The randomness port.

use uuid::Uuid;
use watchbill_domain::Timestamp;

use super::WriteId;

/// Randomness, and the ids derived from it.
pub trait Entropy: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);

    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A write id for one commit.
    fn write_id(&self) -> WriteId {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        WriteId(u128::from_le_bytes(bytes))
    }

    /// A UUIDv7: ordered by time, with a random tail.
    fn uuid7(&self, now: Timestamp) -> Uuid {
        let mut tail = [0; 10];
        self.fill(&mut tail);
        uuid::Builder::from_unix_timestamp_millis(now.millis().max(0) as u64, &tail).into_uuid()
    }
}
