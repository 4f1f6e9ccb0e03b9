//! Requests that use an approval link.

use super::prose;
use crate::form::{BadForm, Field, FieldType, Form};

/// The decision made with an approval link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChoice {
    Approve,
    Reject { reason: Option<String> },
}

/// A request with an approval link: its token and the decision. Without a decision it only
/// shows the approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkForm {
    pub token: String,
    pub choice: Option<LinkChoice>,
}

/// Maximum length of a pasted link.
const MAX_LINK_CHARS: usize = 2_300;

impl LinkForm {
    pub const FIELDS: &[Field] = &[
        Field::required(
            "token",
            FieldType::Text { most: MAX_LINK_CHARS, lines: false },
            "The part of the link after the #, or the whole link.",
        ),
        Field::optional(
            "decision",
            FieldType::Choice(&["approve", "reject"]),
            "The decision. Without it the approval is displayed, and nothing changes.",
        ),
        Field::optional("reason", prose(1_000), "Why it is rejected; recorded and displayed."),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        Self::of(Form::from_json(Self::FIELDS, body)?)
    }

    /// Reads the fields of an HTML form.
    pub fn of_form(fields: Vec<(String, String)>) -> Result<Self, BadForm> {
        Self::of(Form::from_query(Self::FIELDS, fields.into_iter()))
    }

    /// Extracts the token from a token or a whole pasted link.
    pub fn token_of(text: &str) -> &str {
        text.rsplit('#').next().unwrap_or_default().trim()
    }

    fn of(mut form: Form) -> Result<Self, BadForm> {
        let (token, decision) = (form.text("token"), form.text("decision"));
        let reason = form.text("reason");
        form.done()?;
        let reason = reason.filter(|text| !text.trim().is_empty());
        let choice = decision.map(|decision| match &*decision {
            "approve" => LinkChoice::Approve,
            _ => LinkChoice::Reject { reason },
        });
        let token = Self::token_of(&token.unwrap_or_default()).to_owned();
        Ok(Self { token, choice })
    }
}
