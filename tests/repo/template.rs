//! Checks that template.yaml, functions/ and the docs agree, and that an idle deployment costs
//! what the docs state.
//!
//! The template is read by its lines: a resource is everything below its name, which is indented
//! by two blanks. A YAML parser would first have to be taught every tag of CloudFormation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use watchbill_domain::{AGENTS, AgentInfo, Priority};
use watchbill_lambda::dead_letters;

use super::{assert_none, files, text};

pub const TEMPLATE: &str = "template.yaml";
const GUIDE: &str = "docs/aws.md";

/// Seconds between a function's timeout and the visibility timeout of its messages.
const MARGIN: u32 = 15;

pub struct Resource {
    pub name: String,
    pub lines: Vec<String>,
}

impl Resource {
    /// The value of the first such key at any depth, without its comment.
    pub fn value(&self, key: &str) -> Option<&str> {
        values(&self.lines, key).next()
    }

    fn number(&self, key: &str) -> u32 {
        let value = self.value(key).unwrap_or_else(|| panic!("{} has no {key}", self.name));
        value.parse().unwrap_or_else(|_| panic!("{key} of {} is {value}", self.name))
    }

    pub fn is(&self, kind: &str) -> bool {
        self.value("Type") == Some(kind)
    }

    /// The entries of a function's `Events` that map a queue.
    pub fn queues(&self) -> Vec<Mapping<'_>> {
        let starts = self.lines.iter().enumerate().filter(|(_, line)| line.trim() == "Type: SQS");
        let mapping = |(start, line): (usize, &String)| {
            let depth = indent(line);
            let body = &self.lines[start..];
            let end = body.iter().position(|line| indent(line) < depth).unwrap_or(body.len());
            Mapping { lines: &body[..end] }
        };
        // A dead-letter destination has that type too, but no queue to consume.
        starts.map(mapping).filter(|mapping| mapping.value("Queue").is_some()).collect()
    }
}

pub struct Mapping<'a> {
    lines: &'a [String],
}

impl Mapping<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        values(self.lines, key).next()
    }

    pub fn queue(&self) -> &str {
        let queue = self.value("Queue").expect("a mapping names its queue");
        queue.trim_start_matches("!GetAtt ").trim_end_matches(".Arn")
    }

    fn is_on(&self) -> bool {
        self.value("Enabled") != Some("false")
    }

    fn bounded(&self) -> bool {
        self.value("MaximumConcurrency").is_some()
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

pub fn values<'a>(lines: &'a [String], key: &str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter_map(move |line| {
        let value = line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(':')?;
        let value = value.split_once(" #").map_or(value, |(value, _)| value);
        Some(value.trim().trim_matches('"'))
    })
}

/// The entries below one of the template's headings, by name.
pub fn section(heading: &str) -> Vec<Resource> {
    let source = text(Path::new(TEMPLATE));
    let lines = source.lines().skip_while(|line| *line != heading).skip(1);
    let mut found: Vec<Resource> = Vec::new();
    for line in lines.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        if let Some(name) = line.strip_prefix("  ").and_then(|name| name.strip_suffix(':'))
            && name.chars().all(char::is_alphanumeric)
        {
            found.push(Resource { name: name.to_owned(), lines: Vec::new() });
        } else if let Some(resource) = found.last_mut()
            && indent(line) > 2
        {
            resource.lines.push(line.to_owned());
        }
    }
    assert!(found.len() > 10, "{TEMPLATE} has next to nothing under {heading}");
    found
}

pub fn resources() -> Vec<Resource> {
    section("Resources:")
}

pub fn functions(all: &[Resource]) -> impl Iterator<Item = &Resource> {
    all.iter().filter(|resource| resource.is("AWS::Serverless::Function"))
}

