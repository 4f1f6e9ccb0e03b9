//! The HTTP API: one router over the core, served by Lambda and by the embedded server alike.
//!
//! - `route`: what a route is; `routes`: the table of all of them, and their handlers.
//! - `serve`: what happens around each handler: who calls, how often, may they, and no panic
//!   or inside knowledge gets out.
//! - `auth`: keys and tokens. `limits`: calls per minute. `cors`: which pages may call.
//! - `address`: where a call comes from. `shares`: how much each caller may hold at once.
//! - `answer`: the bytes of answers under way.
//! - `fault`: every error as `application/problem+json`.
//! - `aws`: how it is set up and served on Lambda.
//! - `openapi`, `docs`: the document made of the table, and the page that shows it.
//!
//! How to add a route: a handler and a [`Route`] in the table of its module under `routes`.
//! Path, role, fields, answer and errors stand in that one place; the router, the rights, the
//! rate limits, the OpenAPI document and the tests over all routes read them from there.

mod address;
mod answer;
mod auth;
#[cfg(feature = "lambda")]
mod aws;
mod config;
mod cors;
mod docs;
mod fault;
mod limits;
mod openapi;
mod req;
mod route;
mod routes;
mod serve;
mod shares;
mod state;

pub use address::{TrustedProxies, TrustedProxyError, network};
pub use auth::{JwksSource, JwtConfig, StaticJwks};
#[cfg(feature = "lambda")]
pub use aws::{api_config, serve_lambda};
pub use config::{
    AgentInfo, ApiConfig, BODY_WITHIN, ConfigError, HealthReport, HealthSource, StaticKey,
};
pub use fault::Fault;
pub use limits::{RateLimits, RateLimitsError};
pub use openapi::document as openapi_document;
pub use route::{Access, Body, Doc, Route, Success, Verb};
pub use routes::ROUTES;
pub use serve::router;
pub use state::ApiState;
