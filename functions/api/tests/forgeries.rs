//! Tokens and keys that we did not issue.

use std::sync::Arc;

use watchbill_api::{ApiConfig, JwtConfig, StaticJwks};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_domain::hash_key;

use crate::common::{ADMIN, Api, OTHER, SECRET, api, api_with, ask, config};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Base64url of RFC 4648, section 5, without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

fn claims(api: &Api) -> Value {
    let exp = api.clock.now().millis() / 1000 + 60;
    json!({ "sub": "carol", "role": "admin", "exp": exp, "tenant": "default" })
}

/// A token of exactly these texts, with a matching HMAC.
fn hmac_token(header: &str, claims: &str, secret: &[u8], algorithm: hmac::Algorithm) -> String {
    let signed = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
    let mac = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
    format!("{signed}.{}", base64(mac.as_ref()))
}

fn hs256(claims: &Value) -> String {
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    hmac_token(header, &claims.to_string(), SECRET.as_bytes(), hmac::HMAC_SHA256)
}

async fn is_taken(api: &Api, token: &str) -> bool {
    let got = ask("GET", "/keys").bearer(token).of(api).await;
    match got.status.as_u16() {
        200 => true,
        401 => false,
        other => panic!("{other} for {token}: {:?}", got.body),
    }
}

async fn assert_refused(api: &Api, tokens: Vec<(&str, String)>) {
    for (what, token) in tokens {
        assert!(!is_taken(api, &token).await, "{what}: {token}");
    }
}

#[tokio::test]
async fn no_character_of_a_token_can_be_another() {
    let api = api();
    let token = hs256(&claims(&api));
    assert!(is_taken(&api, &token).await);
    for place in 0..token.len() {
        for other in ["A", "z", "-", ".", "=", ""] {
            let mut forged = token.clone();
            forged.replace_range(place..=place, other);
            assert!(forged == token || !is_taken(&api, &forged).await, "{place}: {forged}");
        }
    }
}

#[tokio::test]
async fn parts_of_tokens_do_not_fit_others() {
    let api = api();
    let mut user = claims(&api);
    user["role"] = json!("user");
    let (admin, user) = (hs256(&claims(&api)), hs256(&user));
    let admin: Vec<&str> = admin.split('.').collect();
    let user: Vec<&str> = user.split('.').collect();
    let (head, body, mac) = (admin[0], admin[1], admin[2]);
    assert_refused(
        &api,
        vec![
            ("another's signature", format!("{head}.{body}.{}", user[2])),
            ("another's claims", format!("{head}.{}.{mac}", user[1])),
            ("no signature", format!("{head}.{body}.")),
            ("no third part", format!("{head}.{body}")),
            ("four parts", format!("{head}.{body}.{mac}.{mac}")),
            ("five parts, as if encrypted", format!("{head}..{body}.{mac}.{mac}")),
            ("nothing", String::new()),
            ("dots", "..".into()),
            ("a space in it", format!("{head}.{body} .{mac}")),
            ("padding", format!("{head}.{body}.{mac}=")),
            ("twice", format!("{head}.{body}.{mac} {head}.{body}.{mac}")),
            ("the scheme twice", format!("Bearer {head}.{body}.{mac}")),
        ],
    )
    .await;
}

