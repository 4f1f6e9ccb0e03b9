mod approvals;
mod events;
mod identity;
mod lists;
mod lost_answers;
mod runs;
