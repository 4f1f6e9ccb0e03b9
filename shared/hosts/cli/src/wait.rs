//! Following one task to its end, with a live line where there is a terminal.

use std::time::Duration;

use serde_json::Value;

use super::args::WaitArgs;
use super::card::next_step;
use super::client::{Call, Client};
use super::failure::Failure;
use super::out::{Answer, Out};
use super::text::span;
use super::view::text;

/// How long the server holds a look open where nothing changes, in seconds.
const HELD: u64 = 20;
/// Pauses where a look brought nothing new, in milliseconds; the last one stays. Even a server
/// that does not hold calls is asked no more than 26 times a minute.
const PAUSES_MS: [u64; 6] = [250, 400, 600, 1_000, 1_600, 2_500];
/// How often the live line is drawn anew.
const FRAME: Duration = Duration::from_millis(200);
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// How the wait ended, with the task as it was last seen.
pub struct Waited {
    pub answer: Answer,
    pub end: Result<(), Failure>,
}

enum Standing {
    Open,
    NeedsAPerson,
    Completed,
    EndedBadly,
}

fn standing(task: &Value) -> Standing {
    match task["status"].as_str().unwrap_or_default() {
        "completed" => Standing::Completed,
        "failed" | "cancelled" => Standing::EndedBadly,
        "blocked" | "pending" if next_step(task).is_some() => Standing::NeedsAPerson,
        _ => Standing::Open,
    }
}

/// Looks at the task until it is finished, needs a person, or time is up.
pub async fn until_settled(
    client: &Client,
    out: &mut Out,
    id: &str,
    args: &WaitArgs,
) -> Result<Waited, Failure> {
    let mut watch = Watch { client, start: client.clock.monotonic(), said: String::new() };
    let mut version = None;
    let mut outcome: Result<Answer, Failure> =
        Ok(client.ask(Call::get(&["tasks", id]), out).await?);
    let mut idle = 0;
    loop {
        let left = args.timeout.saturating_sub(watch.elapsed());
        let mut asked_for = Duration::ZERO;
        let state = match outcome {
            Ok(answer) => {
                let task = &answer.value["task"];
                if let Some(end) = end(id, task, args, left.is_zero()) {
                    out.undraw();
                    return Ok(Waited { end, answer });
                }
                let newer = task["version"].as_u64();
                idle = if newer == version { idle + 1 } else { 0 };
                version = newer;
                state(task)
            }
            // A server that restarts does not end the wait.
            Err(failure) if failure.is_passing() && !left.is_zero() => {
                idle += 1;
                asked_for = Duration::from_secs(failure.retry_after().unwrap_or(0));
                "server not reachable".to_owned()
            }
            Err(failure) => return Err(failure),
        };
        watch.say(out, id, &state);
        if idle > 0 {
            let pause = PAUSES_MS[usize::min(idle - 1, PAUSES_MS.len() - 1)];
            let pause = Duration::from_millis(pause).max(asked_for).min(left);
            watch.draw_while(out, &state, client.clock.sleep(pause)).await;
        }
        let held = args.timeout.saturating_sub(watch.elapsed()).as_secs().min(HELD);
        let mut look = Call::get(&["tasks", id]);
        if let Some(version) = version {
            look = look.query("version", version).held(held);
        }
        outcome = watch.draw_while(out, &state, client.ask_once(&look)).await;
    }
}

struct Watch<'a> {
    client: &'a Client,
    start: Duration,
    said: String,
}

impl Watch<'_> {
    fn elapsed(&self) -> Duration {
        self.client.clock.monotonic().saturating_sub(self.start)
    }

    /// Where no line can be drawn over, each new state is a line of its own.
    fn say(&mut self, out: &mut Out, id: &str, state: &str) {
        if !out.is_live() && self.said != state {
            out.note(&format!("{id} {state} after {}", span(self.elapsed())));
            state.clone_into(&mut self.said);
        }
    }

    /// Keeps the live line alive until `work` is done.
    async fn draw_while<T>(&self, out: &mut Out, state: &str, work: impl Future<Output = T>) -> T {
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
    match standing(task) {
        Standing::Completed => Some(Ok(())),
        Standing::EndedBadly => {
            Some(Err(Failure::TaskFailed { id: id.to_owned(), status: status() }))
        }
        Standing::NeedsAPerson if !args.through_approval => {
            Some(Err(Failure::StillWaiting(format!("task {id} needs a person ({})", status()))))
        }
        _ if late => Some(Err(Failure::StillWaiting(format!(
            "task {id} is still {} after {}; go on with 'watchbill get {id} --wait'",
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
