//! Tables of environment names, and that any name with a production word in it is production.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::EnvironmentKind::{Production, Sandbox, Staging};
use super::{EnvironmentKind, Environments, PRODUCTION};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn kind(name: &str) -> EnvironmentKind {
    Environments::default().kind(Some(&Value::from(name)))
}

#[rustfmt::skip]
const SANDBOXES: &[&str] = &[
    "dev", "Dev", "DEV", " dev ", "dev2", "dev-2", "dev_eu", "devEU", "2dev", "development",
    "Development1", "preview", "PREVIEW", "prEview", "preview-7", "test", "test1", "testing", "qa",
    "QA3", "qa-west-1", "sandbox", "sandbox_02", "local", "local-dev", "devTest", "pr-12", "PR12",
    "pr_7", "pr/fix-login", "pr-141-uploads",
    // Full width.
    "\u{ff44}\u{ff45}\u{ff56}", "\u{ff31}\u{ff21}",
];

#[rustfmt::skip]
const STAGINGS: &[&str] = &[
    "staging", "STAGING", "staging2", "eu-staging", "stagingEU", "stage", "Stage-1", "preprod",
    "PreProd", "preProd", "preprod2", "preprodEU", "uat", "UAT1", "uat-us-east-1", "dev-staging",
    "pr-staging", "\u{ff53}\u{ff54}\u{ff41}\u{ff47}\u{ff45}",
];

#[rustfmt::skip]
const PRODUCTIONS: &[&str] = &[
    "", "  ", "\u{a0}", "production", "prod", "PROD ", "prd", "PRD1", "live", "prod2", "prod-2", "prodEU",
    "EUprod", "prOd", "ProdEU", "production1", "eu-prod-2", "live_blue", "PRODUCTION_EU", "p-r-o-d",
    // Names that only resemble another kind, or combine one with production.
    "pre-prod", "non-prod", "nonprod", "preprodprod", "staging-production", "test-prod", "devprod",
    "prod-test", "dev/live", "product", "sandboxprod", "pr-prod", "pr-oduction", "pr-7-prd",
    // Full width, Cyrillic, Greek, a ligature, invisible characters.
    "\u{ff50}\u{ff52}\u{ff4f}\u{ff44}", "\u{ff30}\u{ff32}\u{ff2f}\u{ff24}", "\u{440}r\u{43e}d", "pr\u{3bf}d",
    "d\u{435}v", "t\u{435}st", "dev\u{200b}", "d\u{ad}ev", "pr-\u{440}r\u{43e}d", "\u{202e}ved",
    // Unknown names.
    "x", "7", "-", "pr", "pr-", "eu", "customers", "main", "master", "release", "canary", "blue", "green",
    "default", "dev-customers", "shop-staging", "latest", "attest", "devops", "prototype", "e2e", "EUdev",
];

#[test]
fn a_name_is_less_than_production_only_if_it_is_known_to_be() {
    for (names, wanted) in [(SANDBOXES, Sandbox), (STAGINGS, Staging), (PRODUCTIONS, Production)] {
        for name in names {
            assert_eq!(kind(name), wanted, "{name:?}");
        }
    }
    assert_eq!(kind("dev"), Sandbox);
    assert_eq!(kind(&format!("dev{}", "-2".repeat(200))), Production, "no name is so long");
}

#[test]
fn what_is_no_text_is_production() {
    let environments = Environments::default();
    assert_eq!(environments.kind(None), Production);
    for value in [json!(null), json!(7), json!(true), json!(["staging"]), json!({"name": "dev"})] {
        assert_eq!(environments.kind(Some(&value)), Production, "{value}");
    }
}

#[test]
fn listed_names_join_the_built_in_ones() {
    let mut environments = Environments::default();
    environments.production.insert("blue".to_owned());
    environments.staging.insert("green".to_owned());
    environments
        .sandbox
        .extend(["feature-login".to_owned(), "\u{43f}\u{440}\u{43e}\u{431}\u{430}".to_owned()]);
    for (name, wanted) in [
        ("Green", Staging),
        ("green-2", Staging),
        ("eu-green", Staging),
        ("feature-login", Sandbox),
        ("Feature-Login", Sandbox),
        ("feature-logout", Production),
        ("\u{41f}\u{440}\u{43e}\u{431}\u{430}", Sandbox),
        ("blue", Production),
        ("pr-blue", Production),
        ("dev-blue", Production),
        ("dev", Sandbox),
        ("staging", Staging),
        ("prod", Production),
    ] {
        assert_eq!(environments.kind(Some(&Value::from(name))), wanted, "{name:?}");
    }
}

