//! The intake's Lambda entry point: turns EventBridge events into tasks.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_intake::{Envelope, Intake, Sources, open, read_reactions, shipped_reactions};
use watchbill_lambda::config::Setup;
use watchbill_lambda::serve_events;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let reactions = setup.get("WATCHBILL_REACTIONS").map(read_reactions);
    let reactions = reactions.unwrap_or_else(|| Ok(shipped_reactions()))?;
    let sources = Arc::new(Sources::parse(setup.get("EVENT_SOURCES").unwrap_or_default())?);
    let core = setup.core()?;
    let intake = Arc::new(Intake::new(core.clone(), reactions));
    serve_events(&setup, "events-dead", move |envelope: Envelope| {
        let (core, intake, sources) = (core.clone(), intake.clone(), sources.clone());
        async move {
            let (tenant, event) = open(&core, &sources, envelope).await?;
            intake.handle(&tenant, &event).await
        }
    })
    .await
}
