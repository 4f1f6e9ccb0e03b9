//! Helpers of the tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{FromRedisValue, ToRedisArgs};
use watchbill_core::ports::Clock;
use watchbill_domain::Timestamp;
use watchbill_redis::{RedisKeys, RedisOptions};
use watchbill_testkit::{RedisServer, SeededEntropy};
use watchbill_wire::legacy::LegacyError;

/// The machine's clock, because these tests wait for real servers.
struct MachineClock(Instant);

#[async_trait]
impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        Timestamp::parse("2026-01-31T12:00:00Z").unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }
}

pub fn options() -> RedisOptions {
    #[expect(clippy::disallowed_methods, reason = "the machine's clock itself")]
    let start = Instant::now();
    RedisOptions::new(Arc::new(MachineClock(start)), Arc::new(SeededEntropy::new(7)))
}

pub fn open(url: &str) -> RedisKeys {
    RedisKeys::open(url, options()).unwrap()
}

/// Sends commands past the adapter, as other programs do.
pub struct Hand(redis::aio::MultiplexedConnection);

impl Hand {
    pub async fn at(server: &RedisServer) -> Self {
        Self::to(&server.url()).await
    }

    pub async fn to(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        // A busy machine answers late; the default is half a second.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        Self(client.get_multiplexed_async_connection_with_config(&patient).await.unwrap())
    }

    pub async fn try_ask<T: FromRedisValue>(
        &mut self,
        words: &[impl ToRedisArgs],
    ) -> redis::RedisResult<T> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.0).await
    }

    pub async fn ask<T: FromRedisValue>(&mut self, line: &str) -> T {
        let words: Vec<&str> = line.split(' ').collect();
        self.try_ask(&words).await.unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    pub async fn tell(&mut self, line: &str) {
        self.ask::<redis::Value>(line).await;
    }
}

/// Polls until there is a result; fails the test after a timeout.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), looking).await;
    found.unwrap_or_else(|_| panic!("it never came: {what}"))
}

pub fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("task-{n:04}")).collect()
}

pub fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

pub fn refused<T: std::fmt::Debug>(result: Result<T, LegacyError>) -> String {
    match result.unwrap_err() {
        LegacyError::Refused(text) => text,
        other => panic!("refused, and not {other:?}"),
    }
}

pub fn foreign<T: std::fmt::Debug>(result: Result<T, LegacyError>) -> String {
    match result.unwrap_err() {
        LegacyError::Foreign(text) => text,
        other => panic!("foreign, and not {other:?}"),
    }
}

pub fn away<T: std::fmt::Debug>(result: Result<T, LegacyError>) -> String {
    match result.unwrap_err() {
        LegacyError::Away(text) => text,
        other => panic!("away, and not {other:?}"),
    }
}
