//! Connects to a server, a cluster, or the master that sentinels name.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    Pipeline, RedisConnectionInfo, RedisError, ServerError, TlsCertificates, Value,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::timeout;
use watchbill_wire::legacy::LegacyError;

use super::RedisOptions;
use super::address::{Address, Layout, place};
use super::error;

/// Commands per pipeline. A server runs them in milliseconds, so the timeout measures the
/// server and not the amount we send.
const PIPELINE_SIZE: usize = 1_000;

/// An open connection. Clones share it, and each gets its own answers.
#[derive(Clone)]
pub(super) enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

pub(super) struct Connector {
    pub address: Address,
    pub options: RedisOptions,
    authority: Option<Vec<u8>>,
}

impl Connector {
    pub fn new(address: Address, options: RedisOptions) -> Result<Self, LegacyError> {
        let authority = options.ca_file.as_deref().map(authority).transpose()?;
        let dial = Self { address, options, authority };
        // Reports unusable options now, not when the server is first needed.
        dial.client(&dial.address.hosts[0]).map_err(|error| error::lost(&dial.address, error))?;
        Ok(dial)
    }

    pub async fn connect(&self) -> Result<Wire, LegacyError> {
        if self.address.tls {
            // All of this program uses this provider, so it does not matter who installed it.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let limit = self.options.connect_within;
        let connected = timeout(limit, async {
            match &self.address.layout {
                Layout::Cluster => Ok(Wire::Cluster(self.cluster().await?)),
                _ => Ok(Wire::One(self.single(&self.master().await?).await?)),
            }
        });
        connected.await.unwrap_or_else(|_| Err(error::late(&self.address)))
    }

    async fn single(&self, host: &(String, u16)) -> Result<MultiplexedConnection, LegacyError> {
        let client = self.client(host).map_err(|error| error::lost(&self.address, error))?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&self.without_limits())
            .await
            .map_err(|error| error::lost(&self.address, error))?;
        if let Layout::Sentinel { .. } = self.address.layout {
            self.must_be_master(host, &mut connection).await?;
            return Ok(connection);
        }
        // A frozen server accepts connections. Any answer shows that it runs.
        match connection.req_packed_command(&redis::cmd("PING")).await {
            Err(error) if error.code().is_none() => Err(error::lost(&self.address, error)),
            _ => Ok(connection),
        }
    }

    /// Shortly after a failover the sentinels may name a server that is not yet, or no longer,
    /// the master.
    async fn must_be_master(
        &self,
        host: &(String, u16),
        connection: &mut MultiplexedConnection,
    ) -> Result<(), LegacyError> {
        let answer = redis::cmd("ROLE").query_async(connection).await;
        let role: Vec<Value> = answer.map_err(|error| error::lost(&self.address, error))?;
        if matches!(role.first(), Some(Value::BulkString(word)) if word == b"master") {
            return Ok(());
        }
        let place = place(host);
        let text = format!("{}: they name {place}, which is not a master yet", self.address);
        Err(LegacyError::Away(text))
    }

    /// Disables the crate's own timeouts, which end a call but keep its connection; ours apply.
    fn without_limits(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
    }

    async fn cluster(&self) -> Result<ClusterConnection, LegacyError> {
        let build = || {
            let hosts = self.address.hosts.iter();
            let infos = hosts.map(|host| self.info(host)).collect::<Result<Vec<_>, _>>()?;
            // A frozen node must not use up the time of the others.
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
        let lost = |error| error::lost(&self.address, error);
        build().map_err(lost)?.get_async_connection().await.map_err(lost)
    }

    /// The server that commands are sent to.
    async fn master(&self) -> Result<(String, u16), LegacyError> {
        let Layout::Sentinel { master } = &self.address.layout else {
            return Ok(self.address.hosts[0].clone());
        };
        let mut why = String::new();
        for sentinel in &self.address.hosts {
            // A frozen sentinel must not use up the time of those after it.
            let share = self.options.connect_within / (self.address.hosts.len() as u32 + 1);
            let problem = match timeout(share, self.ask(sentinel, master)).await {
                Ok(Ok(Some(host))) => return Ok(host),
                Ok(Ok(None)) => format!("does not know the master '{master}'"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "did not respond in time".to_owned(),
            };
            let gap = if why.is_empty() { "" } else { "; " };
            let _ = write!(why, "{gap}{} {problem}", place(sentinel));
        }
        Err(LegacyError::Away(format!("{} can't be found: {why}", self.address)))
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
            // Most sentinels require no password.
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

    /// Opens a separate connection that only receives messages.
    pub async fn subscribe(&self, patterns: &[String]) -> Result<PubSub, LegacyError> {
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
            Err(error::lost(&self.address, first.expect("there is at least one host")))
        };
        if self.address.tls {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        timeout(limit, open).await.unwrap_or_else(|_| Err(error::late(&self.address)))
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
}

impl Wire {
    pub async fn send(self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match self {
            Wire::One(mut connection) => {
                if pipeline.len() <= PIPELINE_SIZE {
                    return connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
                }
                let mut parts = Vec::new();
                for command in pipeline.cmd_iter() {
                    if parts.last().is_none_or(|part: &Pipeline| part.len() >= PIPELINE_SIZE) {
                        parts.push(Pipeline::with_capacity(PIPELINE_SIZE));
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

/// Keepalive detects a silently lost connection within about a minute, even if nothing is sent.
fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

fn authority(path: &Path) -> Result<Vec<u8>, LegacyError> {
    let wrong = |problem: &str| {
        LegacyError::Refused(format!(
            "REDIS_CA_FILE '{}' {problem}; set it to a readable PEM file of certificates, or \
             unset it",
            path.display()
        ))
    };
    let pem = std::fs::read(path).map_err(|error| wrong(&format!("can't be read: {error}")))?;
    // Checks every certificate now: a fault found while connecting would look like an
    // unreachable server.
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| wrong(&format!("can't be read as PEM: {error:?}")))?;
        let added = roots.add(certificate);
        added.map_err(|error| wrong(&format!("has an unusable certificate: {error}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("contains no certificate"));
    }
    Ok(pem)
}
