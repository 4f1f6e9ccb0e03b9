//! The adapter of a peer in Redis, against real servers. Each call is made twice: a caller
//! whose answer was lost makes it again.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod bed;
mod channels;
mod domains;
mod forms;
mod mirror;
mod offers;
mod outages;
mod port;
mod queue;
mod refusals;
mod shapes;
mod tls;
