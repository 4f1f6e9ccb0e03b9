//! Reads `reactions.yaml`, which maps events to the tasks they start.

use serde::Deserialize;
use watchbill_core::reactions::{Reaction, ReactionError, ReactionForm};

/// The reactions that ship with Watchbill.
const SHIPPED: &str = include_str!("../reactions.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    reactions: Vec<ReactionForm>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReactionsError {
    #[error("{0}")]
    Form(String),
    #[error(transparent)]
    Reaction(#[from] ReactionError),
}

/// Parses the text of a `reactions.yaml`. JSON is accepted too, as it is valid YAML.
pub fn read_reactions(text: &str) -> Result<Vec<Reaction>, ReactionsError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // Keep only the position and the message; the parser appends the surrounding lines.
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        ReactionsError::Form(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    })?;
    Ok(Reaction::check_all(file.reactions)?)
}

pub fn shipped_reactions() -> Vec<Reaction> {
    read_reactions(SHIPPED).expect("a test reads the shipped reactions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_reactions_are_as_they_should_be() {
        assert!(!shipped_reactions().is_empty());
    }

    #[test]
    fn a_fault_names_its_line() {
        let wrong = "reactions:\n  - name: x\n    when: alert.triggered\n";
        let said = read_reactions(wrong).unwrap_err().to_string();
        assert!(said.contains("line 3") && said.contains("when"), "{said}");
    }
}
