//! `decide` driven through random sequences of commands. Each result is checked against the
//! invariants that hold after any command, whatever came before it.
//!
//! `WATCHBILL_ROUNDS` sets the number of sequences (soak: 200000), `WATCHBILL_SEED` the first
//! seed. A failure prints its seed and the shortest sequence that still fails.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::state_machine::{Dice, Life, Move, Setup};

const ROUNDS: u64 = 6_000;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")),
        Err(_) => default,
    }
}

/// Runs a whole random scenario; the error names the violated invariant.
fn run(setup: &Setup, moves: &[Move]) -> Result<Life, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut life = Life::begin(setup)?;
        for step in moves {
            life.go(step)?;
        }
        life.close()?;
        Ok(life)
    }));
    lived.unwrap_or_else(|_| Err("decide panicked".to_owned()))
}

/// Removes the moves that the failure does not need.
fn shrink(setup: &Setup, moves: &[Move]) -> Vec<Move> {
    let mut least = moves.to_vec();
    let mut at = 0;
    while at < least.len() {
        let mut fewer = least.clone();
        fewer.remove(at);
        if run(setup, &fewer).is_err() {
            least = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    least
}

#[test]
fn nothing_breaks_what_must_hold() {
    let first = number("WATCHBILL_SEED", 1);
    let mut reached: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + number("WATCHBILL_ROUNDS", ROUNDS) {
        let mut dice = Dice::new(seed);
        let setup = Setup::random(&mut dice);
        let moves: Vec<Move> = (0..setup.moves()).map(|_| Move::random(&mut dice)).collect();
        match run(&setup, &moves) {
            Ok(life) => life.count(&mut reached),
            Err(error) => {
                let least = shrink(&setup, &moves);
                let still = run(&setup, &least).err().unwrap_or(error);
                let steps: Vec<String> = least.iter().map(|step| format!("{step:?}")).collect();
                panic!("seed {seed}: {still}\n{setup:?}\n{}", steps.join("\n"));
            }
        }
    }
    // The sequences must have covered every change, or they prove little.
    for what in crate::state_machine::EVERY_WHAT {
        assert!(reached.contains_key(*what), "no sequence came to '{what}': {reached:#?}");
    }
}

/// From any state that does not wait for a person, ticks alone end the task or keep coming.
#[test]
fn an_open_task_that_nobody_claims_is_given_up() {
    let mut given_up = 0;
    for seed in 1..400 {
        let mut dice = Dice::new(seed);
        let setup = Setup::random(&mut dice);
        let mut life = Life::begin(&setup).unwrap();
        for _ in 0..8 {
            life.go(&Move::random(&mut dice)).unwrap();
        }
        if life.waits_for_a_claim() {
            for _ in 0..40 {
                life.look_when_due().unwrap();
            }
            assert!(life.task().status.is_terminal(), "seed {seed}: {:?}", life.task());
            given_up += 1;
        }
    }
    assert!(given_up > 20, "only {given_up} lives came to wait for a claim");
}