#[test]
fn the_strictest_environment_that_work_names_counts() {
    let environments = Environments::default();
    let aimed =
        |fields: Value, metadata: Value| environments.aimed_at(&map(fields), &map(metadata));
    let dev = json!({ "environment": "dev" });
    assert_eq!(aimed(dev.clone(), json!({})), Sandbox);
    assert_eq!(aimed(dev, json!({ "environment": "staging" })), Staging);
    assert_eq!(aimed(json!({}), json!({ "environment": "dev" })), Production, "left out");
    for further in [
        json!({ "env": "prod2" }),
        json!({ "Environment": "live" }),
        json!({ "target_environment": "customers" }),
        json!({ "targetEnvironment": ["dev"] }),
        json!({ "target": "production" }),
        json!({ "target": "shop-prod-eu" }),
        json!({ "target": { "environment": "prodEU" } }),
        json!({ "target": { "environment": 7 } }),
        json!({ "args": { "env": "prd" } }),
        json!({ "parameters": { "options": { "environment": "production1" } } }),
        json!({ "metadata": { "environment": "prod" } }),
        json!({ "args": {"args": {"args": {"args": {"args": {"args": {"env": "prod"}}}}}} }),
    ] {
        let mut fields = map(further.clone());
        fields.insert("environment".to_owned(), json!("dev"));
        let metadata = Map::new();
        assert_eq!(environments.aimed_at(&fields, &metadata), Production, "{further}");
    }
    // Fields that name no environment change nothing.
    for further in [
        json!({ "target": "web-1" }),
        json!({ "target": "products" }),
        json!({ "target": { "host": "db-1" } }),
        json!({ "env": { "NODE_ENV": "production" } }),
        json!({ "env": ["A=b"] }),
        json!({ "environment_name": null }),
        json!({ "labels": { "environment": "production" } }),
        json!({ "description": "as in production" }),
    ] {
        let mut fields = map(further.clone());
        fields.insert("environment".to_owned(), json!("dev"));
        assert_eq!(environments.aimed_at(&fields, &Map::new()), Sandbox, "{further}");
    }
}

#[test]
fn a_word_names_an_environment_only_if_it_is_known() {
    let environments = Environments::default();
    for (word, wanted) in [
        ("prod2", Some(Production)),
        ("eu-prod", Some(Production)),
        ("prd", Some(Production)),
        ("staging", Some(Staging)),
        ("dev", Some(Sandbox)),
        ("product", None),
        ("shop", None),
    ] {
        assert_eq!(environments.spoken_of(word), wanted, "{word}");
    }
}

/// Any mix of cases and of full-width letters.
fn disguised(word: &'static str) -> impl Strategy<Value = String> {
    let letters = word.chars().map(|c| {
        let upper = c.to_ascii_uppercase();
        let wide = char::from_u32(c as u32 + 0xfee0).expect("a full-width letter");
        prop_oneof![Just(c), Just(upper), Just(wide)]
    });
    letters.collect::<Vec<_>>().prop_map(|letters| letters.into_iter().collect())
}

fn around() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "", "-", "_", "/", ".", " ", "2", "dev", "Dev-", "staging", "pr-", "pr/7-", "qa", "test.",
        "eu-", "sandbox", "local ", "UAT",
    ]);
    let known = proptest::collection::vec(known, 0..4).prop_map(|parts| parts.concat());
    prop_oneof![3 => known, 1 => "[a-zA-Z0-9_./ -]{0,8}", 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn no_name_with_a_word_of_production_in_it_is_less(
        before in around(),
        word in proptest::sample::select(PRODUCTION).prop_flat_map(disguised),
        after in around(),
    ) {
        let name = format!("{before}{word}{after}");
        // `preprod` is a staging word.
        prop_assume!(!super::normalized(&name).contains("preprod"));
        prop_assert_eq!(kind(&name), Production, "{:?}", name);
    }

    #[test]
    fn whatever_the_name_there_is_an_answer(name in any::<String>()) {
        let one = kind(&name);
        prop_assert_eq!(one, kind(&format!(" {name} ")), "spaces around it say nothing");
    }
}
