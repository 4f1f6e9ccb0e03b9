//! What the machine itself gives, whatever else runs on it: time, randomness and, with the
//! feature `system`, its own figures. The embedded bundle and the Lambda functions share it.

pub mod clock;
pub mod entropy;
#[cfg(feature = "system")]
pub mod system;
