//! Freezes: times in which mutating work is deferred, and who may override them.

use std::collections::BTreeSet;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{ToSpan as _, Zoned};
use watchbill_domain::{Override, Role, Timestamp};

use super::EnvironmentKind;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Windows that a clock change makes adjacent count as one. More than this many never are.
const MEETING: usize = 8;

/// A time in which mutating work is deferred.
#[derive(Clone, Debug, PartialEq)]
pub struct Freeze {
    pub name: String,
    pub reason: String,
    pub environments: BTreeSet<EnvironmentKind>,
    pub when: FreezeWhen,
    /// These roles, and callers with these names, may let a task pass it.
    pub override_roles: BTreeSet<Role>,
    pub override_names: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FreezeWhen {
    /// From one time to another.
    Once { from: Timestamp, until: Timestamp },
    /// Each week, in an IANA time zone: from a weekday (Monday is 1) and minute of the day to
    /// another. It never holds if both ends are the same.
    Weekly { zone: TimeZone, from: (i8, u16), until: (i8, u16) },
}

impl Freeze {
    /// The end of the freeze if it holds now.
    pub fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        let mut until = self.window_at(now)?;
        for _ in 0..MEETING {
            match self.window_at(until) {
                Some(later) => until = later,
                None => return Some(until),
            }
        }
        Some(until)
    }

    /// The next start after now, and the end of the freeze that starts then.
    pub fn next(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let from = match &self.when {
            FreezeWhen::Once { from, .. } => Some(*from).filter(|from| now < *from)?,
            FreezeWhen::Weekly { zone, from, until } => {
                let today = local(now, zone)?.date();
                let begins = |week: i64| window(zone, *from, *until, today, week);
                (0..=2).filter_map(begins).map(|(from, _)| from).find(|from| now < *from)?
            }
        };
        Some((from, self.holds_until(from)?))
    }

    pub fn may_override(&self, name: &str, role: Role) -> bool {
        self.override_names.contains(name) || self.override_roles.iter().any(|r| role.includes(*r))
    }

    /// The end of the window that contains `now`.
    fn window_at(&self, now: Timestamp) -> Option<Timestamp> {
        let inside =
            |(from, until): (Timestamp, Timestamp)| (from <= now && now < until).then_some(until);
        match &self.when {
            FreezeWhen::Once { from, until } => inside((*from, *until)),
            FreezeWhen::Weekly { zone, from, until } => {
                let today = local(now, zone)?.date();
                // A window that began up to a week ago, and one that begins today.
                let windows = (-1..=1).filter_map(|week| window(zone, *from, *until, today, week));
                windows.filter_map(inside).max()
            }
        }
    }
}

/// Whether an override lets its task pass the freeze that ends at `until`. It applies to the
/// freeze that held when it was given, or else to the next one. A recurring freeze, such as one
/// each weekend, needs a new override each time.
pub fn override_passes(given: &Override, freeze: &Freeze, until: Timestamp) -> bool {
    let meant = freeze.holds_until(given.at).or(freeze.next(given.at).map(|(_, until)| until));
    given.freeze == freeze.name && meant == Some(until)
}

fn local(now: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let now = jiff::Timestamp::from_millisecond(now.millis()).ok()?;
    Some(now.to_zoned(zone.clone()))
}

/// The window that begins in the seven days up to `today`, or `week` weeks later.
///
/// Its ends are local times. A local time that a clock change skips is moved later by the
/// length of the gap; of one that occurs twice the first counts.
fn window(
    zone: &TimeZone,
    from: (i8, u16),
    until: (i8, u16),
    today: Date,
    week: i64,
) -> Option<(Timestamp, Timestamp)> {
    let since = (today.weekday().to_monday_one_offset() - from.0).rem_euclid(7);
    let first = today.checked_add((week * 7 - i64::from(since)).days()).ok()?;
    let mut days = (until.0 - from.0).rem_euclid(7);
    if days == 0 && until.1 < from.1 {
        days = 7;
    }
    let last = first.checked_add(i64::from(days).days()).ok()?;
    Some((moment(zone, first, from.1)?, moment(zone, last, until.1)?))
}

