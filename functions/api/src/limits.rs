//! Rate limits per caller and route. A window of one minute begins with a caller's first call,
//! and its count is dropped with it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::time::Duration;

use crate::config::ConfigError;
use crate::route::Route;

const MINUTE: Duration = Duration::from_secs(60);
const SHARDS: usize = 16;
/// Maximum windows in all shards: about 4 MB for callers with a key and as much for those
/// without. Callers beyond it share one window per route.
const MAX_WINDOWS: usize = 64 * 1024;

const DEFAULTS: &[(&str, u32)] =
    &[("POST /tasks", 30), ("POST /events/publish", 100), ("GET /health", 300)];
const DEFAULT_OTHERS: u32 = 60;

/// The setting: `off`, or routes with calls per minute; `*` covers every route that the setting
/// does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimits {
    Off,
    On { named: Vec<(String, u32)>, others: u32 },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RateLimitsError {
    #[error("rate limit '{0}' is not of the form 'POST /tasks=600' or '*=1200'")]
    Form(String),
    #[error("rate limit '{part}': '{value}' is not a number of calls per minute from 1 to 1000000")]
    Number { part: String, value: String },
    #[error("rate limit '{0}' is given twice")]
    Twice(String),
}

impl Default for RateLimits {
    fn default() -> Self {
        let named = DEFAULTS.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
        RateLimits::On { named, others: DEFAULT_OTHERS }
    }
}

