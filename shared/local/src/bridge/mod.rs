//! The Redis bridge in this process: beside a server that is reached over HTTP, or within one.

mod http_home;

pub use http_home::HttpHome;
