//! The DynamoDB store: against an emulator what every store promises, against a scripted
//! peer what an emulator can't be made to do.

mod follow;
mod lost;
mod peer;
mod suite;
mod table;
mod throttled;
