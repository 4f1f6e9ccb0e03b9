use super::prose;
use crate::form::{BadForm, Field, Form, Kind};

/// What is decided by an approval link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChoice {
    Approve,
    Reject { reason: Option<String> },
}

/// What is sent with an approval link: its token, and what is decided; nothing yet by whoever looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkForm {
    pub token: String,
    pub choice: Option<LinkChoice>,
}

/// The longest link that may be pasted in place of its token.
const MOST: usize = 2_300;

impl LinkForm {
    pub const FIELDS: &[Field] = &[
        Field::needed(
            "token",
            Kind::Text { most: MOST, lines: false },
            "What stands in the link behind the #, or the whole link.",
        ),
        Field::maybe(
            "decision",
            Kind::Choice(&["approve", "reject"]),
            "What is decided. Without it what is asked is shown, and nothing changes.",
        ),
        Field::maybe("reason", prose(1_000), "Why, if it is rejected; it is kept and shown."),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        Self::of(Form::from_json(Self::FIELDS, body)?)
    }

    /// The same from the fields of an HTML form.
    pub fn of_form(fields: Vec<(String, String)>) -> Result<Self, BadForm> {
        Self::of(Form::from_query(Self::FIELDS, fields.into_iter()))
    }

    /// The token of a link, or of one that was pasted whole.
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
