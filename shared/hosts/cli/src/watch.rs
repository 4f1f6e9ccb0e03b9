//! Follows events until the command is ended.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::WatchArgs;
use super::client::{Call, Client};
use super::failure::Failure;
use super::out::{Output, Response, Style};
use super::text::{fit, moment, width};
use super::view::{pairs, text, time};

/// How long the server holds a call open while nothing happens, in seconds.
const HELD: u64 = 20;
/// The shortest time between calls: a burst stays within 60 a minute, and a server that does not
/// hold calls is not polled in a tight loop.
const CLOSEST: Duration = Duration::from_secs(1);
/// Pauses while the server can't be reached, in seconds; the last one repeats.
const BACKOFF: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// How many ids are remembered. Delivery is at least once, and each event is shown once.
const CACHE_SIZE: usize = 512;

/// How many pages are read to find the first matching events.
const MAX_PAGES_BACK: usize = 8;

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    #[serde(default)]
    next_cursor: Option<String>,
}

struct Follower<'a> {
    args: &'a WatchArgs,
    after: String,
    /// Where the server continues: it reads only a limited part per call.
    cursor: Option<String>,
    seen: VecDeque<String>,
}

/// Never returns `Ok`: it ends when the output is closed, on a refusal, or on Ctrl-C.
pub async fn follow(client: &Client, out: &mut Output, args: &WatchArgs) -> Result<(), Failure> {
    let mut follower = Follower { args, after: String::new(), cursor: None, seen: VecDeque::new() };
    let shown = usize::try_from(args.last).unwrap_or(usize::MAX);
    for _ in 0..MAX_PAGES_BACK {
        let newest = client.ask(follower.call().query("limit", args.last.max(1)), out).await?;
        // An empty page with a cursor covers only a part: matching events may be older.
        follower.cursor = follower.page(out, &newest, shown)?;
        if !follower.after.is_empty() || follower.cursor.is_none() {
            break;
        }
    }
    // From here on it reads forward.
    follower.cursor = None;
    let mut failures = 0;
    loop {
        let started = client.clock.monotonic();
        // Failures are reported at once instead of retried silently.
        match client.ask_once(&follower.call().held(HELD)).await {
            Ok(answer) => {
                if failures > 0 {
                    out.note("reconnected");
                }
                failures = 0;
                let before = follower.after.clone();
                let next = follower.page(out, &answer, usize::MAX)?;
                follower.went_on(&before, next);
                let took = client.clock.monotonic().saturating_sub(started);
                client.clock.sleep(CLOSEST.saturating_sub(took)).await;
            }
            Err(failure) if failure.is_passing() => {
                let pause = BACKOFF[usize::min(failures, BACKOFF.len() - 1)];
                let pause = pause.max(failure.retry_after().unwrap_or(0));
                let failure = failure.to_string();
                let what = failure.lines().next().unwrap_or_default();
                out.note(&format!("{what}; trying again in {pause} s"));
                client.clock.sleep(Duration::from_secs(pause)).await;
                failures += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
}

impl Follower<'_> {
    fn call(&self) -> Call {
        let after = Some(self.after.as_str()).filter(|after| !after.is_empty());
        // The server recognizes a group by the dot at its end.
        let group = self.args.event_type.as_deref().map(|t| match t.contains('.') {
            true => t.to_owned(),
            false => format!("{t}."),
        });
        Call::get(&["events"])
            .filter("type", group.as_deref())
            .filter("task_id", self.args.task.as_deref())
            .filter("after", after)
            .filter("cursor", self.cursor.as_deref())
    }

    /// Sets where the next call continues. Without a new cursor or event the last cursor stays
    /// valid. Before the first event only the newest page can be read.
    fn went_on(&mut self, before: &str, next: Option<String>) {
        if before.is_empty() {
            self.cursor = None;
        } else if next.is_some() || self.after != before {
            self.cursor = next;
        }
    }

    /// Prints the new matching events of one response and returns its cursor.
    fn page(
        &mut self,
        out: &mut Output,
        answer: &Response,
        most: usize,
    ) -> Result<Option<String>, Failure> {
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::Nonsense("GET /events".to_owned(), e.to_string()))?;
        let mut events = page.events;
        // Newest first without `after`, ascending with it: the contract of GET /events.
        if self.after.is_empty() {
            events.reverse();
        }
        let early = events.len().saturating_sub(most);
        for (i, raw) in events.into_iter().enumerate() {
            let event: Value = serde_json::from_str(raw.get()).unwrap_or_default();
            let id = text(&event, "event_id");
            if !self.is_new(&id) {
                continue;
            }
            self.after = id;
            if i >= early && self.is_wanted(&event) {
                show(out, raw.get(), &event)?;
            }
        }
        Ok(page.next_cursor)
    }

    fn is_new(&mut self, id: &str) -> bool {
        if self.seen.iter().any(|seen| seen == id) {
            return false;
        }
        if self.seen.len() == CACHE_SIZE {
            self.seen.pop_front();
        }
        self.seen.push_back(id.to_owned());
        true
    }

    /// Filters again, for servers that ignore the filters.
    fn is_wanted(&self, event: &Value) -> bool {
        let kind = event["event_type"].as_str().unwrap_or_default();
        let of_type = match self.args.event_type.as_deref() {
            Some(group) if group.ends_with('.') => kind.starts_with(group),
            Some(one) if !one.contains('.') => kind.split('.').next() == Some(one),
            Some(one) => kind == one,
            None => true,
        };
        let of_task = self.args.task.as_deref().is_none_or(|id| event["task_id"] == id);
        of_type && of_task
    }
}

fn show(out: &mut Output, raw: &str, event: &Value) -> Result<(), Failure> {
    if out.json {
        // One event per line: a server may have written it over several.
        let one = if raw.contains('\n') { event.to_string() } else { raw.to_owned() };
        return Ok(out.line(&one)?);
    }
    let at = time(event, "timestamp").map(moment).unwrap_or_default();
    // On a terminal the time of day suffices, and a whole task id fits in 80 columns.
    let at = match (out.columns(), at.split_once(' ')) {
        (Some(_), Some((_, of_day))) => of_day.to_owned(),
        _ => at,
    };
    let kind = text(event, "event_type");
    let verb = kind.split('.').nth(1).unwrap_or_default();
    let style = match verb {
        "completed" | "succeeded" | "resolved" | "approved" | "passed" | "recovered" => Style::Good,
        "failed" | "violation" | "denied" | "exceeded" | "rejected" | "triggered" => Style::Bad,
        "warning" | "requested" | "expired" | "degraded" | "opened" => Style::Warn,
        "started" => Style::Busy,
        _ => Style::Plain,
    };
    let head = format!("{at}  {kind:<20}  {:<7}  ", text(event, "source_agent"));
    let tail = [text(event, "task_id"), pairs(&event["payload"])];
    let tail: Vec<String> = tail.into_iter().filter(|t| !t.is_empty()).collect();
    let tail = tail.join("  ");
    let room = out.columns().map_or(usize::MAX, |wide| wide.saturating_sub(width(&head)));
    let painted = out.paint(style, &format!("{kind:<20}"));
    let head = head.replacen(&format!("{kind:<20}"), &painted, 1);
    Ok(out.line(&format!("{head}{}", fit(&tail, room)))?)
}