fn moment(zone: &TimeZone, date: Date, minute: u16) -> Option<Timestamp> {
    let minute = minute % DAY;
    let time = Time::new((minute / 60) as i8, (minute % 60) as i8, 0, 0).ok()?;
    let zoned = DateTime::from_parts(date, time).to_zoned(zone.clone()).ok()?;
    Some(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn weekly(zone: &str, from: (i8, u16), until: (i8, u16)) -> Freeze {
        let zone = TimeZone::get(zone).unwrap();
        freeze(FreezeWhen::Weekly { zone, from, until })
    }

    fn freeze(when: FreezeWhen) -> Freeze {
        Freeze {
            name: "f".into(),
            reason: "r".into(),
            environments: BTreeSet::new(),
            when,
            override_roles: [Role::Approver].into(),
            override_names: ["boss".to_owned()].into(),
        }
    }

    #[test]
    fn an_override_is_for_one_weekend() {
        let weekend = weekly("Europe/Berlin", (5, 18 * 60), (1, 6 * 60));
        let (this, next) = (at("2026-11-23T05:00:00Z"), at("2026-11-30T05:00:00Z"));
        let given = |text: &str| Override {
            freeze: "f".into(),
            by: "boss".into(),
            at: at(text),
            reason: "urgent".into(),
        };
        // Before it began, and while it held.
        for early in ["2026-11-19T12:00:00Z", "2026-11-21T12:00:00Z"] {
            assert!(override_passes(&given(early), &weekend, this), "{early}");
            assert!(
                !override_passes(&given(early), &weekend, next),
                "{early}: the next one asks again"
            );
        }
        let other = Freeze { name: "other".into(), ..weekend };
        assert!(!override_passes(&given("2026-11-21T12:00:00Z"), &other, this));
    }

    #[test]
    fn a_window_over_the_weekend_crosses_the_weeks_end() {
        let weekend = weekly("Europe/Berlin", (5, 18 * 60), (1, 6 * 60));
        let until = at("2026-11-23T05:00:00Z");
        assert_eq!(weekend.holds_until(at("2026-11-20T16:59:59Z")), None);
        for inside in ["2026-11-20T17:00:00Z", "2026-11-22T12:00:00Z", "2026-11-23T04:59:59Z"] {
            assert_eq!(weekend.holds_until(at(inside)), Some(until), "{inside}");
        }
        assert_eq!(weekend.holds_until(until), None);
        let next = weekend.next(at("2026-11-22T12:00:00Z"));
        assert_eq!(next, Some((at("2026-11-27T17:00:00Z"), at("2026-11-30T05:00:00Z"))));
    }

    #[test]
    fn ends_are_local_times() {
        // Clocks go back on 25 October 2026 and forward on 29 March 2026.
        let weekend = weekly("Europe/Berlin", (5, 18 * 60), (1, 6 * 60));
        let holds = |now| weekend.holds_until(at(now)).unwrap();
        assert_eq!(holds("2026-10-23T17:00:00Z"), at("2026-10-26T05:00:00Z"));
        assert_eq!(holds("2026-03-28T12:00:00Z"), at("2026-03-30T04:00:00Z"));
        // From a local time that does not exist to one on the same day.
        let night = weekly("Europe/Berlin", (7, 2 * 60 + 30), (7, 4 * 60));
        assert_eq!(night.holds_until(at("2026-03-29T01:15:00Z")), None);
        assert_eq!(night.holds_until(at("2026-03-29T01:30:00Z")), Some(at("2026-03-29T02:00:00Z")));
    }

    #[test]
    fn a_window_may_last_almost_the_week() {
        let all = weekly("UTC", (3, 600), (3, 599));
        assert_eq!(all.holds_until(at("2026-11-18T09:59:30Z")), None);
        let until = Some(at("2026-11-25T09:59:00Z"));
        assert_eq!(all.holds_until(at("2026-11-18T10:00:00Z")), until);
        assert_eq!(all.holds_until(at("2026-11-25T09:58:00Z")), until);
        let never = weekly("UTC", (3, 600), (3, 600));
        assert_eq!(never.holds_until(at("2026-11-18T10:00:00Z")), None);
    }

    #[test]
    fn a_single_window_holds_from_its_first_moment_until_before_its_last() {
        let (from, until) = (at("2026-12-28T00:00:00Z"), at("2027-01-04T00:00:00Z"));
        let once = freeze(FreezeWhen::Once { from, until });
        assert_eq!(once.next(at("2026-11-20T00:00:00Z")), Some((from, until)));
        assert_eq!((once.holds_until(from), once.holds_until(until)), (Some(until), None));
        assert_eq!(once.next(from), None);
    }

    #[test]
    fn roles_and_names_may_pass() {
        let freeze = weekly("UTC", (1, 0), (2, 0));
        for (name, role, may) in [
            ("boss", Role::User, true),
            ("other", Role::Approver, true),
            ("other", Role::Admin, true),
            ("other", Role::Agent, false),
            ("other", Role::User, false),
        ] {
            assert_eq!(freeze.may_override(name, role), may, "{name} {role:?}");
        }
    }

    const ZONES: &[&str] = &[
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "America/Sao_Paulo",
    ];

    proptest! {
        #[test]
        fn a_freeze_holds_until_its_reported_end(
            zone in 0..ZONES.len(),
            from in (1i8..=7, 0u16..DAY),
            until in (1i8..=7, 0u16..DAY),
            // 2000 to 2050.
            now in 946_684_800_000i64..2_524_608_000_000,
        ) {
            let freeze = weekly(ZONES[zone], from, until);
            let now = Timestamp::from_millis(now);
            if let Some(end) = freeze.holds_until(now) {
                prop_assert!(now < end);
                prop_assert_eq!(freeze.holds_until(end), None);
                let before = Timestamp::from_millis(end.millis() - 1);
                prop_assert_eq!(freeze.holds_until(before), Some(end));
            } else if let Some((begins, ends)) = freeze.next(now) {
                prop_assert!(now < begins && begins < ends);
                let before = Timestamp::from_millis(begins.millis() - 1);
                prop_assert_eq!(freeze.holds_until(before), None);
            }
        }

        #[test]
        fn it_holds_by_local_time(
            zone in 0..ZONES.len(),
            from in (1i8..=7, 0u16..DAY),
            until in (1i8..=7, 0u16..DAY),
            now in 946_684_800_000i64..2_524_608_000_000,
        ) {
            let freeze = weekly(ZONES[zone], from, until);
            let now = Timestamp::from_millis(now);
            let wall = local(now, &TimeZone::get(ZONES[zone]).unwrap()).unwrap();
            // Near a clock change a local time occurs twice, or not at all.
            let hours = |n: i64| wall.checked_add(n.hours()).unwrap().offset();
            prop_assume!((-30..=30).all(|n| hours(n * 6) == wall.offset()));
            let minute = |(day, minute): (i8, u16)| i32::from(day - 1) * 1_440 + i32::from(minute);
            let day = wall.weekday().to_monday_one_offset();
            let now_minute = minute((day, wall.hour() as u16 * 60 + wall.minute() as u16));
            let since = (now_minute - minute(from)).rem_euclid(7 * 1_440);
            let long = (minute(until) - minute(from)).rem_euclid(7 * 1_440);
            prop_assert_eq!(freeze.holds_until(now).is_some(), since < long);
        }
    }
}
