//! The wire format of lane messages.

use serde::{Deserialize, Serialize};
use watchbill_core::ports::LaneMessage;
use watchbill_domain::{Agent, IdError, Priority, TaskId, TenantId};

use crate::portable_json;

/// A lane message as a queue carries it. The tag is its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "v")]
pub enum LaneForm {
    #[serde(rename = "1")]
    V1(LaneV1),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneV1 {
    pub tenant: TenantId,
    pub task_id: TaskId,
    pub assignment: u32,
    pub agent: Agent,
    pub priority: Priority,
    pub trace_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LaneFormError {
    #[error("not a lane message that this build can read: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the lane message has an invalid id: {0}")]
    Id(#[from] IdError),
}

impl LaneForm {
    pub fn write(message: &LaneMessage) -> String {
        let form = LaneForm::V1(LaneV1 {
            tenant: message.tenant.clone(),
            task_id: message.task_id.clone(),
            assignment: message.assignment,
            agent: message.agent,
            priority: message.priority,
            trace_id: message.trace_id.clone(),
        });
        portable_json(serde_json::to_string(&form).expect("strings and numbers serialize"))
    }

    pub fn read(text: &str) -> Result<LaneMessage, LaneFormError> {
        let LaneForm::V1(form) = serde_json::from_str(text)?;
        Ok(LaneMessage {
            // Deserialising accepts any text, but the ids become parts of keys and must be
            // valid.
            tenant: TenantId::parse(form.tenant.as_str())?,
            task_id: TaskId::parse(form.task_id.as_str())?,
            assignment: form.assignment,
            agent: form.agent,
            priority: form.priority,
            trace_id: form.trace_id,
        })
    }
}
