//! Finding the peer's tasks here, under whichever id they are kept.

use watchbill_wire::TaskView;
use watchbill_wire::peer::ids_of_peer;

use crate::home::{Home, HomeError};

/// The peer's tasks as they stand here, in the order of the peer's ids.
pub(crate) async fn tasks_of_peer(
    home: &dyn Home,
    ids: &[String],
) -> Result<Vec<Option<TaskView>>, HomeError> {
    let kept: Vec<Vec<_>> = ids.iter().map(|id| ids_of_peer(id)).collect();
    let mut found = home.tasks(&kept.concat()).await?.into_iter();
    let of_one = |(id, kept): (&String, &Vec<_>)| {
        let all: Vec<TaskView> = found.by_ref().take(kept.len()).flatten().collect();
        // Another task may bear one of these ids.
        all.into_iter().find(|task| task.peer_id() == id)
    };
    Ok(ids.iter().zip(&kept).map(of_one).collect())
}

/// Whether an id is kept otherwise here than it is with the peer.
pub(crate) fn is_ambiguous(id: &str) -> bool {
    ids_of_peer(id).len() > 1
}
