//! The list of all tools.

use std::sync::{Arc, LazyLock};

use watchbill_governance::{BadToolSpec, ToolSpecs};
use watchbill_runtime::tool::{Tool, Tools};

use super::OpsPorts;
use super::deployments::deploy;

/// Every tool that a plan can call, one per line.
pub fn all(ports: &OpsPorts) -> Vec<Arc<dyn Tool>> {
    vec![
        watchbill_alerts::alert(ports.alerts.clone()),
        deploy(),
        watchbill_investigation::investigate(super::evidence(ports), ports.logs.clone()),
        watchbill_monitoring::monitor(ports.probes.clone()),
    ]
}

/// All tools, ready to be called by name.
pub fn registered(ports: &OpsPorts) -> Tools {
    Tools::new(all(ports)).unwrap_or_else(refused)
}

/// The list is part of the build, and a test registers it: this reports what is wrong with it.
fn refused<T>(bad: BadToolSpec) -> T {
    panic!("shared/ops/catalog/src/tools.rs: {bad}")
}

static SPECS: LazyLock<ToolSpecs> = LazyLock::new(|| {
    let tools = all(&OpsPorts::default());
    ToolSpecs::new(tools.iter().map(|tool| tool.spec())).unwrap_or_else(refused)
});

/// The specs of all tools.
pub fn specs() -> &'static ToolSpecs {
    &SPECS
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};
    use watchbill_domain::Fields;

    use super::*;

    #[test]
    fn all_tools_can_be_registered() {
        let count = all(&OpsPorts::default()).len();
        assert_eq!(registered(&OpsPorts::default()).specs().count(), count);
        assert_eq!(specs().iter().count(), count);
    }

    /// With empty arguments, each tool reports exactly the arguments as missing that its schema
    /// requires.
    #[test]
    fn schemas_name_the_required_arguments() {
        for spec in specs().iter() {
            let schema = (spec.schema)();
            assert_eq!(schema["type"], "object", "{}", spec.name);
            let needed = schema["required"].as_array().cloned().unwrap_or_default();
            let none = Map::new();
            let read = (spec.normalize)(Fields { map: &none, path: "arguments" });
            match needed.first().and_then(Value::as_str) {
                Some(name) => {
                    let refusal = read.unwrap_err().message;
                    let start = format!("arguments.{name} is missing");
                    assert!(refusal.starts_with(&start), "{}: {refusal}", spec.name);
                }
                None => _ = read.unwrap(),
            }
            for name in schema["properties"].as_object().unwrap().keys() {
                let wrong = Map::from_iter([(name.clone(), Value::from(vec![vec![1]]))]);
                let read = (spec.normalize)(Fields { map: &wrong, path: "arguments" });
                let known = read.is_err() || name == "labels";
                assert!(
                    known,
                    "{}: the schema has the argument {name}, but it is not parsed",
                    spec.name
                );
            }
        }
    }
}
