use std::env;

use serde_json::{Value, json};

/// Longer than anything it does takes on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// The emulated AWS that `cargo xtask test` starts: `tests/deployed/bed.py`.
#[derive(Clone)]
pub struct Bed {
    http: reqwest::Client,
    url: String,
}

impl Bed {
    pub fn find() -> Self {
        let url = env::var("WATCHBILL_BED").expect(
            "WATCHBILL_BED is not set: `cargo xtask test --only tests` starts the emulator that \
             this test needs, and says where it is",
        );
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .retry(reqwest::retry::never())
            .tls_certs_only([])
            .build();
        Self { http: http.expect("a client needs nothing from outside"), url }
    }

    /// What it answers to one of the calls that `bed.py` lists.
    pub async fn call(&self, name: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{name}", self.url)).body(body.to_string());
        let answer = async { request.send().await?.bytes().await }.await;
        let answer = answer.unwrap_or_else(|error| panic!("the bed does not {name}: {error:?}"));
        let answer: Value = serde_json::from_slice(&answer).expect("the bed answers in JSON");
        let error = answer["error"].as_str();
        assert!(error.is_none(), "the bed can't {name}: {}", error.unwrap_or_default());
        answer
    }

    /// The same about one stack.
    pub async fn ask(&self, name: &str, stack: &str) -> Value {
        self.call(name, json!({"stack": stack})).await
    }
}
