//! Authentication and authorization: who may call what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use watchbill_api::{
    Access, ApiConfig, ApiState, ConfigError, JwksSource, JwtConfig, ROUTES, StaticJwks,
};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_domain::Role;

use crate::common::{
    ADMIN, AGENT, APPROVER, Api, OPERATOR, SECRET, USER, api, api_with, ask, config, static_key,
};
use async_trait::async_trait;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Fills `{id}` and `{name}` with something that does not exist.
fn filled(path: &str) -> String {
    path.replace("{id}", "nothing").replace("{name}", "nothing")
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let api = api();
    let keys = [
        (None, None),
        (Some(USER), Some(Role::User)),
        (Some(APPROVER), Some(Role::Approver)),
        (Some(AGENT), Some(Role::Agent)),
        (Some(ADMIN), Some(Role::Admin)),
        (Some(OPERATOR), Some(Role::Operator)),
    ];
    for route in ROUTES.iter().flat_map(|group| group.iter()) {
        for (key, role) in keys {
            let mut call = ask(route.method.as_str(), &filled(route.path));
            if let Some(key) = key {
                call = call.key(key);
            }
            let got = call.of(&api).await;
            let wanted = match (route.access, role) {
                (Access::Needs(_), None) => Some(401),
                (Access::Needs(needed), Some(role)) if !role.includes(needed) => Some(403),
                _ => None,
            };
            let name = route.name();
            match wanted {
                Some(status) => {
                    let problem = got.problem(status);
                    if let Access::Needs(needed) = route.access
                        && status == 403
                    {
                        let detail = problem["detail"].as_str().unwrap();
                        assert!(detail.contains(needed.as_str()), "{name}: {detail}");
                    }
                }
                None => assert!(![401, 403].contains(&got.status.as_u16()), "{name} as {role:?}"),
            }
        }
    }
}

#[tokio::test]
async fn callers_without_a_key_learn_how_to_authenticate() {
    let api = api();
    let got = ask("GET", "/tasks").of(&api).await;
    got.problem(401);
    assert!(got.header("www-authenticate").starts_with("Bearer"));
    for wrong in ["", "nobody's", &"x".repeat(5_000)] {
        let problem = ask("GET", "/tasks").key(wrong).of(&api).await.problem(401);
        assert!(!problem["detail"].as_str().unwrap().contains("***"), "{problem}");
    }
    for wrong in ["Basic abc", "Bearer", "Bearer ", "Bearer x", "Bearer a.b.c"] {
        ask("GET", "/tasks").header("authorization", wrong).of(&api).await.problem(401);
    }
    ask("GET", "/stats").key("nobody's").of(&api).await.problem(401);
    assert_eq!(ask("GET", "/health").key("nobody's").of(&api).await.status, 200);
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let api = api();
    let body = json!({ "name": "helper", "role": "user" });
    let made = ask("POST", "/keys").key(ADMIN).json(&body).of(&api).await.json();
    let key = made["key"].as_str().unwrap().to_owned();
    assert!(key.len() >= 64, "256 random bits");
    assert_eq!((made["role"].as_str(), made["created_by"].as_str()), (Some("user"), Some("root")));
    assert_eq!(ask("GET", "/tasks").key(&key).of(&api).await.status, 200);
    ask("POST", "/keys").key(ADMIN).json(&body).of(&api).await.problem(409);
    let list = ask("GET", "/keys").key(ADMIN).of(&api).await;
    assert_eq!(list.json()["keys"][0]["name"], "helper");
    let text = String::from_utf8(list.body.to_vec()).unwrap();
    assert!(!text.contains(&key) && !text.contains("hash"), "the list never shows keys");
    assert_eq!(ask("DELETE", "/keys/helper").key(ADMIN).of(&api).await.status, 200);
    ask("GET", "/tasks").key(&key).of(&api).await.problem(401);
    ask("DELETE", "/keys/helper").key(ADMIN).of(&api).await.problem(404);
}

#[tokio::test]
async fn a_key_revoked_elsewhere_works_for_thirty_seconds_at_most() {
    let api = api();
    let body = json!({ "name": "helper", "role": "user" });
    let made = ask("POST", "/keys").key(ADMIN).json(&body).of(&api).await.json();
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(ask("GET", "/tasks").key(&key).of(&api).await.status, 200);
    let admin = watchbill_domain::Caller {
        name: "root".into(),
        role: Role::Admin,
        tenant: watchbill_domain::TenantId::default(),
        made_by: None,
    };
    api.core.keys().revoke(&admin, "helper").await.unwrap();
    api.clock.advance(Duration::from_secs(29));
    assert_eq!(ask("GET", "/tasks").key(&key).of(&api).await.status, 200);
    api.clock.advance(Duration::from_secs(1));
    ask("GET", "/tasks").key(&key).of(&api).await.problem(401);
}

