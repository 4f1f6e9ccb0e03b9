//! What the machine provides: time, randomness and, with the feature `system`, its metrics,
//! with `logs` its log files. The embedded bundle and the Lambda functions share it.

pub mod clock;
pub mod entropy;
#[cfg(feature = "logs")]
pub mod log_files;
#[cfg(feature = "system")]
pub mod system;
