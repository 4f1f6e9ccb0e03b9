//! The adapter of a peer in Redis, against real servers. Each call is made twice: a caller
//! whose answer was lost makes it again.

mod bed;
mod channels;
mod domains;
mod mirror;
mod offers;
mod outages;
mod queue;
mod refusals;
mod shapes;
mod tls;