#[tokio::test]
async fn the_operator_makes_tenants_and_reads_nothing() {
    let api = api();
    let body = json!({ "tenant": "acme" });
    ask("POST", "/tenants").key(ADMIN).json(&body).of(&api).await.problem(403);
    let made = ask("POST", "/tenants").key(OPERATOR).json(&body).of(&api).await.json();
    assert_eq!((made["tenant_id"].as_str(), made["role"].as_str()), (Some("acme"), Some("admin")));
    let key = made["key"].as_str().unwrap();
    let task = json!({ "type": "monitor", "payload": {} });
    let created = ask("POST", "/tasks").key(key).json(&task).of(&api).await.json();
    assert_eq!(created["task"]["tenant_id"], "acme");
    ask("POST", "/tenants").key(OPERATOR).json(&body).of(&api).await.problem(409);
    let static_one = json!({ "tenant": "other" });
    ask("POST", "/tenants").key(OPERATOR).json(&static_one).of(&api).await.problem(409);
    ask("GET", "/tasks").key(OPERATOR).of(&api).await.problem(403);
    let stats = ask("GET", "/stats").key(OPERATOR).of(&api).await.json();
    assert!(stats.get("by_agent").is_none());
}

fn claims(api: &Api, role: &str) -> Value {
    json!({ "sub": "carol", "role": role, "exp": api.clock.now().millis() / 1000 + 60 })
}

