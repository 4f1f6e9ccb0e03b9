//! Arbitrary requests never cause a server error, and every status is a documented one.

use std::sync::OnceLock;

use watchbill_api::{Access, ROUTES, Route, openapi_document};
use watchbill_domain::Role;
use watchbill_wire::{Field, FieldType};

use crate::common::{ADMIN, OPERATOR, api, ask};
use proptest::prelude::*;
use serde_json::Value;

static DOCUMENT: OnceLock<Value> = OnceLock::new();

fn routes() -> Vec<&'static Route> {
    ROUTES.iter().flat_map(|group| group.iter()).collect()
}

fn escaped(bytes: &[u8]) -> String {
    form_urlencoded::byte_serialize(bytes).collect()
}

/// Values that a field accepts, almost accepts, and refuses.
fn value_for(field: &'static Field) -> BoxedStrategy<Value> {
    let near = match field.kind {
        FieldType::Choice(names) => prop::sample::select(names).prop_map(Value::from).boxed(),
        FieldType::Object { .. } => {
            Just(serde_json::json!({ "repo": null, "n": [1, "\u{0}", 1e300] })).boxed()
        }
        FieldType::Int { least, most } => {
            (least.saturating_sub(2)..most.saturating_add(2)).prop_map(Value::from).boxed()
        }
        FieldType::Dollars { most } => (-1.0..f64::from(most) + 2.0).prop_map(Value::from).boxed(),
        FieldType::Time => "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:00:00(Z|\\+14:00|)"
            .prop_map(Value::from)
            .boxed(),
        FieldType::Span => "[0-9]{1,7} ?(s|m|h|d|days|x|)".prop_map(Value::from).boxed(),
        FieldType::Form(fields) => some_of(fields)
            .prop_map(|values| {
                let named = values.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::Object(named.collect())
            })
            .boxed(),
        FieldType::ResponseOnly => Just(serde_json::json!({ "x": [1] })).boxed(),
        FieldType::Text { .. } | FieldType::Word { .. } => {
            "[a-z.]{0,12}".prop_map(Value::from).boxed()
        }
    };
    prop_oneof![
        6 => near,
        1 => ".{0,80}".prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(serde_json::json!([[], {}])),
    ]
    .boxed()
}

fn some_of(fields: &'static [Field]) -> BoxedStrategy<Vec<(&'static str, Value)>> {
    let each: Vec<_> = fields
        .iter()
        .map(|field| {
            let chance = if field.required { 0.95 } else { 0.3 };
            prop::option::weighted(chance, value_for(field).prop_map(|value| (field.name, value)))
        })
        .collect();
    each.prop_map(|values| values.into_iter().flatten().collect()).boxed()
}

#[derive(Clone, Debug)]
struct Call {
    route: usize,
    id: Vec<u8>,
    query: Vec<(&'static str, Value)>,
    body: Vec<u8>,
    content_type: Option<String>,
}

fn call() -> impl Strategy<Value = Call> {
    (0..routes().len()).prop_flat_map(|at| {
        let route = routes()[at];
        let fields = route.doc.body.map_or(&[] as &[Field], |body| body.fields);
        let form = some_of(fields).prop_map(|values| {
            let map: serde_json::Map<_, _> =
                values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Value::Object(map).to_string().into_bytes()
        });
        let body = prop_oneof![3 => form, 1 => prop::collection::vec(any::<u8>(), 0..200)];
        let id = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..40),
            "[a-z0-9#/%_-]{1,140}".prop_map(String::into_bytes),
        ];
        let kinds =
            prop::option::of(prop_oneof![Just("application/json".to_owned()), "[ -~]{0,20}"]);
        (Just(at), id, some_of(route.doc.query), body, kinds).prop_map(
            |(route, id, query, body, content_type)| Call { route, id, query, body, content_type },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_that_comes_is_our_fault(calls in prop::collection::vec(call(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let document = DOCUMENT.get_or_init(|| openapi_document("0"));
        runtime.block_on(async {
            let api = api();
            for call in calls {
                let route = routes()[call.route];
                let id = escaped(&call.id).replace('+', "%20");
                let mut path = route.path.replace("{id}", &id).replace("{name}", &id).replace("{type}", &id);
                for (place, (name, value)) in call.query.iter().enumerate() {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    path.push(if place == 0 { '?' } else { '&' });
                    path.push_str(&format!("{name}={}", escaped(text.as_bytes())));
                }
                let operator = route.access == Access::Needs(Role::Operator);
                let mut asked = ask(route.method.as_str(), &path)
                    .key(if operator { OPERATOR } else { ADMIN })
                    .raw(call.body.clone());
                if let Some(kind) = &call.content_type {
                    asked = asked.header("content-type", kind);
                }
                let got = asked.of(&api).await;
                let status = got.status.as_u16();
                assert!(status < 500, "{} {path}: {status} {:?}", route.name(), got.body);
                let verb = route.method.as_str().to_ascii_lowercase();
                let responses = &document["paths"][route.path][verb.as_str()]["responses"];
                let known = responses.get(status.to_string()).is_some();
                assert!(known, "{} {path}: {status} is not documented", route.name());
                if status >= 400 {
                    got.problem(status);
                }
            }
        });
    }
}
