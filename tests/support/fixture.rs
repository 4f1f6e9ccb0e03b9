//! A client of the emulated AWS in which tests deploy stacks.

use std::env;

use serde_json::{Value, json};

/// Longer than any of its calls takes on a busy machine.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

/// The emulated AWS that `cargo xtask test` starts: `tests/deployed/fixture.py`.
#[derive(Clone)]
pub struct Fixture {
    http: reqwest::Client,
    url: String,
}

impl Fixture {
    pub fn find() -> Self {
        let url = env::var("WATCHBILL_FIXTURE").expect(
            "WATCHBILL_FIXTURE is not set: `cargo xtask test --only tests` starts the emulator \
             that this test needs, and says where it is",
        );
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .retry(reqwest::retry::never())
            .tls_certs_only([])
            .build();
        Self { http: http.expect("a client needs nothing from outside"), url }
    }

    /// The response to one of the calls that `fixture.py` lists.
    pub async fn call(&self, name: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{name}", self.url)).body(body.to_string());
        let answer = async { request.send().await?.bytes().await }.await;
        let answer = answer
            .unwrap_or_else(|error| panic!("the call {name} to the fixture fails: {error:?}"));
        let answer: Value = serde_json::from_slice(&answer).expect("the fixture answers in JSON");
        let error = answer["error"].as_str();
        assert!(error.is_none(), "the fixture can't {name}: {}", error.unwrap_or_default());
        answer
    }

    /// The same for one stack.
    pub async fn ask(&self, name: &str, stack: &str) -> Value {
        self.call(name, json!({"stack": stack})).await
    }
}
