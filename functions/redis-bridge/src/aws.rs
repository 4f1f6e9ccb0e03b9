//! The bridge as a function: its settings from the template, a round at each tick, and its
//! figures as metrics.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{Metric, Unit};
use watchbill_redis::{RedisOptions, RedisPeer};

use watchbill_domain::Agent;

use crate::{Bridge, CoreHome, Report, Settings, Sides};

const QUIET: &str = "REDIS_QUIET_SECONDS";

/// What every round works with.
pub struct Rounds {
    sides: Sides,
    settings: Settings,
    quiet: Option<Duration>,
}

impl Rounds {
    /// Reads all settings; what a function can't do is an error, and not left undone.
    pub async fn new(setup: &Setup) -> anyhow::Result<Self> {
        let (settings, quiet) = (settings(setup)?, quiet(setup)?);
        // In SSM where it holds a password; else plain.
        let url = match setup.read_parameter("REDIS_URL_PARAMETER").await? {
            Some(url) => url,
            None => setup.need("REDIS_URL")?.to_owned(),
        };
        let options = RedisOptions::new(setup.clock.clone(), setup.entropy.clone());
        let peer = RedisPeer::open(url.trim(), options)?;
        if settings.is_idle() {
            tracing::warn!(
                "only the connection to {} is watched: none of RedisDrain, RedisFeed, \
                 RedisEvents and RedisMirror is set",
                peer.place()
            );
        }
        let core = setup.core_with_blobs()?;
        setup.warm(&core).await?;
        let built = Agent::taking_tasks().filter(|agent| agent.is_built()).collect();
        let home = CoreHome::new(core, settings.tenant.clone(), built);
        let sides = Sides {
            home: Arc::new(home),
            peer: Arc::new(peer),
            clock: setup.clock.clone(),
            entropy: setup.entropy.clone(),
            host: setup.owner(),
        };
        Ok(Self { sides, settings, quiet })
    }

    /// One round; the figures are those of this round alone.
    pub async fn run(&self, lasts: Duration) -> Vec<Metric> {
        let bridge = Bridge::new(self.sides.clone(), self.settings.clone());
        metrics(&bridge.round(lasts, self.quiet).await)
    }
}

fn settings(setup: &Setup) -> anyhow::Result<Settings> {
    let settings = Settings::read(|name| setup.get(name).map(str::to_owned))?;
    if !settings.domains.is_empty() {
        bail!(
            "REDIS_DOMAINS '{}': a domain needs a heart that beats and a list that is listened \
             to, which a function can't; run `watchbill bridge` for it",
            setup.get("REDIS_DOMAINS").unwrap_or_default()
        );
    }
    if settings.events_in {
        bail!(
            "REDIS_EVENTS '{}': channels have to be listened to all the time, which a function \
             can't; use out here, and run `watchbill bridge` for what comes in",
            setup.get("REDIS_EVENTS").unwrap_or_default()
        );
    }
    Ok(settings)
}

/// 0 is never: a round lasts as long as it may.
fn quiet(setup: &Setup) -> anyhow::Result<Option<Duration>> {
    let Some(text) = setup.get(QUIET) else { return Ok(None) };
    let seconds: u64 = text
        .parse()
        .with_context(|| format!("{QUIET} '{text}' is no number of seconds; 0 for never"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// What of a round is worth a metric. Nothing is sent that is zero.
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
        // The connection does not stand at the end, or something holds a direction up.
        count("RedisTrouble", troubled.into()),
    ]
}

#[cfg(test)]
mod tests {
    use watchbill_aws::config::sdk_config;
    use watchbill_testkit::{FakeClock, SeededEntropy};

    use super::*;
    use crate::report::{Figures, Link};

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
    async fn what_a_function_cannot_do_is_an_error() {
        let url = ("REDIS_URL", "redis://:s3cr3t@redis.example.com");
        for (setting, wanted) in [
            (("REDIS_DOMAINS", "devops"), "watchbill bridge"),
            (("REDIS_EVENTS", "in,out"), "use out here"),
            (("REDIS_DRAIN", "everyone"), "no agent"),
            ((QUIET, "soon"), "no number of seconds"),
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
    fn a_connection_that_does_not_stand_is_told() {
        let told = |link: Link| {
            let figures = Figures::default();
            figures.set_link(link);
            figures.lag_ms.store(1_500, std::sync::atomic::Ordering::Relaxed);
            let sent = metrics(&figures.report());
            let value = |name| sent.iter().find(|metric| metric.name == name).map(|m| m.value);
            (value("RedisTrouble"), value("RedisLag"))
        };
        assert_eq!(told(Link::Connected), (Some(0.0), Some(1.5)));
        assert_eq!(told(Link::Unreachable("away".into())), (Some(1.0), Some(1.5)));
    }
}
