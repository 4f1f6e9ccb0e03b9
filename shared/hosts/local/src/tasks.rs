//! Tasks that run as long as the process. A panic in one can't be fixed here: it is logged, and
//! the watcher ends the process.
//!
//! Faults over one record, item or message are caught where it is handled. A panic that arrives
//! here has stopped a loop that others rely on.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use watchbill_core::handler::panic_text;

#[derive(Default)]
pub struct Tasks {
    handles: Vec<JoinHandle<()>>,
    broken: PanickedTask,
}

/// Which task has panicked, if one has. Cheap to clone; sets may share it.
#[derive(Clone)]
pub struct PanickedTask(Arc<watch::Sender<Option<String>>>);

impl Default for PanickedTask {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl PanickedTask {
    /// Waits until a task panics, and returns which one and why. Waits forever if none does.
    pub async fn wait(&self) -> String {
        let mut reported = self.0.subscribe();
        // The sender is in `self`, so it is not dropped.
        match reported.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }

    fn report(&self, name: &str, panic: &(dyn Any + Send)) {
        let why = format!("{name} panicked: {}", panic_text(panic));
        tracing::error!("{why}; the process exits");
        self.0.send_if_modified(|reported| {
            let first = reported.is_none();
            reported.get_or_insert(why);
            first
        });
    }
}

impl Tasks {
    /// A set that reports its panics through the given handle.
    pub fn sharing(broken: PanickedTask) -> Self {
        Self { handles: Vec::new(), broken }
    }

    pub fn broken(&self) -> PanickedTask {
        self.broken.clone()
    }

    pub fn spawn(
        &mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let task = tokio::spawn(watched(self.broken.clone(), name, work));
        self.keep(task)
    }

    /// The same on its own thread, for work in long pieces: a task behind it in a worker's queue
    /// would wait for all of it.
    pub fn spawn_on_thread(
        &mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let (runtime, broken) = (Handle::current(), self.broken.clone());
        let work = move || runtime.block_on(watched(broken, name, work));
        let task = tokio::task::spawn_blocking(work);
        self.keep(task)
    }

    fn keep(&mut self, task: JoinHandle<()>) -> AbortHandle {
        let abort = task.abort_handle();
        self.handles.push(task);
        abort
    }

    /// Waits until all have ended or been aborted.
    pub async fn join(&mut self) {
        let _ = futures_util::future::join_all(self.handles.drain(..)).await;
    }
}

async fn watched(broken: PanickedTask, name: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        broken.report(name, &*panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_and_the_others_continue() {
        let mut tasks = Tasks::default();
        let mut other = Tasks::sharing(tasks.broken());
        let (go, going) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("one", async {});
        tasks.spawn("two", async move {
            let _ = going.await;
        });
        other.spawn_on_thread("three", async { panic!("on purpose") });
        let why = tasks.broken().wait().await;
        assert_eq!(why, "three panicked: on purpose");
        go.send(()).expect("the second still runs");
        tasks.join().await;
        other.join().await;
    }

    #[tokio::test]
    async fn an_end_and_an_abort_are_no_panic() {
        let mut tasks = Tasks::default();
        tasks.spawn("ends", async {});
        tasks.spawn("is aborted", std::future::pending()).abort();
        tasks.join().await;
        assert!(tasks.broken().wait().now_or_never().is_none());
    }
}
