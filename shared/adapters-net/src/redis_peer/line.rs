//! The connection: time limits, and connecting again.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, RedisError, ServerError,
    TlsCertificates, Value, from_redis_value,
};
use tokio::sync::Mutex;
use tokio::time::timeout;
use watchbill_core::ports::PeerError;

use super::RedisOptions;
use super::address::{Address, Layout, place};
use super::batch::{Batch, Key};
use super::fault::{self, Cause};

/// Between two tries to connect: the first pause, doubled with each failure up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Commands in one pipeline: what a server does in milliseconds, so that the time limit for
/// an answer says something about the server and not about us.
const AT_ONCE: usize = 1_000;

/// A connection that stands. Clones share it, and each gets its own answers.
#[derive(Clone)]
enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

pub(super) struct Line {
    address: Address,
    authority: Option<Vec<u8>>,
    options: RedisOptions,
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
        let authority = match &options.ca_file {
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                let path = path.display();
                PeerError::Refused(format!("REDIS_CA_FILE '{path}' can't be read: {error}"))
            })?),
            None => None,
        };
        let line = Self { address, authority, options, state: Mutex::default() };
        line.info(&line.address.hosts[0]).map_err(|error| fault::lost(&line.address, error))?;
        Ok(line)
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn options(&self) -> &RedisOptions {
        &self.options
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
        if !self.address.is_cluster() {
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
        from_redis_value(value).map_err(|error| fault::odd(&self.address, &error))
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
            let sent = timeout(self.options.answer_within, wire.send(pipeline)).await;
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
                    return Err(fault::late(&self.address));
                }
            };
            self.hang_up(number).await;
            if last || !error.is_connection_dropped() {
                return Err(fault::lost(&self.address, error));
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
        let now = self.options.clock.monotonic();
        if let Some((until, why)) = &state.pause
            && now < *until
        {
            return Err(why.clone());
        }
        match self.connect().await {
            Ok(wire) => {
                state.number += 1;
                state.wire = Some(wire.clone());
                (state.failures, state.pause) = (0, None);
                Ok((state.number, wire))
            }
            Err(error) => {
                let until = self.options.clock.monotonic() + self.pause(state.failures);
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
        half + Duration::from_millis(self.options.entropy.next_u64() % spread)
    }

    async fn connect(&self) -> Result<Wire, PeerError> {
        if self.address.tls {
            // The one provider of this program; whoever was first has installed the same.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let limit = self.options.connect_within;
        let connected = timeout(limit, async {
            match &self.address.layout {
                Layout::Cluster => Ok(Wire::Cluster(self.cluster().await?)),
                _ => Ok(Wire::One(self.single(&self.master().await?).await?)),
            }
        });
        connected.await.unwrap_or_else(|_| Err(fault::late(&self.address)))
    }

    async fn single(&self, host: &(String, u16)) -> Result<MultiplexedConnection, PeerError> {
        let client = self.client(host).map_err(|error| fault::lost(&self.address, error))?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&self.without_limits())
            .await
            .map_err(|error| fault::lost(&self.address, error))?;
        if let Layout::Sentinel { .. } = self.address.layout {
            let mut role = redis::cmd("ROLE");
            let role: Vec<Value> = role
                .take()
                .query_async(&mut connection)
                .await
                .map_err(|error| fault::lost(&self.address, error))?;
            let is_master =
                matches!(role.first(), Some(Value::BulkString(word)) if word == b"master");
            if !is_master {
                let text =
                    format!("{}: {}, which they name, is no master yet", self.address, place(host));
                return Err(PeerError::Away(text));
            }
        }
        Ok(connection)
    }

    /// Our own limits hold: the crate's own end a call and keep its connection.
    fn without_limits(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
    }

    async fn cluster(&self) -> Result<ClusterConnection, PeerError> {
        let build = || {
            let hosts = self.address.hosts.iter();
            let infos = hosts.map(|host| self.info(host)).collect::<Result<Vec<_>, _>>()?;
            // A node that is frozen must not use up the time of the others.
            let mut builder = ClusterClient::builder(infos)
                .connection_timeout(self.options.connect_within / 2)
                .response_timeout(self.options.answer_within)
                .tcp_settings(tcp())
                .retries(2);
            if self.address.tls {
                builder = builder.certs(self.certificates());
            }
            builder.build()
        };
        let lost = |error| fault::lost(&self.address, error);
        build().map_err(lost)?.get_async_connection().await.map_err(lost)
    }

    /// Where commands go.
    async fn master(&self) -> Result<(String, u16), PeerError> {
        let Layout::Sentinel { master } = &self.address.layout else {
            return Ok(self.address.hosts[0].clone());
        };
        let mut why = String::new();
        for sentinel in &self.address.hosts {
            // One that is frozen must not use up the time of those after it.
            let share = self.options.connect_within / (self.address.hosts.len() as u32 + 1);
            let said = match timeout(share, self.ask(sentinel, master)).await {
                Ok(Ok(Some(host))) => return Ok(host),
                Ok(Ok(None)) => format!("knows no master '{master}'"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "did not answer in time".to_owned(),
            };
            let gap = if why.is_empty() { "" } else { "; " };
            let _ = write!(why, "{gap}{} {said}", place(sentinel));
        }
        Err(PeerError::Away(format!("{} can't be found: {why}", self.address)))
    }

    async fn ask(
        &self,
        sentinel: &(String, u16),
        master: &str,
    ) -> Result<Option<(String, u16)>, RedisError> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        let open = async |login: RedisConnectionInfo| {
            let client = self.with_login(sentinel, login)?;
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&self.without_limits()).await?;
            question.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match open(RedisConnectionInfo::default()).await {
            // Most sentinels ask nobody for a password.
            Err(error) if error.code() == Some("NOAUTH") => open(self.login(0)).await,
            answer => answer,
        }
    }

    fn client(&self, host: &(String, u16)) -> Result<Client, RedisError> {
        self.with_login(host, self.login(self.address.database))
    }

    fn with_login(
        &self,
        host: &(String, u16),
        login: RedisConnectionInfo,
    ) -> Result<Client, RedisError> {
        let info = self.info(host)?.set_redis_settings(login);
        if self.address.tls {
            Client::build_with_tls(info, self.certificates())
        } else {
            Client::open(info)
        }
    }

    fn certificates(&self) -> TlsCertificates {
        TlsCertificates { client_tls: None, root_cert: self.authority.clone() }
    }

    fn info(&self, (host, port): &(String, u16)) -> Result<ConnectionInfo, RedisError> {
        let (host, port) = (host.clone(), *port);
        let address = if self.address.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let login = self.login(self.address.database);
        Ok(address.into_connection_info()?.set_tcp_settings(tcp()).set_redis_settings(login))
    }

    fn login(&self, database: i64) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(database).set_skip_set_lib_name();
        if let Some(user) = &self.address.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.address.password {
            login = login.set_password(password);
        }
        login
    }

    /// A connection of its own, on which nothing but messages comes in.
    pub async fn subscribe(&self, patterns: &[String]) -> Result<PubSub, PeerError> {
        let limit = self.options.connect_within;
        let open = async {
            let mut first = None;
            let hosts = match self.address.layout {
                // Messages reach every node of a cluster.
                Layout::Cluster => self.address.hosts.clone(),
                _ => vec![self.master().await?],
            };
            for host in &hosts {
                match self.listen_at(host, patterns).await {
                    Ok(listening) => return Ok(listening),
                    Err(error) => first = first.or(Some(error)),
                }
            }
            Err(fault::lost(&self.address, first.expect("there is at least one host")))
        };
        if self.address.tls {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        timeout(limit, open).await.unwrap_or_else(|_| Err(fault::late(&self.address)))
    }

    async fn listen_at(
        &self,
        host: &(String, u16),
        patterns: &[String],
    ) -> Result<PubSub, RedisError> {
        let mut listening = self.client(host)?.get_async_pubsub().await?;
        listening.psubscribe(patterns).await?;
        Ok(listening)
    }

    async fn explain(&self, error: &ServerError, batch: &Batch, at: usize) -> PeerError {
        let keys = batch.keys(at);
        if fault::cause(error) != Cause::WrongType {
            return fault::refusal(&self.address, error, &batch.name(at), keys);
        }
        match self.odd_one(keys).await {
            Ok(Some((key, found))) => fault::foreign(&self.address, &key, &found),
            Ok(None) => fault::refusal(&self.address, error, &batch.name(at), keys),
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

impl Wire {
    async fn send(self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match self {
            Wire::One(mut connection) => {
                if pipeline.len() <= AT_ONCE {
                    return connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
                }
                let mut parts = Vec::new();
                for command in pipeline.cmd_iter() {
                    if parts.last().is_none_or(|part: &Pipeline| part.len() >= AT_ONCE) {
                        parts.push(Pipeline::with_capacity(AT_ONCE));
                    }
                    let part = parts.last_mut().expect("one was pushed just now");
                    part.add_command(command.clone());
                }
                let mut values = Vec::with_capacity(pipeline.len());
                for part in &parts {
                    values.extend(connection.req_packed_commands(part, 0, part.len()).await?);
                }
                Ok(values)
            }
            Wire::Cluster(connection) => {
                let each = pipeline.cmd_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move {
                        match connection.req_packed_command(command).await {
                            Ok(value) => Ok(value),
                            Err(error) => ServerError::try_from(error).map(Value::ServerError),
                        }
                    }
                });
                try_join_all(each).await
            }
        }
    }
}

/// A peer that vanished without a word is noticed within a minute or so, also where nothing
/// is sent.
fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}
