use super::prose;
use crate::form::{BadForm, Field, Form, Kind};

/// What is decided by an approval link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChoice {
    Approve,
    Reject { reason: Option<String> },
}

impl LinkChoice {
    pub const FIELDS: &[Field] = &[
        Field::needed("decision", Kind::Choice(&["approve", "reject"]), "What is decided."),
        Field::maybe("reason", prose(1_000), "Why, if it is rejected; it is kept and shown."),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        Self::of(Form::from_json(Self::FIELDS, body)?)
    }

    /// The same from the fields of an HTML form.
    pub fn of_form(fields: Vec<(String, String)>) -> Result<Self, BadForm> {
        Self::of(Form::from_query(Self::FIELDS, fields.into_iter()))
    }

    fn of(mut form: Form) -> Result<Self, BadForm> {
        let (decision, reason) = (form.text("decision"), form.text("reason"));
        form.done()?;
        let reason = reason.filter(|text| !text.trim().is_empty());
        Ok(match decision.as_deref() {
            Some("approve") => Self::Approve,
            _ => Self::Reject { reason },
        })
    }
}
