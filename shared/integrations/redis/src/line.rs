//! Keeps one connection open, with timeouts and reconnects.

use std::time::Duration;

use redis::{FromRedisValue, Pipeline, ServerError, Value, from_redis_value};
use tokio::sync::Mutex;
use tokio::time::timeout;
use watchbill_wire::legacy::LegacyError;

use super::RedisOptions;
use super::address::Address;
use super::batch::{Batch, Key};
use super::dial::{Connector, Wire};
use super::error::{self, Cause};

/// Delay between attempts to connect: exponential backoff from the first value to the second.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(3);

pub(super) struct Line {
    dial: Connector,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    /// The connection's number, so that a late failure does not close its successor.
    number: u64,
    failures: u32,
    /// The next attempt to connect, on the monotonic clock, and the last error.
    pause: Option<(Duration, LegacyError)>,
}

impl Line {
    pub fn new(address: Address, options: RedisOptions) -> Result<Self, LegacyError> {
        Ok(Self { dial: Connector::new(address, options)?, state: Mutex::default() })
    }

    pub fn dial(&self) -> &Connector {
        &self.dial
    }

    pub fn address(&self) -> &Address {
        &self.dial.address
    }

    pub fn options(&self) -> &RedisOptions {
        &self.dial.options
    }

    /// Sends a batch and returns the answers; the first error is the result.
    pub async fn all(&self, batch: Batch) -> Result<Vec<Value>, LegacyError> {
        let (values, batch) = self.send(batch).await?;
        for (at, value) in values.iter().enumerate() {
            if let Value::ServerError(error) = value {
                return Err(self.explain(error, &batch, at).await);
            }
        }
        Ok(values)
    }

    /// Sends a batch and returns the answers; a key of the wrong type fails only its command.
    pub async fn each(&self, batch: Batch) -> Result<Vec<Result<Value, LegacyError>>, LegacyError> {
        let (values, batch) = self.send(batch).await?;
        let mut answers = Vec::with_capacity(values.len());
        for (at, value) in values.into_iter().enumerate() {
            answers.push(match value {
                Value::ServerError(error) => match self.explain(&error, &batch, at).await {
                    foreign @ LegacyError::Foreign(_) => Err(foreign),
                    other => return Err(other),
                },
                value => Ok(value),
            });
        }
        Ok(answers)
    }

    /// Sends a batch as one transaction if one server has all keys; in a cluster, one command
    /// after the other.
    pub async fn together(&self, batch: Batch) -> Result<(), LegacyError> {
        if !self.address().is_cluster() {
            let (values, batch) = self.send(batch.in_one_step()).await?;
            // The first answers only say that a command is queued; the last has the results.
            let done = match values.last() {
                Some(Value::Array(done)) => done.as_slice(),
                _ => &[],
            };
            let noted = values.iter().enumerate();
            for (at, value) in noted.chain(done.iter().enumerate().map(|(i, one)| (i + 1, one))) {
                if let Value::ServerError(error) = value {
                    return Err(self.explain(error, &batch, at).await);
                }
            }
            return Ok(());
        }
        for one in batch.apart() {
            self.all(one).await?;
        }
        Ok(())
    }

    /// The answer to the only command.
    pub async fn one<T: FromRedisValue>(&self, batch: Batch) -> Result<T, LegacyError> {
        let value = self.all(batch).await?.pop().unwrap_or_default();
        self.read(value)
    }

    pub fn read<T: FromRedisValue>(&self, value: Value) -> Result<T, LegacyError> {
        from_redis_value(value).map_err(|error| error::odd(self.address(), &error))
    }

    async fn send(&self, batch: Batch) -> Result<(Vec<Value>, Batch), LegacyError> {
        if batch.is_empty() {
            return Ok((Vec::new(), batch));
        }
        let mut values = self.over_wire(batch.pipeline()).await?;
        let unknown = |value: &Value| matches!(value, Value::ServerError(error) if error::cause(error) == Cause::NoScript);
        let missed: Vec<usize> =
            (0..values.len()).filter(|at| values.get(*at).is_some_and(unknown)).collect();
        if !missed.is_empty() {
            let again = self.over_wire(&batch.in_full(&missed)).await?;
            for (at, value) in missed.into_iter().zip(again) {
                values[at] = value;
            }
        }
        Ok((values, batch))
    }

    /// Replaces a silently lost connection once, because every call may be repeated.
    async fn over_wire(&self, pipeline: &Pipeline) -> Result<Vec<Value>, LegacyError> {
        for last in [false, true] {
            let (number, wire) = self.wire().await?;
            let sent = timeout(self.options().answer_within, wire.send(pipeline)).await;
            let error = match sent {
                Ok(Ok(values)) => {
                    if Self::was_replaced(&values) {
                        self.hang_up(number).await;
                    }
                    return Ok(values);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    self.hang_up(number).await;
                    return Err(error::late(self.address()));
                }
            };
            self.hang_up(number).await;
            if last || !error.is_connection_dropped() {
                return Err(error::lost(self.address(), error));
            }
        }
        unreachable!("the last attempt returns")
    }

    /// A replaced master refuses writes; the sentinels, or its name, now lead to the new one.
    fn was_replaced(values: &[Value]) -> bool {
        let moved = |value: &Value| matches!(value, Value::ServerError(error) if error::cause(error) == Cause::ReadOnly);
        values.iter().any(moved)
    }

    async fn hang_up(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number {
            state.wire = None;
        }
    }

    async fn wire(&self) -> Result<(u64, Wire), LegacyError> {
        let mut state = self.state.lock().await;
        if let Some(wire) = &state.wire {
            return Ok((state.number, wire.clone()));
        }
        let now = self.options().clock.monotonic();
        if let Some((until, why)) = &state.pause
            && now < *until
        {
            return Err(why.clone());
        }
        match self.dial.connect().await {
            Ok(wire) => {
                state.number += 1;
                state.wire = Some(wire.clone());
                (state.failures, state.pause) = (0, None);
                Ok((state.number, wire))
            }
            Err(error) => {
                let until = self.options().clock.monotonic() + self.pause(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.pause = Some((until, error.clone()));
                Err(error)
            }
        }
    }

    /// Between half and all of the backoff, so that clients that lost the same server do not
    /// return at once.
    fn pause(&self, failures: u32) -> Duration {
        let whole = RECONNECT_DELAY.saturating_mul(1 << failures.min(10)).min(MAX_RECONNECT_DELAY);
        let half = whole / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(self.options().entropy.next_u64() % spread)
    }

    async fn explain(&self, error: &ServerError, batch: &Batch, at: usize) -> LegacyError {
        let keys = batch.keys(at);
        if error::cause(error) != Cause::WrongType {
            return error::refusal(self.address(), error, &batch.name(at), keys);
        }
        match self.mistyped_key(keys).await {
            Ok(Some((key, found))) => error::foreign(self.address(), &key, &found),
            Ok(None) => error::refusal(self.address(), error, &batch.name(at), keys),
            Err(error) => error,
        }
    }

    /// The key whose type is wrong, and its type.
    async fn mistyped_key(&self, keys: &[Key]) -> Result<Option<(Key, String)>, LegacyError> {
        let mut kinds = Pipeline::new();
        for key in keys {
            kinds.cmd("TYPE").arg(&*key.name);
        }
        let found = self.over_wire(&kinds).await?;
        for (key, value) in keys.iter().zip(found) {
            let kind: String = self.read(value)?;
            if kind != "none" && kind != key.kind.word() {
                return Ok(Some((key.clone(), kind)));
            }
        }
        Ok(None)
    }
}
