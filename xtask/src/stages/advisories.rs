//! Checks Cargo.lock against a pinned copy of the list of advisories, without the network.
//!
//! `advisories.toml` is that copy: facts from the RustSec database on our dependencies, with the
//! revisions read. It lists which crates were looked up and when; any other crate may have
//! advisories. Its head tells how to update it.
//!
//! A hit fails until the crate is updated, or deny.toml says why it may stay, and until when: an
//! entry of `[advisories] ignore` in cargo-deny's format whose reason begins with `until
//! YYYY-MM-DD: `. An expired or unused entry fails too.

use std::collections::BTreeSet;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use semver::{Version, VersionReq};
use toml::Table;

use super::deny::{string, strings, tables};
use crate::ctx::Ctx;

/// The complaints, and the summary line that is always printed.
pub fn complaints(ctx: &Ctx, deny: &str) -> Result<(Vec<String>, String)> {
    let read = |name: &str| {
        fs::read_to_string(ctx.root.join(name)).with_context(|| format!("can't read {name}"))
    };
    let list = List::read(&read("xtask/advisories.toml")?)?;
    let locked = locked(&read("Cargo.lock")?)?;
    let complaints = list.complaints(&locked, &Exception::all(deny)?, &today());
    Ok((complaints, list.summary(&locked)))
}

struct List {
    advisories: Vec<Advisory>,
    /// Crates whose advisories are all here, as of `read`.
    looked_up: BTreeSet<String>,
    read: String,
}

struct Advisory {
    id: String,
    name: String,
    /// Versions that are not affected: patched ones, and those from before the fault.
    fine: Vec<VersionReq>,
    what: String,
}

struct Exception {
    id: String,
    until: String,
}

impl List {
    fn read(text: &str) -> Result<Self> {
        let file: Table = text.parse().context("advisories.toml is not TOML")?;
        let head = file
            .get("list")
            .and_then(|list| list.as_table())
            .context("advisories.toml has no [list]")?;
        let advisories: Vec<Advisory> =
            tables(&file, "advisory").map(Advisory::read).collect::<Result<_>>()?;
        let mut looked_up: BTreeSet<String> = strings(head, "looked_up").into_iter().collect();
        looked_up.extend(advisories.iter().map(|advisory| advisory.name.clone()));
        let read = string(head, "read");
        if date(&read).is_none() {
            bail!("advisories.toml has read = '{read}', which is not a date such as 2026-01-31");
        }
        Ok(Self { advisories, looked_up, read })
    }

    fn complaints(
        &self,
        locked: &[(String, Version)],
        exceptions: &[Exception],
        today: &str,
    ) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut used = BTreeSet::new();
        for (name, version) in locked {
            for advisory in self.advisories.iter().filter(|one| one.hits(name, version)) {
                let Advisory { id, what, .. } = advisory;
                match exceptions.iter().find(|exception| exception.id == *id) {
                    None => complaints.push(format!("{name} {version} has {id}: {what}")),
                    Some(exception) => {
                        used.insert(id.as_str());
                        if exception.until.as_str() < today {
                            let until = &exception.until;
                            complaints.push(format!(
                                "{name} {version} has {id}: {what}; it was excepted until {until}"
                            ));
                        }
                    }
                }
            }
        }
        let unused = exceptions.iter().filter(|exception| !used.contains(exception.id.as_str()));
        complaints.extend(unused.map(|exception| {
            format!("deny.toml excepts {}, which no crate has: remove it", exception.id)
        }));
        complaints
    }

    fn summary(&self, locked: &[(String, Version)]) -> String {
        let names: BTreeSet<&str> = locked.iter().map(|(name, _)| name.as_str()).collect();
        let looked_up = names.iter().filter(|name| self.looked_up.contains(**name)).count();
        format!(
            "{} advisories, read on {}, over {looked_up} of {} crates in Cargo.lock; the others \
             were not looked up",
            self.advisories.len(),
            self.read,
            names.len()
        )
    }
}

impl Advisory {
    fn read(table: &Table) -> Result<Self> {
        let id = string(table, "id");
        for field in ["id", "crate", "what", "revision"] {
            if string(table, field).is_empty() {
                bail!("advisories.toml: the advisory '{id}' has no {field}");
            }
        }
        let ranges = strings(table, "patched").into_iter().chain(strings(table, "unaffected"));
        let parse = |range: String| {
            VersionReq::parse(&range).with_context(|| format!("{id}: invalid range '{range}'"))
        };
        let fine = ranges.map(parse).collect::<Result<_>>()?;
        Ok(Self { name: string(table, "crate"), what: string(table, "what"), fine, id })
    }

    fn hits(&self, name: &str, version: &Version) -> bool {
        self.name == name && !self.fine.iter().any(|range| range.matches(version))
    }
}

