//! Following events, for as long as somebody reads.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::WatchArgs;
use super::client::{Call, Client};
use super::failure::Failure;
use super::out::{Answer, Out, Style};
use super::text::{fit, moment, width};
use super::view::{pairs, text, time};

/// How long the server holds a call open where nothing happens, in seconds.
const HELD: u64 = 20;
/// Calls are no closer than this: a burst stays within 60 a minute, and a server that does
/// not hold calls is not asked in a circle.
const CLOSEST: Duration = Duration::from_secs(1);
/// Pauses while the server can't be reached, in seconds; the last one stays.
const BACKOFF: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// Delivery is at least once; so many ids are remembered to show each event once.
const REMEMBERED: usize = 512;

/// Pages that are looked through for the first events that fit.
const LOOK_BACK: usize = 8;

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
    /// Where the server goes on after the last page: it walks only so far in one call.
    cursor: Option<String>,
    seen: VecDeque<String>,
}

/// Never returns `Ok`: it ends with the reader, a refusal, or Ctrl-C.
pub async fn follow(client: &Client, out: &mut Out, args: &WatchArgs) -> Result<(), Failure> {
    let mut follower = Follower { args, after: String::new(), cursor: None, seen: VecDeque::new() };
    let shown = usize::try_from(args.last).unwrap_or(usize::MAX);
    for _ in 0..LOOK_BACK {
        let newest = client.ask(follower.call().query("limit", args.last.max(1)), out).await?;
        // An empty page with a cursor has looked at a part only: what is asked for may be older.
        follower.cursor = follower.page(out, &newest, shown)?;
        if !follower.after.is_empty() || follower.cursor.is_none() {
            break;
        }
    }
    // From here on it goes the other way.
    follower.cursor = None;
    let mut failures = 0;
    loop {
        let asked = client.clock.monotonic();
        // Failures are told at once, so that nobody looks at a silent screen.
        match client.ask_once(&follower.call().held(HELD)).await {
            Ok(answer) => {
                if failures > 0 {
                    out.note("connected again");
                }
                failures = 0;
                let before = follower.after.clone();
                let next = follower.page(out, &answer, usize::MAX)?;
                follower.went_on(&before, next);
                let took = client.clock.monotonic().saturating_sub(asked);
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
        // The server knows a group by its dot.
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

    /// Where the next call goes on. Without a new cursor and a new event the last still stands:
    /// nothing came after it yet. Before the first event there is no way on, only the newest.
    fn went_on(&mut self, before: &str, next: Option<String>) {
        if before.is_empty() {
            self.cursor = None;
        } else if next.is_some() || self.after != before {
            self.cursor = next;
        }
    }

    /// Prints what is new and wanted of one answer; gives its cursor.
    fn page(
        &mut self,
        out: &mut Out,
        answer: &Answer,
        most: usize,
    ) -> Result<Option<String>, Failure> {
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::Nonsense("GET /events".to_owned(), e.to_string()))?;
        let mut events = page.events;
        // Newest first, but ascending after an event: the contract of GET /events.
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
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(id.to_owned());
        true
    }

    /// Filtered here once more, for servers that know no filters.
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

fn show(out: &mut Out, raw: &str, event: &Value) -> Result<(), Failure> {
    if out.json {
        // One event, one line: a server may have written it over several.
        let one = if raw.contains('\n') { event.to_string() } else { raw.to_owned() };
        return Ok(out.line(&one)?);
    }
    let at = time(event, "timestamp").map(moment).unwrap_or_default();
    // On a screen the time of day does, and leaves room for a whole task id in 80 columns.
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
