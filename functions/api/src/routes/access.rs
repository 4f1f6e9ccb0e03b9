//! Routes for keys, tokens and tenants.

use http::Method;
use watchbill_core::service::ServiceError;
use watchbill_domain::Role;
use watchbill_wire::{
    CreateKey, CreateTenant, Field, FieldType, KeyCreated, KeyList, KeyQuery, KeyRevoked, KeyView,
    TokenIssued, TokenRequest,
};

use crate::ApiError;
use crate::req::Req;
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, json, json_as_is};

const KEY_NAME: &[Field] =
    &[Field::required("name", FieldType::Text { most: 64, lines: false }, "The key's name.")];

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/auth/token",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(token(req)),
        doc: Doc {
            text: "Mints a JWT (HS256) for the caller's tenant. Where one person must not count \
                   twice, its bearer counts as the caller too. 409 if no secret is set.",
            body: Some(Body {
                fields: TokenRequest::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"sub":"dashboard","role":"user","expires_in":3600}"#,
            }),
            errors: &[400, 409, 413, 415, 503],
            ..Doc::new(
                "Access",
                "mint_token",
                "Mint a token",
                Success::Json(|g| g.subschema_for::<TokenIssued>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/keys",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(create(req)),
        doc: Doc {
            text: "Only this response shows the key. Where one person must not count twice, it \
                   counts as its creator too: in a quorum, and where nobody may approve what they \
                   submitted themselves.",
            body: Some(Body {
                fields: CreateKey::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"name":"ops-worker","role":"agent"}"#,
            }),
            errors: &[400, 409, 413, 415, 503],
            ..Doc::new(
                "Access",
                "create_key",
                "Create a key",
                Success::Json(|g| g.subschema_for::<KeyCreated>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/keys",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Valid keys, newest first, then those revoked in the past 90 days.",
            query: KeyQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Access",
                "list_keys",
                "List the keys, without the keys themselves",
                Success::Json(|g| g.subschema_for::<KeyList>()),
            )
        },
    },
    Route {
        method: Method::DELETE,
        path: "/keys/{name}",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(revoke(req)),
        doc: Doc {
            text: "Other instances may accept the key for another 30 s.",
            path: KEY_NAME,
            errors: &[400, 404, 409, 503],
            ..Doc::new(
                "Access",
                "revoke_key",
                "Revoke a key",
                Success::Json(|g| g.subschema_for::<KeyRevoked>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/tenants",
        access: Access::Needs(Role::Operator),
        handler: |req| Box::pin(tenant(req)),
        doc: Doc {
            text: "Creates the tenant's first key, with the role admin. 409 if the tenant has keys \
                   already.",
            body: Some(Body {
                fields: CreateTenant::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"tenant":"acme"}"#,
            }),
            errors: &[400, 409, 413, 415, 503],
            ..Doc::new(
                "Access",
                "create_tenant",
                "Create a tenant",
                Success::Json(|g| g.subschema_for::<KeyCreated>()),
            )
        },
    },
];

async fn token(mut req: Req) -> HandlerResult {
    let body = req.body().await?;
    let TokenRequest { sub, role, lifetime } = TokenRequest::read(&body)?;
    let now = req.core().clock().now();
    let tokens = req.state.shared().auth.tokens();
    let access_token = tokens.mint(req.caller(), &sub, role, now, lifetime)?;
    req.core().audit().record_token(req.caller(), &sub, role, lifetime).await?;
    json_as_is(&TokenIssued {
        success: true,
        access_token,
        token_type: "bearer".into(),
        expires_in: lifetime.as_secs(),
        sub,
        role,
        tenant_id: req.caller().tenant.clone(),
    })
}

async fn create(mut req: Req) -> HandlerResult {
    let body = req.body().await?;
    let CreateKey { name, role } = CreateKey::read(&body)?;
    let (caller, core) = (req.caller(), req.core());
    let (key, about) = core.keys().create(caller, &caller.tenant, &name, role).await?;
    json_as_is(&KeyCreated { success: true, key, about: about.into() })
}

async fn list(req: Req) -> HandlerResult {
    let KeyQuery { limit, cursor } = KeyQuery::read(req.query(KeyQuery::FIELDS))?;
    let page = req.core().keys().list(&req.caller().tenant, limit, cursor).await?;
    let keys: Vec<_> = page.keys.into_iter().map(KeyView::from).collect();
    let (count, next_cursor, unreadable) = (keys.len(), page.next_cursor, page.unreadable);
    json(&KeyList { success: true, count, keys, next_cursor, unreadable })
}

async fn revoke(req: Req) -> HandlerResult {
    let name = req.param("name", |name| match (name.is_empty(), name.chars().count()) {
        (false, ..=64) if !name.contains(char::is_control) => Ok(name.to_owned()),
        _ => Err("a key's name has 1 to 64 characters, none of them a control character"),
    })?;
    let key = req.core().keys().revoke(req.caller(), &name).await?;
    req.state.shared().auth.keys().forget(&key.tenant, &key.name);
    let message = format!("Key {name} revoked by {}", req.caller().name);
    json(&KeyRevoked { success: true, name, message })
}

async fn tenant(mut req: Req) -> HandlerResult {
    let body = req.body().await?;
    let CreateTenant { tenant, name } = CreateTenant::read(&body)?;
    let taken = || {
        ApiError::conflict(format!("tenant '{tenant}' exists already: its admins create its keys"))
    };
    let serves = req.state.shared().auth.keys().serve(&tenant);
    if serves || req.core().tenants().exists(&tenant).await? {
        return Err(taken());
    }
    match req.core().keys().create_tenant(req.caller(), &tenant, &name).await {
        Ok((key, about)) => json_as_is(&KeyCreated { success: true, key, about: about.into() }),
        Err(ServiceError::Conflict { .. }) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}