fn hs256(claims: &Value, secret: &[u8]) -> String {
    let header = Header::new(Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

#[tokio::test]
async fn a_minted_token_works_until_it_expires() {
    let api = api();
    let body = json!({ "sub": "carol", "role": "approver", "expires_in": 60 });
    ask("POST", "/auth/token").key(AGENT).json(&body).of(&api).await.problem(403);
    let made = ask("POST", "/auth/token").key(ADMIN).json(&body).of(&api).await.json();
    let token = made["access_token"].as_str().unwrap();
    assert_eq!(
        (made["token_type"].as_str(), made["expires_in"].as_u64()),
        (Some("bearer"), Some(60))
    );
    assert_eq!(ask("GET", "/tasks").bearer(token).of(&api).await.status, 200);
    ask("POST", "/tasks").bearer(token).of(&api).await.problem(403);
    api.clock.advance(Duration::from_secs(89));
    assert_eq!(ask("GET", "/tasks").bearer(token).of(&api).await.status, 200, "leeway of 30 s");
    api.clock.advance(Duration::from_secs(1));
    let problem = ask("GET", "/tasks").bearer(token).of(&api).await.problem(401);
    assert!(problem["detail"].as_str().unwrap().contains("expired"));
}

/// A key or token counts as the caller that created it wherever one person must not count twice.
#[tokio::test]
async fn what_an_admin_makes_does_not_approve_for_the_admin() {
    let api = api();
    let urgent = json!({ "type": "monitor", "payload": {}, "priority": "P0" });
    let made = ask("POST", "/tasks").key(ADMIN).json(&urgent).of(&api).await.json();
    let path = format!("/approvals/approval_{}/approve", made["task_id"].as_str().unwrap());
    let body = json!({ "sub": "somebody", "role": "admin" });
    let token = ask("POST", "/auth/token").key(ADMIN).json(&body).of(&api).await.json();
    let token = token["access_token"].as_str().unwrap().to_owned();
    ask("POST", &path).bearer(&token).of(&api).await.problem(403);
    // The same for what that one creates.
    let body = json!({ "sub": "nobody", "role": "approver" });
    let second = ask("POST", "/auth/token").bearer(&token).json(&body).of(&api).await.json();
    let second = second["access_token"].as_str().unwrap().to_owned();
    ask("POST", &path).bearer(&second).of(&api).await.problem(403);
    let body = json!({ "name": "helper", "role": "approver" });
    let key = ask("POST", "/keys").bearer(&token).json(&body).of(&api).await.json();
    let key = key["key"].as_str().unwrap().to_owned();
    ask("POST", &path).key(&key).of(&api).await.problem(403);
    let mut other = claims(&api, "approver");
    other["sub"] = json!("carol");
    let other = hs256(&other, SECRET.as_bytes());
    assert_eq!(ask("POST", &path).bearer(&other).of(&api).await.status, 200);
}

#[tokio::test]
async fn nobody_is_named_like_the_system() {
    let api = api();
    for name in ["system", "Scheduler", "on-call", "ops_agent", "watchbill"] {
        let body = json!({ "sub": name, "role": "user" });
        ask("POST", "/auth/token").key(ADMIN).json(&body).of(&api).await.problem(400);
        let body = json!({ "name": name, "role": "user" });
        ask("POST", "/keys").key(ADMIN).json(&body).of(&api).await.problem(400);
        let mut claims = claims(&api, "user");
        claims["sub"] = json!(name);
        let token = hs256(&claims, SECRET.as_bytes());
        ask("GET", "/tasks").bearer(&token).of(&api).await.problem(401);
    }
}

/// `~` is used in approval ids; the others have a meaning in URLs and keys.
#[tokio::test]
async fn a_new_id_with_a_character_that_means_something_is_refused_by_name() {
    let api = api();
    for character in ['#', '?', '/', '%', '~', '\\'] {
        let id = format!("a{character}b");
        // As JSON writes it.
        let named = format!("'{}'", json!(character).as_str().unwrap().escape_default());
        let task = json!({ "type": "monitor", "payload": {}, "task_id": id });
        let problem = ask("POST", "/tasks").key(AGENT).json(&task).of(&api).await.problem(400);
        assert!(problem.to_string().contains(&named), "{problem}");
        let event = json!({
            "event_type": "ci.passed", "source_agent": "ci", "payload": {}, "event_id": id,
        });
        let problem =
            ask("POST", "/events/publish").key(AGENT).json(&event).of(&api).await.problem(400);
        assert!(problem.to_string().contains(&named), "{problem}");
    }
    // As a bridge escapes them, and however long that makes them.
    for id in ["a=2Fb".to_owned(), "=7E".repeat(128)] {
        let task = json!({ "type": "monitor", "payload": {}, "task_id": id });
        let made = ask("POST", "/tasks").key(AGENT).json(&task).of(&api).await;
        assert_eq!(made.status, 200, "{id}");
        let path = format!("/tasks/{id}");
        assert_eq!(ask("GET", &path).key(AGENT).of(&api).await.json()["task_id"], json!(id));
    }
    let long = json!({ "type": "monitor", "payload": {}, "task_id": "x".repeat(129) });
    ask("POST", "/tasks").key(AGENT).json(&long).of(&api).await.problem(400);
}

#[tokio::test]
async fn tokens_that_lie_are_refused() {
    let api = api();
    let good = claims(&api, "user");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        hs256(&claims, SECRET.as_bytes())
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        hs256(&claims, SECRET.as_bytes())
    };
    let token = hs256(&good, SECRET.as_bytes());
    assert_eq!(ask("GET", "/tasks").bearer(&token).of(&api).await.status, 200);
    let (head, rest) = token.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    // {"alg":"none"}, {"alg":"None","typ":"JWT"}, {"alg":"HS512"}
    let heads =
        ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJIUzUxMiJ9"];
    let mut bad: Vec<String> =
        heads.iter().map(|head| format!("{head}.{body}.{signature}")).collect();
    bad.extend(heads.iter().map(|head| format!("{head}.{body}.")));
    let admin = hs256(&claims(&api, "admin"), SECRET.as_bytes());
    let admin_body = admin.split('.').nth(1).unwrap();
    bad.extend([
        format!("{head}.{admin_body}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        hs256(&good, b"another secret of more than 32 bytes ..."),
        without("exp"),
        without("sub"),
        without("role"),
        with("exp", json!("tomorrow")),
        with("exp", json!(1)),
        with("role", json!("operator")),
        with("role", json!("king")),
        with("sub", json!("")),
        with("sub", json!("a\nb")),
        with("tenant", json!("Other#1")),
        with("nbf", json!(4_000_000_000u64)),
        "x".repeat(10_000),
    ]);
    for token in bad {
        ask("GET", "/tasks").bearer(&token).of(&api).await.problem(401);
    }
    let other = with("tenant", json!("other"));
    assert_eq!(ask("GET", "/tasks").bearer(&other).of(&api).await.json()["count"], 0);
}

/// A JWKS document that changes, and counts its fetches.
struct Provider {
    document: std::sync::Mutex<Result<String, String>>,
    asked: AtomicUsize,
}

#[async_trait]
impl JwksSource for Provider {
    async fn fetch(&self) -> Result<String, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.document.lock().unwrap().clone()
    }
}

fn jwk(key: &EncodingKey, algorithm: Algorithm, kid: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
    jwk.common.key_id = Some(kid.into());
    serde_json::to_value(jwk).unwrap()
}

fn signed(claims: &Value, key: &EncodingKey, algorithm: Algorithm, kid: &str) -> String {
    let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn ec_key() -> EncodingKey {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref())
}

fn rsa_key() -> EncodingKey {
    let der = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    // The key itself follows 26 bytes of PKCS #8 wrapping.
    EncodingKey::from_rsa_der(&der.as_ref()[26..])
}

#[tokio::test]
async fn keys_of_a_provider_decide_the_algorithm() {
    let (ec, rsa) = (ec_key(), rsa_key());
    let set = json!({ "keys": [
        jwk(&ec, Algorithm::ES256, "ec"), jwk(&rsa, Algorithm::RS256, "rsa")
    ] });
    let provider = Arc::new(Provider {
        document: std::sync::Mutex::new(Ok(set.to_string())),
        asked: AtomicUsize::new(0),
    });
    let jwt = JwtConfig {
        jwks: Some(provider.clone()),
        hs_secret: Some(SECRET.into()),
        ..JwtConfig::default()
    };
    let api = api_with(ApiConfig { jwt, ..config() }, EngineConfig::default());
    let claims = claims(&api, "user");
    for (key, algorithm, kid) in [(&ec, Algorithm::ES256, "ec"), (&rsa, Algorithm::RS256, "rsa")] {
        let token = signed(&claims, key, algorithm, kid);
        let got = ask("GET", "/tasks").bearer(&token).of(&api).await;
        assert_eq!(got.status, 200, "{kid}: {:?}", got.body);
        let crossed = signed(&claims, key, algorithm, if kid == "ec" { "rsa" } else { "ec" });
        ask("GET", "/tasks").bearer(&crossed).of(&api).await.problem(401);
    }
    // The public key is not secret: HS256 with it as the secret proves nothing.
    for public in [set["keys"][0]["x"].as_str().unwrap(), set["keys"][1]["n"].as_str().unwrap()] {
        let header = Header { kid: Some("rsa".into()), ..Header::new(Algorithm::HS256) };
        let secret = EncodingKey::from_secret(public.as_bytes());
        let forged = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
        ask("GET", "/tasks").bearer(&forged).of(&api).await.problem(401);
    }
    ask("GET", "/tasks")
        .bearer(&signed(&claims, &rsa, Algorithm::RS512, "rsa"))
        .of(&api)
        .await
        .problem(401);
    assert_eq!(provider.asked.load(Ordering::Relaxed), 1);
}

fn api_of_provider(keys: &[Value]) -> crate::common::Api {
    let document = StaticJwks(json!({ "keys": keys }).to_string());
    let jwt = JwtConfig { jwks: Some(Arc::new(document)), ..JwtConfig::default() };
    api_with(ApiConfig { jwt, ..config() }, EngineConfig::default())
}

/// As during a key rotation, or if a provider does not give its keys unique ids.
#[tokio::test]
async fn every_key_of_a_name_is_tried() {
    let (old, new, rsa, other) = (ec_key(), ec_key(), rsa_key(), ec_key());
    let api = api_of_provider(&[
        jwk(&rsa, Algorithm::RS256, "k"),
        jwk(&old, Algorithm::ES256, "k"),
        jwk(&new, Algorithm::ES256, "k"),
    ]);
    let claims = claims(&api, "user");
    for (key, algorithm) in
        [(&old, Algorithm::ES256), (&new, Algorithm::ES256), (&rsa, Algorithm::RS256)]
    {
        let token = signed(&claims, key, algorithm, "k");
        assert_eq!(ask("GET", "/tasks").bearer(&token).of(&api).await.status, 200);
    }
    let forged = signed(&claims, &other, Algorithm::ES256, "k");
    let problem = ask("GET", "/tasks").bearer(&forged).of(&api).await.problem(401);
    assert!(problem["detail"].as_str().unwrap().contains("signature is wrong"), "{problem}");
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn keys_beyond_the_bound_are_not_dropped_in_silence() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let (kept, dropped) = (ec_key(), ec_key());
    let mut keys = vec![json!({ "kty": "oct", "k": "AAAA", "kid": "no signature of ours" }); 9];
    keys.extend((0..63).map(|n| jwk(&ec_key(), Algorithm::ES256, &n.to_string())));
    keys.push(jwk(&kept, Algorithm::ES256, "the 64th"));
    let said = || String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for (more, taken) in [(false, true), (true, false)] {
        if more {
            keys.push(jwk(&dropped, Algorithm::ES256, "the 65th"));
        }
        let api = api_of_provider(&keys);
        let claims = claims(&api, "user");
        let token = signed(&claims, &kept, Algorithm::ES256, "the 64th");
        assert_eq!(ask("GET", "/tasks").bearer(&token).of(&api).await.status, 200);
        let token = signed(&claims, &dropped, Algorithm::ES256, "the 65th");
        ask("GET", "/tasks").bearer(&token).of(&api).await.problem(401);
        assert_eq!(!said().contains("too many signature keys"), taken, "{}", said());
    }
}

#[tokio::test]
async fn a_new_key_of_a_provider_is_fetched_and_asking_is_bounded() {
    let (old, new) = (ec_key(), ec_key());
    let set = |keys: &[Value]| Ok(json!({ "keys": keys }).to_string());
    let provider = Arc::new(Provider {
        document: std::sync::Mutex::new(Err("not yet".into())),
        asked: AtomicUsize::new(0),
    });
    let jwt = JwtConfig { jwks: Some(provider.clone()), ..JwtConfig::default() };
    let api = api_with(ApiConfig { jwt, ..config() }, EngineConfig::default());
    let mut claims = claims(&api, "user");
    claims["exp"] = json!(4_000_000_000u64);
    let (first, second) = (
        signed(&claims, &old, Algorithm::ES256, "1"),
        signed(&claims, &new, Algorithm::ES256, "2"),
    );
    ask("GET", "/tasks").bearer(&first).of(&api).await.problem(503);
    *provider.document.lock().unwrap() = set(&[jwk(&old, Algorithm::ES256, "1")]);
    api.clock.advance(Duration::from_secs(30));
    assert_eq!(ask("GET", "/tasks").bearer(&first).of(&api).await.status, 200);
    for _ in 0..50 {
        ask("GET", "/tasks").bearer(&second).of(&api).await.problem(401);
    }
    assert_eq!(
        provider.asked.load(Ordering::Relaxed),
        2,
        "strange keys don't make us ask on and on"
    );
    *provider.document.lock().unwrap() = set(&[jwk(&new, Algorithm::ES256, "2")]);
    api.clock.advance(Duration::from_secs(30));
    assert_eq!(ask("GET", "/tasks").bearer(&second).of(&api).await.status, 200);
    ask("GET", "/tasks").bearer(&first).of(&api).await.problem(401);
    *provider.document.lock().unwrap() = Err("gone".into());
    api.clock.advance(Duration::from_secs(3_600));
    assert_eq!(ask("GET", "/tasks").bearer(&second).of(&api).await.status, 200, "used on a while");
    api.clock.advance(Duration::from_secs(6 * 3_600));
    ask("GET", "/tasks").bearer(&second).of(&api).await.problem(503);
}

#[test]
fn bad_settings_are_refused_at_start() {
    let core = api().core;
    let refused = |config: ApiConfig| ApiState::new(core.clone(), config).err().unwrap();
    let mut short = config();
    short.jwt.hs_secret = Some("x".repeat(31));
    assert_eq!(refused(short), ConfigError::ShortSecret { bytes: 31, least: 32 });
    let mut twice = config();
    twice.static_keys.push(static_key("again", ADMIN, Role::User, "default"));
    assert!(matches!(refused(twice), ConfigError::SameKey { .. }));
    let mut operator = config();
    operator.static_keys.push(static_key("boss", "boss-key", Role::Operator, "default"));
    assert!(matches!(refused(operator), ConfigError::OperatorRole { .. }));
    let mut plain = config();
    plain.static_keys[0].key_hash = ADMIN.into();
    assert!(matches!(refused(plain), ConfigError::BadHash { .. }));
    let any = ApiConfig { cors_origins: vec!["*".into()], cors_credentials: true, ..config() };
    assert_eq!(refused(any), ConfigError::AnyOriginWithCredentials);
}