impl Exception {
    fn all(deny: &str) -> Result<Vec<Self>> {
        let file: Table = deny.parse().context("deny.toml is not TOML")?;
        let Some(section) = file.get("advisories").and_then(|one| one.as_table()) else {
            return Ok(Vec::new());
        };
        tables(section, "ignore").map(Self::read).collect()
    }

    fn read(table: &Table) -> Result<Self> {
        let (id, reason) = (string(table, "id"), string(table, "reason"));
        let until = reason
            .strip_prefix("until ")
            .and_then(|rest| rest.split_once(": "))
            .and_then(|(until, why)| Some(date(until)?.to_owned()).filter(|_| !why.is_empty()));
        let until = until.with_context(|| {
            format!("deny.toml excepts '{id}' with '{reason}'; write 'until YYYY-MM-DD: why'")
        })?;
        Ok(Self { id, until })
    }
}

/// The crates in Cargo.lock that come from a registry.
fn locked(lock: &str) -> Result<Vec<(String, Version)>> {
    let file: Table = lock.parse().context("Cargo.lock is not TOML")?;
    let foreign = tables(&file, "package").filter(|package| package.contains_key("source"));
    let read = |package: &Table| {
        let (name, version) = (string(package, "name"), string(package, "version"));
        let version = Version::parse(&version)
            .with_context(|| format!("Cargo.lock has {name} in version '{version}'"))?;
        Ok((name, version))
    };
    foreign.map(read).collect()
}

/// Accepts a date as YYYY-MM-DD, which sorts as text.
fn date(text: &str) -> Option<&str> {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return None };
    let number = |part: &str, length: usize| {
        (part.len() == length).then(|| part.parse::<u32>().ok()).flatten()
    };
    let (_, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(text)
}

/// Today's date, UTC.
#[expect(clippy::disallowed_methods, reason = "an exception ends on a day of the calendar")]
fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    day(since.as_secs() / (24 * 60 * 60))
}

/// The date of a day, counted from 1970-01-01.
fn day(mut days: u64) -> String {
    let leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year:04}-{:02}-{:02}", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
        [list]
        read = "2026-11-30"
        looked_up = ["serde"]
        [[advisory]]
        id = "RUSTSEC-1"
        crate = "lru"
        patched = [">= 0.18.2", ">= 0.17.5, < 0.18.0-alpha.1"]
        unaffected = ["< 0.9.0"]
        revision = "abc"
        what = "frees twice"
    "#;

    fn complaints(version: &str, deny: &str, today: &str) -> Vec<String> {
        let lock = format!(
            "[[package]]\nname = \"lru\"\nversion = \"{version}\"\nsource = \"registry\"\n\
             [[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n"
        );
        let list = List::read(LIST).unwrap();
        list.complaints(&locked(&lock).unwrap(), &Exception::all(deny).unwrap(), today)
    }

    const EXCEPTED: &str = r#"
        [advisories]
        ignore = [{ id = "RUSTSEC-1", reason = "until 2027-01-31: no newer SDK" }]
    "#;

    #[test]
    fn a_version_in_the_range_is_a_hit_and_no_other() {
        for version in ["0.9.0", "0.16.4", "0.18.0", "0.18.1"] {
            let found = complaints(version, "", "2026-12-01");
            assert_eq!(found, [format!("lru {version} has RUSTSEC-1: frees twice")]);
        }
        for version in ["0.8.1", "0.17.5", "0.18.2", "1.0.0"] {
            assert_eq!(complaints(version, "", "2026-12-01"), [""; 0], "{version}");
        }
    }

    #[test]
    fn an_exception_holds_until_its_day_and_must_be_needed() {
        assert_eq!(complaints("0.16.4", EXCEPTED, "2027-01-31"), [""; 0]);
        let over = complaints("0.16.4", EXCEPTED, "2027-02-01");
        assert!(over.len() == 1 && over[0].contains("until 2027-01-31"), "{over:?}");
        let unused = complaints("0.18.2", EXCEPTED, "2026-12-01");
        assert!(unused.len() == 1 && unused[0].contains("remove it"), "{unused:?}");
    }

    #[test]
    fn an_exception_says_why_and_until_when() {
        for reason in ["no newer SDK", "until soon: x", "until 2027-13-01: x", "until 2027-01-01: "]
        {
            let deny =
                format!("[advisories]\nignore = [{{ id = \"RUSTSEC-1\", reason = \"{reason}\" }}]");
            assert!(Exception::all(&deny).is_err(), "{reason}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, wanted) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_787, "2026-11-30")]
        {
            assert_eq!(day(days), wanted);
        }
    }

    /// The shipped list can be read, and is the one that the stage uses.
    #[test]
    fn the_pinned_list_is_one() {
        let list = List::read(include_str!("../../advisories.toml")).unwrap();
        assert!(list.advisories.iter().any(|one| one.id == "RUSTSEC-2026-0253"));
        let mut ids: Vec<&str> = list.advisories.iter().map(|one| one.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), list.advisories.len(), "each once");
    }
}
