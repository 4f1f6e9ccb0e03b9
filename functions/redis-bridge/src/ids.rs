//! Finds legacy tasks on our side, where they may be stored under another id.

use watchbill_wire::TaskView;
use watchbill_wire::legacy::legacy_ids;

use crate::backend::{Backend, BackendError};

/// Our tasks for the given legacy ids, in their order.
pub(crate) async fn tasks_of_peer(
    backend: &dyn Backend,
    ids: &[String],
) -> Result<Vec<Option<TaskView>>, BackendError> {
    let kept: Vec<Vec<_>> = ids.iter().map(|id| legacy_ids(id)).collect();
    let mut found = backend.tasks(&kept.concat()).await?.into_iter();
    let of_one = |(id, kept): (&String, &Vec<_>)| {
        let all: Vec<TaskView> = found.by_ref().take(kept.len()).flatten().collect();
        // A different task may have one of these ids.
        all.into_iter().find(|task| task.peer_id() == id)
    };
    Ok(ids.iter().zip(&kept).map(of_one).collect())
}

/// Whether a legacy id may differ from the id under which the task is stored here.
pub(crate) fn is_ambiguous(id: &str) -> bool {
    legacy_ids(id).len() > 1
}
