//! The bridge as a Lambda function: reads its settings from the template, runs a round per tick
//! and publishes its metrics.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{Metric, Unit};
use watchbill_redis::{RedisLegacyQueue, RedisOptions};

use watchbill_domain::Agent;

use crate::{Bridge, BridgeContext, CoreBackend, Report, Settings};

const QUIET: &str = "REDIS_QUIET_SECONDS";

/// The context and settings that all rounds share.
pub struct Rounds {
    context: BridgeContext,
    settings: Settings,
    quiet: Option<Duration>,
}

impl Rounds {
    /// Reads all settings. A setting that a function does not support is an error.
    pub async fn new(setup: &Setup) -> anyhow::Result<Self> {
        let (settings, quiet) = (settings(setup)?, quiet(setup)?);
        // The URL is in SSM if it contains a password, otherwise in plain text.
        let url = match setup.read_parameter("REDIS_URL_PARAMETER").await? {
            Some(url) => url,
            None => setup.need("REDIS_URL")?.to_owned(),
        };
        let options = RedisOptions::new(setup.clock.clone(), setup.entropy.clone());
        let peer = RedisLegacyQueue::open(url.trim(), options)?;
        if settings.is_idle() {
            tracing::warn!(
                redis = peer.place(),
                "only the connection is checked: none of RedisDrain, RedisFeed, RedisEvents and \
                 RedisMirror is set"
            );
        }
        let core = setup.core_with_blobs()?;
        setup.warm(&core).await?;
        let built = Agent::taking_tasks().filter(|agent| agent.is_built()).collect();
        let backend = CoreBackend::new(core, settings.tenant.clone(), built);
        let context = BridgeContext {
            backend: Arc::new(backend),
            legacy: Arc::new(peer),
            clock: setup.clock.clone(),
            entropy: setup.entropy.clone(),
            host: setup.owner(),
        };
        Ok(Self { context, settings, quiet })
    }

    /// Runs one round and returns the metrics of that round alone.
    pub async fn run(&self, lasts: Duration) -> Vec<Metric> {
        let bridge = Bridge::new(self.context.clone(), self.settings.clone());
        metrics(&bridge.round(lasts, self.quiet).await)
    }
}

fn settings(setup: &Setup) -> anyhow::Result<Settings> {
    let settings = Settings::read(|name| setup.get(name).map(str::to_owned))?;
    if !settings.domains.is_empty() {
        bail!(
            "REDIS_DOMAINS '{}': a domain needs a heartbeat and a permanent listener, which a \
             function can't have; run `watchbill bridge` for it",
            setup.get("REDIS_DOMAINS").unwrap_or_default()
        );
    }
    if settings.events_in {
        bail!(
            "REDIS_EVENTS '{}': importing events needs a permanent listener, which a function \
             can't have; use `out` here, and run `watchbill bridge` for `in`",
            setup.get("REDIS_EVENTS").unwrap_or_default()
        );
    }
    Ok(settings)
}

/// `0` means never: a round then uses all its time.
fn quiet(setup: &Setup) -> anyhow::Result<Option<Duration>> {
    let Some(text) = setup.get(QUIET) else { return Ok(None) };
    let seconds: u64 = text
        .parse()
        .with_context(|| format!("{QUIET} '{text}' is not a number of seconds; use 0 for never"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// The metrics of a round. Zeros are not sent.
fn metrics(report: &Report) -> Vec<Metric> {
    let count = |name, value: u64| Metric { name, value: value as f64, unit: Unit::Count };
    let troubled = report.connection != "connected" || !report.trouble.is_empty();
    vec![
        count("RedisTaken", report.taken),
        count("RedisRetaken", report.retaken),
        count("RedisWrittenBack", report.written_back),
        count("RedisRejected", report.rejected),
        count("RedisRefused", report.refused),
        count("RedisLostThere", report.lost_there),
        count("RedisFed", report.fed),
        count("RedisEventsOut", report.events_out),
        count("RedisQueueDepth", report.queue_depth),
        Metric {
            name: "RedisLag",
            value: Duration::from_millis(report.lag_ms).as_secs_f64(),
            unit: Unit::Seconds,
        },
        // The connection is down at the end, or a sync error blocks a direction.
        count("RedisTrouble", troubled.into()),
    ]
}

#[cfg(test)]
mod tests {
    use watchbill_aws::config::sdk_config;
    use watchbill_testkit::{FakeClock, SeededEntropy};

    use super::*;
    use crate::report::{Link, Metrics};

    fn setup(env: &[(&str, &str)]) -> Setup {
        let of_lambda =
            [("AWS_REGION", "x"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")];
        let all = of_lambda.iter().chain(env);
        let env = all.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Setup {
            sdk: sdk_config(&env).expect("all is said"),
            env,
            clock: Arc::new(FakeClock::default()),
            entropy: Arc::new(SeededEntropy::new(1)),
            timeout: Duration::from_secs(60),
        }
    }

    async fn refused(env: &[(&str, &str)]) -> String {
        let made = Rounds::new(&setup(env)).await;
        format!("{:#}", made.err().expect("it is refused"))
    }

    #[tokio::test]
    async fn unsupported_settings_of_a_function_are_errors() {
        let url = ("REDIS_URL", "redis://:s3cr3t@redis.example.com");
        for (setting, wanted) in [
            (("REDIS_DOMAINS", "devops"), "watchbill bridge"),
            (("REDIS_EVENTS", "in,out"), "use `out` here"),
            (("REDIS_DRAIN", "everyone"), "not an agent"),
            ((QUIET, "soon"), "not a number of seconds"),
            (("REDIS_TENANT", "Acme"), "lower-case"),
        ] {
            let said = refused(&[url, setting]).await;
            assert!(said.starts_with(&format!("{} '{}'", setting.0, setting.1)), "{said}");
            assert!(said.contains(wanted) && !said.contains("s3cr3t"), "{said}");
        }
        assert!(refused(&[]).await.contains("REDIS_URL is not set"));
        let said = refused(&[("REDIS_URL", "http://:s3cr3t@redis.example.com")]).await;
        assert!(!said.contains("s3cr3t"), "{said}");
    }

    #[tokio::test]
    async fn it_starts_without_a_redis_to_reach() {
        let env = [
            ("REDIS_URL", "rediss+cluster://one.example.com:6379"),
            ("REDIS_DRAIN", "on"),
            ("REDIS_FEED", "bugfix"),
            (QUIET, "0"),
            ("WATCHBILL_TABLE", "table"),
            ("WATCHBILL_BLOBS", "blobs"),
        ];
        let rounds = Rounds::new(&setup(&env)).await.expect("all is said");
        assert_eq!(rounds.quiet, None);
    }

    #[test]
    fn a_lost_connection_is_reported() {
        let told = |link: Link| {
            let metrics = Metrics::default();
            metrics.set_link(link);
            metrics.lag_ms.store(1_500, std::sync::atomic::Ordering::Relaxed);
            let sent = super::metrics(&metrics.report());
            let value = |name| sent.iter().find(|metric| metric.name == name).map(|m| m.value);
            (value("RedisTrouble"), value("RedisLag"))
        };
        assert_eq!(told(Link::Connected), (Some(0.0), Some(1.5)));
        assert_eq!(told(Link::Unreachable("away".into())), (Some(1.0), Some(1.5)));
    }
}
