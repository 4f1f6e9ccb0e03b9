//! Requests for keys, tokens and tenants.

use std::time::Duration;

use watchbill_domain::{Role, TenantId};
use watchbill_redact as redact;

use super::line;
use super::queries::cursor_field;
use crate::form::{BadForm, Field, FieldType, Form};

const ROLES: &[&str] = &["admin", "agent", "approver", "user"];

fn is_key_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && !redact::holds_secret(text)
}

const KEY_NAME: FieldType = FieldType::Word {
    pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    most: 64,
    fits: is_key_name,
    like: "1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, that do \
           not look like a secret",
};

/// The body of `POST /keys`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateKey {
    pub name: String,
    pub role: Role,
}

impl CreateKey {
    pub const FIELDS: &[Field] = &[
        Field::required("name", KEY_NAME, "Who will use the key; shown as the actor of its calls.")
            .unreserved(),
        Field::required(
            "role",
            FieldType::Choice(ROLES),
            "The role, which decides what it may do.",
        ),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let name = form.text("name");
        let role = form.choice("role", Role::parse);
        form.done()?;
        let (Some(name), Some(role)) = (name, role) else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self { name, role })
    }
}

/// `GET /keys`.
#[derive(Clone, Debug)]
pub struct KeyQuery {
    pub limit: usize,
    pub cursor: Option<String>,
}

impl KeyQuery {
    /// The page size limit, and the default: before pages existed, all keys were returned at
    /// once.
    const MAX_LIMIT: u64 = 1_000;

    pub const FIELDS: &[Field] = &[
        Field::optional(
            "limit",
            FieldType::Int { least: 1, most: Self::MAX_LIMIT },
            "Maximum number of keys on a page; default 1000.",
        ),
        cursor_field!("k1", "/keys", KEYS),
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let limit = form.int("limit").unwrap_or(Self::MAX_LIMIT) as usize;
        let query = Self { limit, cursor: form.text("cursor") };
        form.done().map(|()| query)
    }
}

/// The body of `POST /auth/token`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRequest {
    pub sub: String,
    pub role: Role,
    pub lifetime: Duration,
}

impl TokenRequest {
    pub const FIELDS: &[Field] = &[
        Field::required("sub", line(128), "Who will use the token.").unreserved(),
        Field::required(
            "role",
            FieldType::Choice(ROLES),
            "The role, which decides what it may do.",
        ),
        Field::optional(
            "expires_in",
            FieldType::Int { least: 60, most: 86_400 },
            "Lifetime in seconds; default 3600.",
        ),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let sub = form.text("sub");
        if sub.as_deref().is_some_and(redact::holds_secret) {
            form.fault(
                "sub",
                "'sub' looks like a secret, and names are shown: choose another".into(),
            );
        }
        let role = form.choice("role", Role::parse);
        let lifetime = Duration::from_secs(form.int("expires_in").unwrap_or(3_600));
        form.done()?;
        let (Some(sub), Some(role)) = (sub, role) else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self { sub, role, lifetime })
    }
}

/// The body of `POST /tenants`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTenant {
    pub tenant: TenantId,
    pub name: String,
}

impl CreateTenant {
    pub const FIELDS: &[Field] = &[
        Field::required(
            "tenant",
            FieldType::Word {
                pattern: "^[a-z0-9_-]+$",
                most: 64,
                fits: |text| TenantId::parse(text).is_ok() && !redact::holds_secret(text),
                like: "1 to 64 lower-case letters, digits, '-' and '_' that do not look like a secret",
            },
            "The tenant's name.",
        ),
        Field::optional("name", KEY_NAME, "The name of its first key; default `admin`.")
            .unreserved(),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let tenant = form.parsed("tenant", TenantId::parse);
        let name = form.text("name").unwrap_or_else(|| "admin".into());
        form.done()?;
        let Some(tenant) = tenant else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self { tenant, name })
    }
}
