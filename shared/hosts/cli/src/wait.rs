//! Follows one task to its end, with a live line on a terminal.

use std::time::Duration;

use serde_json::Value;

use super::args::WaitArgs;
use super::card::next_step;
use super::client::{Call, Client};
use super::failure::Failure;
use super::out::{Output, Response};
use super::text::span;
use super::view::text;

/// How long the server holds a call open while nothing changes, in seconds.
const HELD: u64 = 20;
/// Pauses after calls without news, in milliseconds; the last one repeats. A server that does
/// not hold calls gets at most 26 a minute.
const PAUSES_MS: [u64; 6] = [250, 400, 600, 1_000, 1_600, 2_500];
/// How often the live line is redrawn.
const FRAME: Duration = Duration::from_millis(200);
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// How the wait ended, with the last state of the task.
pub struct WaitEnd {
    pub answer: Response,
    pub end: Result<(), Failure>,
}

enum TaskOutcome {
    Open,
    NeedsAPerson,
    Completed,
    Failed,
}

fn task_outcome(task: &Value) -> TaskOutcome {
    match task["status"].as_str().unwrap_or_default() {
        "completed" => TaskOutcome::Completed,
        "failed" | "cancelled" => TaskOutcome::Failed,
        "blocked" | "pending" if next_step(task).is_some() => TaskOutcome::NeedsAPerson,
        _ => TaskOutcome::Open,
    }
}

/// Polls the task until it is finished, needs a person, or the timeout is over.
pub async fn until_settled(
    client: &Client,
    out: &mut Output,
    id: &str,
    args: &WaitArgs,
) -> Result<WaitEnd, Failure> {
    let mut watch =
        WaitProgress { client, start: client.clock.monotonic(), reported: String::new() };
    let mut version = None;
    let mut outcome: Result<Response, Failure> =
        Ok(client.ask(Call::get(&["tasks", id]), out).await?);
    let mut idle = 0;
    loop {
        let left = args.timeout.saturating_sub(watch.elapsed());
        let mut retry_after = Duration::ZERO;
        let state = match outcome {
            Ok(answer) => {
                let task = &answer.value["task"];
                if let Some(end) = end(id, task, args, left.is_zero()) {
                    out.undraw();
                    return Ok(WaitEnd { end, answer });
                }
                let newer = task["version"].as_u64();
                idle = if newer == version { idle + 1 } else { 0 };
                version = newer;
                state(task)
            }
            // A restart of the server does not end the wait.
            Err(failure) if failure.is_passing() && !left.is_zero() => {
                idle += 1;
                retry_after = Duration::from_secs(failure.retry_after().unwrap_or(0));
                "server not reachable".to_owned()
            }
            Err(failure) => return Err(failure),
        };
        watch.report(out, id, &state);
        if idle > 0 {
            let pause = PAUSES_MS[usize::min(idle - 1, PAUSES_MS.len() - 1)];
            let pause = Duration::from_millis(pause).max(retry_after).min(left);
            watch.draw_while(out, &state, client.clock.sleep(pause)).await;
        }
        let held = args.timeout.saturating_sub(watch.elapsed()).as_secs().min(HELD);
        let mut poll = Call::get(&["tasks", id]);
        if let Some(version) = version {
            poll = poll.query("version", version).held(held);
        }
        outcome = watch.draw_while(out, &state, client.ask_once(&poll)).await;
    }
}

struct WaitProgress<'a> {
    client: &'a Client,
    start: Duration,
    reported: String,
}

impl WaitProgress<'_> {
    fn elapsed(&self) -> Duration {
        self.client.clock.monotonic().saturating_sub(self.start)
    }

    /// Prints each new state on its own line if there is no live line.
    fn report(&mut self, out: &mut Output, id: &str, state: &str) {
        if !out.is_live() && self.reported != state {
            out.note(&format!("{id} {state} after {}", span(self.elapsed())));
            state.clone_into(&mut self.reported);
        }
    }

    /// Redraws the live line until `work` is done.
    async fn draw_while<T>(
        &self,
        out: &mut Output,
        state: &str,
        work: impl Future<Output = T>,
    ) -> T {
        if !out.is_live() {
            return work.await;
        }
        let mut work = std::pin::pin!(work);
        loop {
            let elapsed = self.elapsed();
            let frame = (elapsed.as_millis() / FRAME.as_millis()) as usize % SPINNER.len();
            let seconds = span(Duration::from_secs(elapsed.as_secs()));
            out.draw(&format!("{} {seconds} · {state}", SPINNER[frame]));
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.client.clock.sleep(FRAME) => {}
            }
        }
    }
}

fn end(id: &str, task: &Value, args: &WaitArgs, late: bool) -> Option<Result<(), Failure>> {
    let status = || text(task, "status");
    match task_outcome(task) {
        TaskOutcome::Completed => Some(Ok(())),
        TaskOutcome::Failed => {
            Some(Err(Failure::TaskFailed { id: id.to_owned(), status: status() }))
        }
        TaskOutcome::NeedsAPerson if !args.through_approval => {
            Some(Err(Failure::StillWaiting(format!("task {id} needs a person ({})", status()))))
        }
        _ if late => Some(Err(Failure::StillWaiting(format!(
            "task {id} is still {} after {}; continue with 'watchbill get {id} --wait'",
            status(),
            span(args.timeout)
        )))),
        _ => None,
    }
}

fn state(task: &Value) -> String {
    let agent = text(task, "assigned_to");
    let agent = if agent.is_empty() { agent } else { format!(" · {agent}") };
    match next_step(task) {
        Some(next) => format!("{}{agent} · {next}", text(task, "status")),
        None => format!("{}{agent}", text(task, "status")),
    }
}
