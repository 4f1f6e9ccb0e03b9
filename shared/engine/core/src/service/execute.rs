//! Commands whose commit holds further writes, such as the approval that a task then waits
//! for. Whoever has such writes implements [`CommandBuilder`]: command and writes are built
//! from the state that the command is decided on, anew for each attempt. Writes that were
//! worked out on an older state can't be handed in.

use async_trait::async_trait;

use super::core::{CommandError, Core};
use crate::decide::Command;
use crate::ports::Write;
use crate::repo::StoredTask;

/// A command, and what else belongs into its commit.
pub struct CommandWithWrites {
    pub command: Command,
    pub extra_writes: Vec<Write>,
}

impl From<Command> for CommandWithWrites {
    fn from(command: Command) -> Self {
        Self { command, extra_writes: Vec::new() }
    }
}

/// Builds a command and its extra writes from a task's state. It is called again with the
/// present state after each conflict, also one on a key of its extra writes, so whatever it
/// reads besides the state it reads in the call.
#[async_trait]
pub trait CommandBuilder: Send + Sync {
    async fn build(
        &self,
        core: &Core,
        state: &StoredTask,
    ) -> Result<CommandWithWrites, CommandError>;
}

/// Where the command of an attempt comes from.
#[derive(Clone, Copy)]
pub(super) enum CommandSource<'a> {
    /// The same for every state, without extra writes.
    Fixed(&'a Command),
    Built(&'a dyn CommandBuilder),
}
