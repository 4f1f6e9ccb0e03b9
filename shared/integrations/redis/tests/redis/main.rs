//! Tests of the legacy queue's adapter against real servers. Each call is made twice, as a
//! caller does whose answer was lost.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod channels;
mod domains;
mod fixture;
mod forms;
mod mirror;
mod offers;
mod outages;
mod port;
mod queue;
mod refusals;
mod shapes;
mod tls;
