//! Tasks that work for as long as the process does. A panic in one of them is a fault that
//! nothing in the process mends: it is logged, and whoever watches is told and ends the process.
//!
//! What can go wrong over one record, item or message is caught where it is handled; what
//! reaches this place has broken a loop that others rely on.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use watchbill_core::handler::panic_text;

/// A set of such tasks.
#[derive(Default)]
pub struct Tasks {
    handles: Vec<JoinHandle<()>>,
    broken: Broken,
}

/// Which task has broken off, if one has. Cheap to clone; sets may share it.
#[derive(Clone)]
pub struct Broken(Arc<watch::Sender<Option<String>>>);

impl Default for Broken {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Broken {
    /// Waits until a task breaks off, and says which and why. For ever, if none does.
    pub async fn wait(&self) -> String {
        let mut seen = self.0.subscribe();
        // The sender lives in ourselves.
        match seen.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }

    fn tell(&self, name: &str, panic: &(dyn Any + Send)) {
        let why = format!("{name} broke off: {}", panic_text(panic));
        tracing::error!("{why}; the process ends");
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(why);
            first
        });
    }
}

impl Tasks {
    /// A set that tells of its panics where others do.
    pub fn sharing(broken: Broken) -> Self {
        Self { handles: Vec::new(), broken }
    }

    pub fn broken(&self) -> Broken {
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

    /// The same on a thread of its own, for work in long pieces: a task that happens to stand
    /// behind one in a worker's queue would wait for all of it.
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

    /// Waits until all have ended. An aborted one has.
    pub async fn join(&mut self) {
        let _ = futures_util::future::join_all(self.handles.drain(..)).await;
    }
}

async fn watched(broken: Broken, name: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        broken.tell(name, &*panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_the_others_go_on() {
        let mut tasks = Tasks::default();
        let mut other = Tasks::sharing(tasks.broken());
        let (go, going) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("one", async {});
        tasks.spawn("two", async move {
            let _ = going.await;
        });
        other.spawn_on_thread("three", async { panic!("no ground under it") });
        let why = tasks.broken().wait().await;
        assert_eq!(why, "three broke off: no ground under it");
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
