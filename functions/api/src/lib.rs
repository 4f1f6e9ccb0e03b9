//! The HTTP API: one router over the core, served by Lambda and by the embedded server.
//!
//! - `route`: what a route is; `routes`: the table of all routes, and their handlers.
//! - `serve`: what surrounds each handler: authentication, rate limits, authorization, and
//!   errors that reveal no panic or internal detail.
//! - `auth`: keys and tokens. `limits`: calls per minute. `cors`: which pages may call.
//! - `address`: the client address. `shares`: how much each caller may hold at once.
//! - `answer`: the bytes of responses in transit.
//! - `error`: every error as `application/problem+json`.
//! - `aws`: setting up and serving on Lambda.
//! - `openapi`, `docs`: the document generated from the table, and the page that shows it.
//!
//! To add a route, add a handler and a [`Route`] in the table of its module under `routes`. Only
//! this table defines path, role, fields, response and errors; the router, the authorization,
//! the rate limits, the OpenAPI document and the tests over all routes read it.

mod address;
mod answer;
mod auth;
#[cfg(feature = "lambda")]
mod aws;
mod config;
mod cors;
mod docs;
mod error;
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
pub use error::ApiError;
pub use limits::{RateLimits, RateLimitsError};
pub use openapi::document as openapi_document;
pub use route::{Access, Body, Doc, Route, Success};
pub use routes::ROUTES;
pub use serve::router;
pub use state::ApiState;
