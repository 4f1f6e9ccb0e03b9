//! The connection that stands: time limits, and connecting again.

use std::time::Duration;

use redis::{FromRedisValue, Pipeline, ServerError, Value, from_redis_value};
use tokio::sync::Mutex;
use tokio::time::timeout;
use watchbill_wire::peer::PeerError;

use super::RedisOptions;
use super::address::Address;
use super::batch::{Batch, Key};
use super::dial::{Dial, Wire};
use super::fault::{self, Cause};

/// Between two tries to connect: the first pause, doubled with each failure up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

pub(super) struct Line {
    dial: Dial,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    /// Of the wire; one that fails later must not end its successor.
    number: u64,
    failures: u32,
    /// No try to connect before this moment of the monotonic clock; why, as the last one said.
    pause: Option<(Duration, PeerError)>,
}

impl Line {
    pub fn new(address: Address, options: RedisOptions) -> Result<Self, PeerError> {
        Ok(Self { dial: Dial::new(address, options)?, state: Mutex::default() })
    }

    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    pub fn address(&self) -> &Address {
        &self.dial.address
    }

    pub fn options(&self) -> &RedisOptions {
        &self.dial.options
    }

    /// Sends all, and gives the answers; the first that is an error is the error.
    pub async fn all(&self, batch: Batch) -> Result<Vec<Value>, PeerError> {
        let (values, batch) = self.send(batch).await?;
        for (at, value) in values.iter().enumerate() {
            if let Value::ServerError(error) = value {
                return Err(self.explain(error, &batch, at).await);
            }
        }
        Ok(values)
    }

    /// Sends all, and gives the answers; a key of another kind is its own command's error.
    pub async fn each(&self, batch: Batch) -> Result<Vec<Result<Value, PeerError>>, PeerError> {
        let (values, batch) = self.send(batch).await?;
        let mut answers = Vec::with_capacity(values.len());
        for (at, value) in values.into_iter().enumerate() {
            answers.push(match value {
                Value::ServerError(error) => match self.explain(&error, &batch, at).await {
                    foreign @ PeerError::Foreign(_) => Err(foreign),
                    other => return Err(other),
                },
                value => Ok(value),
            });
        }
        Ok(answers)
    }

    /// Sends all; nobody sees a part of it done, where one server has all of its keys. In a
    /// cluster they are done one after the other.
    pub async fn together(&self, batch: Batch) -> Result<(), PeerError> {
        if !self.address().is_cluster() {
            let (values, batch) = self.send(batch.in_one_step()).await?;
            // The first answers only say that a command is noted: it is done at the end.
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
    pub async fn one<T: FromRedisValue>(&self, batch: Batch) -> Result<T, PeerError> {
        let value = self.all(batch).await?.pop().unwrap_or_default();
        self.read(value)
    }

    pub fn read<T: FromRedisValue>(&self, value: Value) -> Result<T, PeerError> {
        from_redis_value(value).map_err(|error| fault::odd(self.address(), &error))
    }

    async fn send(&self, batch: Batch) -> Result<(Vec<Value>, Batch), PeerError> {
        if batch.is_empty() {
            return Ok((Vec::new(), batch));
        }
        let mut values = self.over_wire(batch.pipeline()).await?;
        let unknown = |value: &Value| matches!(value, Value::ServerError(error) if fault::cause(error) == Cause::NoScript);
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

    /// A connection that had been lost unnoticed is replaced once: every call may be made
    /// again.
    async fn over_wire(&self, pipeline: &Pipeline) -> Result<Vec<Value>, PeerError> {
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
                    return Err(fault::late(self.address()));
                }
            };
            self.hang_up(number).await;
            if last || !error.is_connection_dropped() {
                return Err(fault::lost(self.address(), error));
            }
        }
        unreachable!("the last round returns")
    }

    /// A master that was replaced refuses writes: the sentinels know the new one, or the name
    /// leads to it by now.
    fn was_replaced(values: &[Value]) -> bool {
        let moved = |value: &Value| matches!(value, Value::ServerError(error) if fault::cause(error) == Cause::ReadOnly);
        values.iter().any(moved)
    }

    async fn hang_up(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number {
            state.wire = None;
        }
    }

    async fn wire(&self) -> Result<(u64, Wire), PeerError> {
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

    /// Between half and the whole of what the failures ask for: many that lost the same
    /// server don't come back at one moment.
    fn pause(&self, failures: u32) -> Duration {
        let whole = PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        let half = whole / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(self.options().entropy.next_u64() % spread)
    }

    async fn explain(&self, error: &ServerError, batch: &Batch, at: usize) -> PeerError {
        let keys = batch.keys(at);
        if fault::cause(error) != Cause::WrongType {
            return fault::refusal(self.address(), error, &batch.name(at), keys);
        }
        match self.odd_one(keys).await {
            Ok(Some((key, found))) => fault::foreign(self.address(), &key, &found),
            Ok(None) => fault::refusal(self.address(), error, &batch.name(at), keys),
            Err(error) => error,
        }
    }

    /// Which of the keys is of another kind than it should be, and of which.
    async fn odd_one(&self, keys: &[Key]) -> Result<Option<(Key, String)>, PeerError> {
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
