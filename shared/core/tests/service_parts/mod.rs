mod approvals;
mod bodies;
mod events;
mod identity;
mod lists;
mod lost_answers;
mod runs;