#[tokio::test]
async fn no_other_algorithm_is_talked_into_it() {
    let api = api();
    let body = claims(&api).to_string();
    let secret = SECRET.as_bytes();
    let with = |header: &str, algorithm| hmac_token(header, &body, secret, algorithm);
    let mut tokens = vec![
        ("HS384", with(r#"{"alg":"HS384"}"#, hmac::HMAC_SHA384)),
        ("HS512", with(r#"{"alg":"HS512"}"#, hmac::HMAC_SHA512)),
        ("HS256 that says HS512", with(r#"{"alg":"HS512"}"#, hmac::HMAC_SHA256)),
        ("HS512 that says HS256", with(r#"{"alg":"HS256"}"#, hmac::HMAC_SHA512)),
        ("RS256 with an HMAC", with(r#"{"alg":"RS256"}"#, hmac::HMAC_SHA256)),
        ("ES256 with an HMAC", with(r#"{"alg":"ES256"}"#, hmac::HMAC_SHA256)),
        ("no algorithm", with(r#"{"typ":"JWT"}"#, hmac::HMAC_SHA256)),
        ("two algorithms", with(r#"{"alg":"HS256","alg":"none"}"#, hmac::HMAC_SHA256)),
        ("a list of algorithms", with(r#"{"alg":["HS256"]}"#, hmac::HMAC_SHA256)),
        ("demands", with(r#"{"alg":"HS256","crit":["exp"]}"#, hmac::HMAC_SHA256)),
        (
            "its body unencoded",
            with(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, hmac::HMAC_SHA256),
        ),
    ];
    for none in ["none", "None", "NONE", "nOnE", "", "null"] {
        let head = base64(format!(r#"{{"alg":"{none}"}}"#).as_bytes());
        let body = base64(body.as_bytes());
        let mac = base64(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"").as_ref());
        tokens.push(("no algorithm, no signature", format!("{head}.{body}.")));
        tokens.push(("no algorithm, some signature", format!("{head}.{body}.{mac}")));
        tokens.push((
            "no algorithm, an HMAC",
            with(&format!(r#"{{"alg":"{none}"}}"#), hmac::HMAC_SHA256),
        ));
    }
    assert_refused(&api, tokens).await;
}

#[tokio::test]
async fn only_the_secret_is_the_secret() {
    let api = api();
    let body = claims(&api).to_string();
    let with = |secret: &str| {
        hmac_token(r#"{"alg":"HS256"}"#, &body, secret.as_bytes(), hmac::HMAC_SHA256)
    };
    assert!(is_taken(&api, &with(SECRET)).await);
    let hashed = hash_key(SECRET);
    for (what, secret) in [
        ("none", ""),
        ("a part", &SECRET[..32]),
        ("more", &format!("{SECRET}\n")),
        ("upper case", &SECRET.to_uppercase()),
        ("its hash", &hashed),
        ("an admin's key", ADMIN),
        ("zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ] {
        assert!(!is_taken(&api, &with(secret)).await, "{what}");
    }
}

/// Headers that would make us fetch or accept a key from the token itself.
#[tokio::test]
async fn a_token_does_not_bring_its_key() {
    let api = api();
    let body = claims(&api).to_string();
    let own = b"a secret of the forger's, of 32 bytes";
    let oct = base64(own);
    let mut tokens = Vec::new();
    for header in [
        json!({ "alg": "HS256", "kid": "../../../../dev/null" }),
        json!({ "alg": "HS256", "kid": "' UNION SELECT 'a secret of the forger''s" }),
        json!({ "alg": "HS256", "kid": "https://forger.example/key" }),
        json!({ "alg": "HS256", "jku": "https://forger.example/jwks.json" }),
        json!({ "alg": "HS256", "x5u": "https://forger.example/cert.pem" }),
        json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": oct } }),
    ] {
        for secret in [&own[..], b""] {
            let token = hmac_token(&header.to_string(), &body, secret, hmac::HMAC_SHA256);
            tokens.push(("brings its key", token));
        }
    }
    assert_refused(&api, tokens).await;
    // With our secret such headers change nothing.
    let header = r#"{"alg":"HS256","kid":"whatever"}"#;
    assert!(is_taken(&api, &hmac_token(header, &body, SECRET.as_bytes(), hmac::HMAC_SHA256)).await);
}

#[tokio::test]
async fn claims_that_are_no_claims_are_refused() {
    let api = api();
    let good = claims(&api);
    let now = api.clock.now().millis() / 1000;
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        hs256(&claims)
    };
    let mut tokens = Vec::new();
    for role in ["Admin", "ADMIN", " admin", "admin ", "admin,user", "root", "operator", "*", ""] {
        tokens.push(("role", with("role", json!(role))));
    }
    for role in [json!(["admin"]), json!(null), json!(true), json!(0), json!({ "admin": true })] {
        tokens.push(("role of another kind", with("role", role)));
    }
    for tenant in ["Default", "default ", "default#", "../default", "", "a/b", "T#default#"] {
        tokens.push(("tenant", with("tenant", json!(tenant))));
    }
    for tenant in [json!(["default", "other"]), json!(1), json!(true)] {
        tokens.push(("tenant of another kind", with("tenant", tenant)));
    }
    for exp in [json!(now - 31), json!(0), json!(-1), json!("4000000000"), json!(null), json!([])] {
        tokens.push(("exp", with("exp", exp)));
    }
    for nbf in [json!(now + 31), json!("0"), json!(4_000_000_000u64)] {
        tokens.push(("nbf", with("nbf", nbf)));
    }
    for sub in [json!(""), json!("a\u{0}b"), json!("x".repeat(129)), json!(1), json!(null)] {
        tokens.push(("sub", with("sub", sub)));
    }
    let twice = good.to_string().replacen("\"role\"", "\"role\":\"user\",\"role\"", 1);
    let secret = SECRET.as_bytes();
    for body in [&twice, "[]", "null", "\"admin\"", "{}", ""] {
        let token = hmac_token(r#"{"alg":"HS256"}"#, body, secret, hmac::HMAC_SHA256);
        tokens.push(("claims that are none", token));
    }
    assert_refused(&api, tokens).await;
    let other = with("tenant", json!("other"));
    let keys = ask("GET", "/keys").bearer(&other).of(&api).await.json();
    assert_eq!(keys["count"], 0, "a token of another tenant is nobody here");
}

struct Provider {
    ec: EncodingKey,
    ec_public: Vec<u8>,
    rsa: EncodingKey,
    rsa_public: Vec<u8>,
    set: Value,
}

/// An identity provider with a key of each type.
fn provider() -> Provider {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ec = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let rsa_pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = rsa_pair.as_der().unwrap();
    // The key itself follows 26 bytes of PKCS #8 wrapping.
    let rsa = EncodingKey::from_rsa_der(&der.as_ref()[26..]);
    let jwk = |key: &EncodingKey, algorithm, kid: &str| {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(kid.into());
        serde_json::to_value(jwk).unwrap()
    };
    let set = json!({
        "keys": [jwk(&ec, Algorithm::ES256, "ec"), jwk(&rsa, Algorithm::RS256, "rsa")]
    });
    Provider {
        ec,
        ec_public: pair.public_key().as_ref().to_vec(),
        rsa,
        rsa_public: rsa_pair.public_key().as_der().unwrap().as_ref().to_vec(),
        set,
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64(der).replace('-', "+").replace('_', "/");
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    let lines: Vec<String> = format!("{text}{padding}")
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// HS256 with a public key as the secret, in every format in which it may be available.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let provider = provider();
    for hs_secret in [Some(SECRET.to_owned()), None] {
        let jwks = Arc::new(StaticJwks(provider.set.to_string()));
        let jwt = JwtConfig { jwks: Some(jwks), hs_secret, ..JwtConfig::default() };
        let api = api_with(ApiConfig { jwt, ..config() }, EngineConfig::default());
        let body = claims(&api).to_string();
        let set = provider.set.to_string();
        let one = provider.set["keys"][1].to_string();
        let n = provider.set["keys"][1]["n"].as_str().unwrap().to_owned();
        let public = pem(&provider.rsa_public);
        let secrets: Vec<&[u8]> = vec![
            &provider.rsa_public,
            &provider.ec_public,
            public.as_bytes(),
            public.trim_end().as_bytes(),
            set.as_bytes(),
            one.as_bytes(),
            n.as_bytes(),
        ];
        let mut tokens = Vec::new();
        for secret in secrets {
            for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","kid":"rsa"}"#] {
                let token = hmac_token(header, &body, secret, hmac::HMAC_SHA256);
                tokens.push(("a public key as the secret", token));
            }
            let token =
                hmac_token(r#"{"alg":"RS256","kid":"rsa"}"#, &body, secret, hmac::HMAC_SHA256);
            tokens.push(("an HMAC as a signature", token));
        }
        assert_refused(&api, tokens).await;
    }
}

#[tokio::test]
async fn a_providers_keys_are_used_only_as_their_type() {
    let (own, forger) = (provider(), provider());
    let jwks = Arc::new(StaticJwks(own.set.to_string()));
    let jwt = JwtConfig { jwks: Some(jwks), ..JwtConfig::default() };
    let api = api_with(ApiConfig { jwt, ..config() }, EngineConfig::default());
    let claims = claims(&api);
    let signed =
        |key: &EncodingKey, header: Header| jsonwebtoken::encode(&header, &claims, key).unwrap();
    let header = |algorithm, kid: Option<&str>| Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    };
    assert!(is_taken(&api, &signed(&own.ec, header(Algorithm::ES256, Some("ec")))).await);
    assert!(is_taken(&api, &signed(&own.rsa, header(Algorithm::RS256, Some("rsa")))).await);
    let brought = |kid: Option<&str>| {
        let jwk = serde_json::from_value(forger.set["keys"][0].clone()).unwrap();
        let jku = Some("https://forger.example/jwks.json".to_owned());
        Header { jwk: Some(jwk), jku, ..header(Algorithm::ES256, kid) }
    };
    // r and s of zero: a signature that a careless verifier accepts for every text.
    let good = signed(&own.ec, header(Algorithm::ES256, Some("ec")));
    let (text, _) = good.rsplit_once('.').unwrap();
    assert_refused(
        &api,
        vec![
            ("the forger's key", signed(&forger.ec, header(Algorithm::ES256, Some("ec")))),
            ("the forger's RSA key", signed(&forger.rsa, header(Algorithm::RS256, Some("rsa")))),
            ("a key it brings", signed(&forger.ec, brought(Some("ec")))),
            ("a key it brings under a name of its own", signed(&forger.ec, brought(Some("mine")))),
            ("a key it brings without a name", signed(&forger.ec, brought(None))),
            ("no name, where there are two", signed(&own.ec, header(Algorithm::ES256, None))),
            ("an empty name", signed(&own.ec, header(Algorithm::ES256, Some("")))),
            ("the name in upper case", signed(&own.ec, header(Algorithm::ES256, Some("EC")))),
            ("the other's name", signed(&own.ec, header(Algorithm::ES256, Some("rsa")))),
            ("another padding", signed(&own.rsa, header(Algorithm::PS256, Some("rsa")))),
            ("another hash", signed(&own.rsa, header(Algorithm::RS384, Some("rsa")))),
            ("zeros", format!("{text}.{}", base64(&[0; 64]))),
            ("half a signature", format!("{text}.{}", base64(&[0; 32]))),
            ("HS256 where there is no secret", hs256(&claims)),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_known_of_a_key_is_not_the_key() {
    let api = api();
    let body = json!({ "name": "helper", "role": "admin" });
    let made = ask("POST", "/keys").key(ADMIN).json(&body).of(&api).await.json();
    let key = made["key"].as_str().unwrap();
    let cut = &key[..key.len() - 1];
    for forged in [
        hash_key(key),
        hash_key(ADMIN),
        made["prefix"].as_str().unwrap().to_owned(),
        cut.to_owned(),
        format!("{key}0"),
        key.to_uppercase(),
        format!("{key}, {key}"),
        format!("{OTHER}, {ADMIN}"),
        "K#".to_owned() + &hash_key(key),
        "*".to_owned(),
    ] {
        let got = ask("GET", "/keys").key(&forged).of(&api).await;
        assert_eq!(got.status, 401, "{forged}");
        assert!(!is_taken(&api, &forged).await, "a key is no token");
    }
    assert!(!is_taken(&api, key).await, "a key is no token");
    assert_eq!(ask("GET", "/keys").key(key).of(&api).await.status, 200);
}