pub fn named<'a>(all: &'a [Resource], name: &str) -> &'a Resource {
    all.iter().find(|resource| resource.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// ops-agent → OpsAgent.
fn camel(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('-').map(capital).collect()
}

#[test]
fn every_function_is_deployed_under_its_name() {
    let all = resources();
    let in_template = |function: &Resource| {
        let code = function.value("CodeUri").expect("a function has code");
        let folder = code.trim_start_matches("functions/").trim_end_matches('/').to_owned();
        assert_eq!(function.name, camel(&folder) + "Function", "the name of {folder}");
        assert_eq!(function.value("Binary"), Some(folder.as_str()), "the binary of {folder}");
        assert_eq!(function.value("BuildMethod"), Some("rust-cargolambda"), "{folder}");
        let named = format!("!Sub ${{AWS::StackName}}-{folder}");
        assert_eq!(function.value("FunctionName"), Some(named.as_str()), "{folder}");
        folder
    };
    let deployed: BTreeSet<String> = functions(&all).map(in_template).collect();
    let manifests = files()
        .into_iter()
        .filter(|path| path.starts_with("functions") && path.ends_with("Cargo.toml"));
    let folders: BTreeSet<String> = manifests
        .filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(deployed, folders, "the functions of {TEMPLATE} and the folders of functions/");
}

#[test]
fn every_function_has_its_own_role_and_log() {
    let all = resources();
    for function in functions(&all) {
        let own = function.name.trim_end_matches("Function");
        let role = format!("!GetAtt {own}Role.Arn");
        assert_eq!(function.value("Role"), Some(role.as_str()), "the role of {own}");
        let logs = format!("!Ref {own}Logs");
        assert_eq!(function.value("LogGroup"), Some(logs.as_str()), "the log group of {own}");
        assert!(named(&all, &format!("{own}Logs")).value("RetentionInDays").is_some(), "{own}");
    }
}

/// The suffix of each lane's queue, and the function that consumes it.
fn lanes() -> BTreeMap<String, String> {
    let mut lanes = BTreeMap::new();
    for info in AGENTS {
        for priority in Priority::ALL {
            lanes.insert(info.agent.lane_name(*priority), camel(info.function) + "Function");
        }
    }
    lanes.insert("notify".to_owned(), "NotifierFunction".to_owned());
    lanes
}

/// A queue that the tick does not count raises no alarm when it receives messages.
#[test]
fn every_dead_letter_is_counted() {
    let all = resources();
    let named_as = |queue: &Resource| {
        let name = queue.value("QueueName").expect("a queue has a name");
        name.rsplit("${AWS::StackName}-").next().expect("a split has a last part").to_owned()
    };
    let dead =
        all.iter().filter(|one| one.is("AWS::SQS::Queue") && one.name.ends_with("DeadQueue"));
    let dead: BTreeSet<String> = dead.map(named_as).collect();
    let counted: BTreeSet<String> = dead_letters().map(str::to_owned).collect();
    assert_eq!(dead, counted);
    for info in AGENTS {
        let function = named(&all, &(camel(info.function) + "Function"));
        for mapping in function.queues() {
            let target =
                named(&all, mapping.queue()).value("deadLetterTargetArn").expect("a target");
            let target = target.trim_start_matches("!GetAtt ").trim_end_matches(".Arn");
            assert_eq!(named_as(named(&all, target)), info.dead_letters, "{}", function.name);
        }
    }
}

#[test]
fn every_lane_is_consumed_by_one_function() {
    let all = resources();
    let mut taken = BTreeMap::new();
    for function in functions(&all) {
        for mapping in function.queues() {
            let queue = named(&all, mapping.queue());
            let name = queue.value("QueueName").expect("a queue has a name");
            let suffix = name.trim_start_matches("!Sub ${AWS::StackName}-").to_owned();
            let partial = mapping.value("FunctionResponseTypes");
            assert_eq!(partial, Some("[ReportBatchItemFailures]"), "{suffix}");
            // P0 has no bound and waits for no other lane; the others may not use all
            // concurrency.
            if suffix.ends_with("-p0") {
                assert!(!mapping.bounded(), "{suffix} is bounded");
                assert_eq!(mapping.value("BatchSize"), Some("1"), "{suffix}");
            } else if suffix.contains("-p") {
                assert!(mapping.bounded(), "{suffix} has no bound");
            }
            assert_eq!(taken.insert(suffix.clone(), function.name.clone()), None, "{suffix}");
        }
    }
    assert_eq!(taken, lanes());
}

/// Polling costs, and a lane whose messages no process can handle is better left full.
#[test]
fn only_lanes_of_built_agents_are_polled() {
    let all = resources();
    for function in functions(&all) {
        let its = |info: &&AgentInfo| function.name == camel(info.function) + "Function";
        let built = AGENTS.iter().find(its).is_none_or(|info| info.is_built);
        for mapping in function.queues() {
            assert_eq!(mapping.is_on(), built, "{} of {}", mapping.queue(), function.name);
        }
    }
}

/// Each is in an alarm over sums, so that a rarely called function is noticed, too.
#[test]
fn a_failing_function_raises_an_alarm() {
    let all = resources();
    let alarms = || all.iter().filter(|one| one.is("AWS::CloudWatch::Alarm"));
    let of_errors =
        alarms().filter(|alarm| values(&alarm.lines, "MetricName").any(|m| m == "Errors"));
    let watched: BTreeSet<_> = of_errors
        .flat_map(|alarm| values(&alarm.lines, "Value"))
        .filter_map(|value| value.strip_prefix("!Ref "))
        .collect();
    for function in functions(&all) {
        let queues = function.queues();
        let off = !queues.is_empty() && !queues.iter().any(Mapping::is_on);
        let name = &*function.name;
        assert!(off || watched.contains(name), "{name}: add it to FunctionErrorsAlarm");
    }
    for alarm in alarms() {
        assert!(alarm.value("TreatMissingData").is_some(), "{}: silence means nothing", alarm.name);
    }
}

#[test]
fn a_message_outlives_a_run_and_a_dead_one_its_queue() {
    let all = resources();
    let queues = functions(&all).flat_map(|function| {
        function.queues().into_iter().map(move |mapping| (function, mapping.queue().to_owned()))
    });
    let mut seen = 0;
    for (function, queue) in queues {
        let queue = named(&all, &queue);
        let visible = queue.number("VisibilityTimeout");
        let least = function.number("Timeout") + MARGIN;
        assert!(visible >= least, "{}: visibility {visible} s, not {least} s", queue.name);
        let dead = queue.value("deadLetterTargetArn").expect("a lane has a dead-letter queue");
        let dead = named(&all, dead.trim_start_matches("!GetAtt ").trim_end_matches(".Arn"));
        let (kept, longer) =
            (queue.number("MessageRetentionPeriod"), dead.number("MessageRetentionPeriod"));
        assert!(kept < longer, "{}: {kept} s, but {} only {longer} s", queue.name, dead.name);
        seen += 1;
    }
    assert_eq!(seen, lanes().len());
}

#[test]
fn a_function_knows_its_own_timeout() {
    // The value for all functions that set none themselves.
    let shared = text(Path::new(TEMPLATE));
    let shared = shared.lines().map(str::to_owned).collect::<Vec<_>>();
    let shared = values(&shared, "WATCHBILL_TIMEOUT").next().expect("the shared time-out");
    for function in functions(&resources()) {
        let configured = function.value("WATCHBILL_TIMEOUT").unwrap_or(shared);
        assert_eq!(Some(configured), function.value("Timeout"), "{}", function.name);
    }
}

#[test]
fn roles_name_their_actions_and_resources() {
    let all = resources();
    let roles: Vec<_> = all.iter().filter(|resource| resource.is("AWS::IAM::Role")).collect();
    assert_eq!(roles.len(), functions(&all).count() + 1, "one for each function, one to tick");
    // Wildcards within one of our resources: its objects, its streams.
    let partly = ["${BlobsBucket.Arn}/*", "${FailuresBucket.Arn}/*", "${Table.Arn}/stream/*"];
    let wide = |line: &&String| {
        line.contains('*') && !partly.iter().any(|part| line.trim().ends_with(part))
    };
    // Lambda needs these for a function in a VPC, and the role has them only then.
    let in_vpc = |line: &str, before: &[String]| {
        let whole = line.trim().starts_with("Resource: \"*\"");
        whole && before.iter().rev().take(9).any(|line| line.trim() == "- HasVpc")
    };
    let found = roles.iter().flat_map(|role| {
        let lines = role.lines.iter().enumerate().filter(|(_, line)| wide(line));
        let lines = lines.filter(|(at, line)| !in_vpc(line, &role.lines[..*at]));
        lines.map(|(_, line)| format!("{}: {}", role.name, line.trim()))
    });
    assert_none("a role names its actions and resources", &found.collect::<Vec<_>>());
    assert!(roles.iter().all(|role| role.value("ManagedPolicyArns").is_none()));
}

#[test]
fn the_shipped_reactions_get_their_events() {
    let parameters = section("Parameters:");
    let parameter = parameters.iter().find(|parameter| parameter.name == "ReactionEvents");
    let listed = parameter.and_then(|parameter| parameter.value("Default")).expect("a default");
    let listed: BTreeSet<&str> = listed.split(',').collect();
    let reactions = text(Path::new("functions/intake/reactions.yaml"));
    let triggers = reactions.lines().filter_map(|line| line.trim().strip_prefix("on: "));
    let mut wanted: BTreeSet<&str> = triggers.collect();
    assert!(wanted.len() > 1, "no triggers in reactions.yaml");
    // Intake creates a task from this event without a reaction.
    wanted.insert("task.requested");
    assert_eq!(listed, wanted);
}

#[test]
fn a_restored_table_is_the_same_table() {
    let keys = |path: &str| {
        let source = text(Path::new(path));
        let lines = source.lines().skip_while(|line| line.trim() != "AttributeDefinitions:");
        let keys = lines.take_while(|line| indent(line) > 6 || KEYS.contains(&line.trim()));
        keys.map(str::to_owned).collect::<Vec<_>>()
    };
    const KEYS: &[&str] = &["AttributeDefinitions:", "KeySchema:", "GlobalSecondaryIndexes:"];
    let deployed = keys(TEMPLATE);
    assert!(deployed.iter().any(|line| line.trim() == "- IndexName: due"), "{deployed:?}");
    assert_eq!(deployed, keys("infra/restore.yaml"));
}

/// cargo-lambda has releases abort on a panic unless the profile says otherwise. Then one
/// message would take down the others of its batch.
#[test]
fn a_panic_costs_one_message_on_lambda_too() {
    let manifest = text(Path::new("Cargo.toml"));
    let release = manifest.lines().skip_while(|line| *line != "[profile.release]").skip(1);
    let mut release = release.take_while(|line| !line.starts_with('['));
    assert!(release.any(|line| line.trim() == "panic = \"unwind\""), "[profile.release] panic");
}

#[test]
fn the_guide_names_every_parameter() {
    let guide = text(Path::new(GUIDE));
    let parameters = section("Parameters:").into_iter().map(|parameter| parameter.name);
    let missing = parameters.filter(|name| !guide.contains(&format!("| `{name}` |")));
    assert_none("docs/aws.md has a table of the parameters", &missing.collect::<Vec<_>>());
}

/// Minutes in a month of 30 days.
const MINUTES: f64 = 30.0 * 24.0 * 60.0;

/// Cents per month of 30 days, idle, at the list prices of docs/aws.md.
#[test]
fn idle_costs_at_most_six_dollars() {
    const REQUEST: f64 = 40.0 / 1e6;
    let mut all = resources();
    // Resources with this condition exist only where a Redis is configured.
    all.retain(|resource| resource.value("Condition") != Some("HasRedis"));
    let mappings: Vec<_> = functions(&all).flat_map(Resource::queues).collect();
    // Three calls of 20 s per minute; without a bound Lambda goes down to two pollers.
    let pollers = mappings.iter().filter(|mapping| mapping.value("Enabled").is_none());
    let pollers: u32 = pollers.map(|m| if m.bounded() { 5 } else { 2 }).sum();
    let polls = f64::from(pollers) * 3.0 * MINUTES * REQUEST;
    // The sweeper reads the lengths of the dead-letter queues every minute.
    let dead = all.iter().filter(|r| r.is("AWS::SQS::Queue") && r.name.ends_with("DeadQueue"));
    let lengths = dead.count() as f64 * MINUTES * REQUEST;
    let secrets = all.iter().filter(|r| r.is("AWS::SecretsManager::Secret")).count() as f64 * 40.0;
    let alarms = all.iter().filter(|r| r.is("AWS::CloudWatch::Alarm"));
    let metrics: usize = alarms.map(|alarm| values(&alarm.lines, "MetricName").count()).sum();
    let alarms = metrics as f64 * 10.0;
    // 34 reads of half a unit; a run of at most 0.3 s with 256 MB; a tick; the table's key
    // decrypted every five minutes.
    let (reads, runs) = (17.0 * 12.5 / 1e6, 20.0 / 1e6 + 0.3 * 0.25 * 0.001_333_34);
    let sweeps = MINUTES * (reads + runs + 100.0 / 1e6 + 3.0 / 1e4 / 5.0);
    // One read and one write; two runs of 10 ms with 512 MB.
    let reader = 20.0 / 1e6 + 0.01 * 0.5 * 0.001_333_34;
    let pulse = MINUTES * (0.5 * 12.5 / 1e6 + 62.5 / 1e6 + 2.0 * reader);
    let sum = polls + lengths + secrets + alarms + sweeps + pulse;
    assert!(sum <= 600.0, "{sum:.0} cents: {polls} {lengths} {secrets} {alarms} {sweeps} {pulse}");
    let row = format!("| **sum** | | **{:.2}** |", sum / 100.0);
    assert!(text(Path::new(GUIDE)).contains(&row), "{GUIDE} must contain {row}");
    let sentence = format!("Idle it costs {:.2} USD a month", sum / 100.0);
    assert!(text(Path::new("README.md")).contains(&sentence), "README.md must contain {sentence}");
}

/// What a round without work reads: events five times, the position in them, the warm-up of the
/// key.
const READS_OF_A_ROUND: f64 = 8.0;

#[test]
fn the_docs_state_the_bridges_price() {
    let all = resources();
    let parameters = section("Parameters:");
    let default = |name: &str| {
        let found = parameters.iter().find(|parameter| parameter.name == name);
        f64::from(found.unwrap_or_else(|| panic!("no {name}")).number("Default"))
    };
    let of_redis = |one: &&Resource| one.value("Condition") == Some("HasRedis");
    let alarms = all.iter().filter(of_redis).filter(|one| one.is("AWS::CloudWatch::Alarm"));
    let metrics: usize = alarms.map(|alarm| values(&alarm.lines, "MetricName").count()).sum();
    let gigabytes = default("SmallMemory") / 1024.0;
    // A tick, a run with its duration, and reads of half a unit each.
    let month = |seconds: f64, reads: f64| {
        let round = 100.0 / 1e6 + 20.0 / 1e6 + seconds * gigabytes * 0.001_333_34;
        (MINUTES * (round + reads * 0.5 * 12.5 / 1e6) + metrics as f64 * 10.0) / 100.0
    };
    let quiet = default("RedisQuietSeconds");
    let idle = format!("{:.2} USD a month", month(quiet, READS_OF_A_ROUND));
    let whole = format!("{:.2} USD a month", month(50.0, READS_OF_A_ROUND * 50.0 / quiet));
    let guide = text(Path::new(GUIDE));
    for price in [idle, whole] {
        assert!(guide.contains(&price), "{GUIDE} should say {price}");
    }
}
