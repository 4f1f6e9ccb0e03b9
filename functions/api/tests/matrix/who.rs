//! The callers of the matrix: every role with a key or token, invalid credentials, and none.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use watchbill_core::ports::Clock as _;
use watchbill_domain::Role;

use crate::common::{ADMIN, AGENT, APPROVER, OPERATOR, OTHER, SECRET, TestRequest, USER};
use crate::matrix::scene::{OTHER_AGENT, OTHER_APPROVER, OTHER_USER, Scene};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The tenant that the calls concern.
    Here,
    Elsewhere,
}

enum Bears {
    Nothing,
    Key(&'static str),
    /// The key that the scene has revoked.
    Revoked,
    /// Tenant, role, secret, and lifetime in seconds from now.
    Token {
        tenant: &'static str,
        role: &'static str,
        secret: &'static str,
        lasts: i64,
    },
}

pub struct Who {
    pub name: String,
    pub role: Option<Role>,
    pub home: Home,
    /// Whether the credential is accepted at all.
    pub is_taken: bool,
    bears: Bears,
}

const ROLES: [(Role, &str, &str); 4] = [
    (Role::User, USER, OTHER_USER),
    (Role::Approver, APPROVER, OTHER_APPROVER),
    (Role::Agent, AGENT, OTHER_AGENT),
    (Role::Admin, ADMIN, OTHER),
];

pub fn everyone() -> Vec<Who> {
    let who = |name: &str, role, home, bears| {
        let name = name.to_owned();
        Who { name, role, home, bears, is_taken: true }
    };
    let refused = |name: &str, bears| Who {
        is_taken: false,
        ..who(name, Some(Role::Admin), Home::Here, bears)
    };
    let token = |tenant, role, secret, lasts| Bears::Token { tenant, role, secret, lasts };
    let mut all = vec![
        who("nobody", None, Home::Elsewhere, Bears::Nothing),
        who("the operator", Some(Role::Operator), Home::Elsewhere, Bears::Key(OPERATOR)),
        who(
            "an admin by token of a tenant that is not there",
            Some(Role::Admin),
            Home::Elsewhere,
            token("nowhere", "admin", SECRET, 60),
        ),
        refused("a revoked key", Bears::Revoked),
        refused("an unknown key", Bears::Key("wb_00000000000000000000")),
        refused(
            "a forged token",
            token("default", "admin", "a secret of others, 32 bytes too", 60),
        ),
        refused("an expired token", token("default", "admin", SECRET, -60)),
        refused("a token of the operator", token("default", "operator", SECRET, 60)),
        refused("a token of no tenant's name", token("default#", "admin", SECRET, 60)),
    ];
    for (role, key, other) in ROLES {
        let name = role.as_str();
        all.extend([
            who(&format!("{name} by key"), Some(role), Home::Here, Bears::Key(key)),
            who(&format!("{name} elsewhere"), Some(role), Home::Elsewhere, Bears::Key(other)),
            who(
                &format!("{name} by token"),
                Some(role),
                Home::Here,
                token("default", name, SECRET, 60),
            ),
            who(
                &format!("{name} elsewhere by token"),
                Some(role),
                Home::Elsewhere,
                token("other", name, SECRET, 60),
            ),
        ]);
    }
    all
}

impl Who {
    pub fn sign(&self, call: TestRequest, scene: &Scene) -> TestRequest {
        match &self.bears {
            Bears::Nothing => call,
            Bears::Key(key) => call.key(key),
            Bears::Revoked => call.key(&scene.revoked),
            Bears::Token { tenant, role, secret, lasts } => {
                let exp = scene.api.clock.now().millis() / 1000 + lasts;
                let claims = json!({ "sub": "tess", "role": role, "tenant": tenant, "exp": exp });
                let key = EncodingKey::from_secret(secret.as_bytes());
                let header = Header::new(Algorithm::HS256);
                call.bearer(&jsonwebtoken::encode(&header, &claims, &key).unwrap())
            }
        }
    }
}
