//! The DynamoDB store: the store suite on an emulator, and a mock server for what an emulator
//! can't be made to do.

mod follow;
mod lost;
mod peer;
mod suite;
mod table;
mod throttled;