impl RateLimits {
    pub fn parse(text: &str) -> Result<Self, RateLimitsError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("off") {
            return Ok(RateLimits::Off);
        }
        let mut given: Vec<(String, u32)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let form = || RateLimitsError::Form(part.to_owned());
            let (name, value) = part.rsplit_once('=').ok_or_else(form)?;
            let (name, value) = (name.trim(), value.trim());
            let route = name.split_once(' ').map(|(verb, path)| (verb, path.trim()));
            let name = match route {
                None if name == "*" => name.to_owned(),
                Some((verb, path)) if path.starts_with('/') => {
                    format!("{} {path}", verb.to_ascii_uppercase())
                }
                _ => return Err(form()),
            };
            let limit = value.parse().ok().filter(|n| (1..=1_000_000).contains(n));
            let limit = limit.ok_or_else(|| RateLimitsError::Number {
                part: part.to_owned(),
                value: value.to_owned(),
            })?;
            if given.iter().any(|(other, _)| *other == name) {
                return Err(RateLimitsError::Twice(name));
            }
            given.push((name, limit));
        }
        Ok(Self::over_defaults(given))
    }

    fn over_defaults(mut given: Vec<(String, u32)>) -> Self {
        let all = given.iter().position(|(name, _)| name == "*").map(|at| given.remove(at).1);
        if all.is_none() {
            for (name, limit) in DEFAULTS {
                if !given.iter().any(|(other, _)| other == name) {
                    given.push(((*name).to_owned(), *limit));
                }
            }
        }
        RateLimits::On { named: given, others: all.unwrap_or(DEFAULT_OTHERS) }
    }

    /// Calls per minute of a route; `None` if limits are off.
    fn of(&self, name: &str) -> Option<u32> {
        match self {
            RateLimits::Off => None,
            RateLimits::On { named, others } => {
                Some(named.iter().find(|(n, _)| n == name).map_or(*others, |(_, limit)| *limit))
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Window {
    start: Duration,
    count: u32,
}

/// The state of a caller's window after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub limit: u32,
    pub remaining: u32,
    /// Time until the window ends.
    pub reset: Duration,
    /// Over the limit: the call must not be carried out.
    pub refused: bool,
}

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// A caller authenticated by a key, a token or a link.
    Known(String),
    /// Anyone else, by address. They are counted separately: however many addresses they use,
    /// callers with a key keep their own windows.
    Stranger(String),
}

type Shard = Mutex<HashMap<(usize, u64), Window>>;

pub struct Limiter {
    /// By the route's index in the table; the last one is for calls without a route.
    limits: Vec<Option<u32>>,
    known: Vec<Shard>,
    strangers: Vec<Shard>,
    hasher: RandomState,
    most: usize,
}

impl Limiter {
    pub fn new(setting: &RateLimits, routes: &[&Route]) -> Result<Self, ConfigError> {
        if let RateLimits::On { named, .. } = setting {
            let known = |name: &str| routes.iter().any(|route| route.name() == name);
            if let Some((name, _)) = named.iter().find(|(name, _)| !known(name)) {
                return Err(ConfigError::NoSuchRoute(name.clone()));
            }
        }
        let mut limits: Vec<_> = routes.iter().map(|route| setting.of(&route.name())).collect();
        limits.push(setting.of("*"));
        Ok(Self {
            limits,
            known: (0..SHARDS).map(|_| Mutex::default()).collect(),
            strangers: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            most: MAX_WINDOWS / SHARDS,
        })
    }

    /// The index for calls without a route.
    pub fn no_route(&self) -> usize {
        self.limits.len() - 1
    }

    /// Counts one call at a monotonic time. Returns `None` if limits are off.
    pub fn take(&self, route: usize, caller: &LimitKey, now: Duration) -> Option<RateLimit> {
        let limit = self.limits[route]?;
        let shards = match caller {
            LimitKey::Known(_) => &self.known,
            LimitKey::Stranger(_) => &self.strangers,
        };
        let caller = self.hasher.hash_one(caller);
        let mut shard = shards[(caller % SHARDS as u64) as usize]
            .lock()
            .expect("nothing under this lock panics");
        let ended = |window: &Window| now.saturating_sub(window.start) >= MINUTE;
        let mut key = (route, caller);
        if shard.len() >= self.most && !shard.contains_key(&key) {
            shard.retain(|_, window| !ended(window));
            if shard.len() >= self.most {
                key = (route, 0);
            }
        }
        let window = shard.entry(key).or_insert(Window { start: now, count: 0 });
        if ended(window) {
            *window = Window { start: now, count: 0 };
        }
        let refused = window.count >= limit;
        window.count = window.count.saturating_add(u32::from(!refused));
        Some(RateLimit {
            limit,
            remaining: limit - window.count,
            reset: MINUTE.saturating_sub(now.saturating_sub(window.start)),
            refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;

    fn known(name: &str) -> LimitKey {
        LimitKey::Known(name.into())
    }

    fn limiter(setting: &str) -> Limiter {
        let routes: Vec<_> = ROUTES.iter().flat_map(|group| group.iter()).collect();
        Limiter::new(&RateLimits::parse(setting).unwrap(), &routes).unwrap()
    }

    #[test]
    fn settings_name_the_part_that_is_wrong() {
        assert_eq!(RateLimits::parse("off"), Ok(RateLimits::Off));
        assert_eq!(RateLimits::parse(""), Ok(RateLimits::default()));
        let some = RateLimits::parse("post /tasks=600, *=1200").unwrap();
        assert_eq!(some.of("POST /tasks"), Some(600));
        assert_eq!(some.of("GET /health"), Some(1200));
        let one = RateLimits::parse("POST /tasks=600").unwrap();
        assert_eq!((one.of("GET /health"), one.of("GET /tasks")), (Some(300), Some(60)));
        for (text, part) in [
            ("POST /tasks", "POST /tasks"),
            ("*=10,POST /tasks=many", "many"),
            ("*=0", "*=0"),
            ("tasks=5", "tasks=5"),
            ("*=1,*=2", "'*' is given twice"),
        ] {
            let error = RateLimits::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let routes: Vec<_> = ROUTES.iter().flat_map(|group| group.iter()).collect();
        let wrong = RateLimits::parse("GET /nothing=5").unwrap();
        let error = Limiter::new(&wrong, &routes).err();
        assert_eq!(error, Some(ConfigError::NoSuchRoute("GET /nothing".into())));
    }

    #[test]
    fn a_minute_holds_exactly_the_limit() {
        let limiter = limiter("*=3");
        let at = Duration::from_secs;
        for left in [2, 1, 0] {
            let taken = limiter.take(0, &known("a"), at(10)).unwrap();
            assert_eq!((taken.remaining, taken.refused), (left, false));
        }
        let taken = limiter.take(0, &known("a"), at(69)).unwrap();
        assert_eq!((taken.refused, taken.reset), (true, at(1)));
        assert!(!limiter.take(0, &known("b"), at(69)).unwrap().refused, "another caller");
        assert!(!limiter.take(1, &known("a"), at(69)).unwrap().refused, "another route");
        let stranger = LimitKey::Stranger("a".into());
        assert!(!limiter.take(0, &stranger, at(69)).unwrap().refused, "of the same name");
        assert!(!limiter.take(0, &known("a"), at(70)).unwrap().refused, "another minute");
    }

    #[test]
    fn memory_is_bounded_and_those_beyond_share() {
        let mut limiter = limiter("*=2");
        limiter.most = 4;
        let at = Duration::from_secs;
        let refused = (0..1000)
            .filter(|n| limiter.take(0, &known(&format!("caller {n}")), at(0)).unwrap().refused)
            .count();
        let held: usize = limiter.known.iter().map(|s| s.lock().unwrap().len()).sum();
        assert!(held <= SHARDS * 5, "{held} windows");
        assert!(refused > 900 && refused < 1000, "{refused} refused");
        let later = limiter.take(0, &known("later"), at(60)).unwrap();
        assert!(!later.refused, "ended windows make room");
    }

    #[test]
    fn strangers_from_many_addresses_take_no_window_from_those_with_a_key() {
        let mut limiter = limiter("*=2");
        limiter.most = 4;
        let now = Duration::ZERO;
        for n in 0..1000 {
            let _ = limiter.take(0, &LimitKey::Stranger(format!("2001:db8::{n:x}")), now);
        }
        for n in 0..16 {
            let caller = known(&format!("tenant/{n}"));
            assert!(!limiter.take(0, &caller, now).unwrap().refused, "{n}");
        }
    }
}
