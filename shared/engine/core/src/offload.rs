//! Runs long work on blocking threads with bounded concurrency, and skips work whose caller is
//! gone.
//!
//! The runtime's threads serve all callers. Unpacking, parsing, serializing or redacting more
//! than a few kilobytes runs elsewhere, so that one caller's large page does not delay
//! another's small one.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Bytes of JSON up to which a thread switch costs more than the work.
pub const SMALL: usize = 32 * 1024;

/// Runs long work on blocking threads. Cheap to clone; clones share one concurrency limit.
#[derive(Clone, Debug)]
pub struct BlockingPool(Arc<Semaphore>);

/// Whether the caller is gone. Work checks it between two items.
#[derive(Clone, Debug, Default)]
pub struct IsAbandoned(Arc<AtomicBool>);

impl IsAbandoned {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets the flag when the waiting future is dropped.
struct SetOnDrop(IsAbandoned);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Default for BlockingPool {
    /// Uses half of the cores and leaves the other half to the runtime.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(cores.div_ceil(2))
    }
}

impl BlockingPool {
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once.max(1))))
    }

    /// Runs the work on a blocking thread, in call order. Work whose caller is gone is not
    /// started. Without a runtime it runs on the current thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&IsAbandoned) -> T + Send + 'static,
    ) -> T {
        let permit = self.0.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok(runtime) = Handle::try_current() else { return work(&IsAbandoned::default()) };
        let caller = SetOnDrop(IsAbandoned::default());
        let abandoned = caller.0.clone();
        let job = runtime.spawn_blocking(move || {
            let _permit = permit;
            (!abandoned.is_set()).then(|| work(&abandoned))
        });
        match job.await {
            Ok(Some(done)) => done,
            Ok(None) => unreachable!("work is abandoned only when its caller is gone"),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is shutting down and drops this future too.
            Err(_) => std::future::pending().await,
        }
    }

    /// Runs `work` on a blocking thread if `much` is set, otherwise on the current thread.
    pub async fn run_if<T: Send + 'static>(
        &self,
        much: bool,
        work: impl FnOnce(&IsAbandoned) -> T + Send + 'static,
    ) -> T {
        if much { self.run(work).await } else { work(&IsAbandoned::default()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// The only runtime thread must keep running while the work waits for its message.
    #[tokio::test]
    async fn the_runtime_goes_on_meanwhile() {
        let offload = BlockingPool::new(1);
        let (say, hear) = mpsc::channel();
        let work = offload.run(move |_| hear.recv_timeout(TIMEOUT).is_ok());
        let (heard, _) = tokio::join!(work, async { say.send(()) });
        assert!(heard, "the work blocked the runtime's only thread");
    }

    #[tokio::test]
    async fn concurrency_is_bounded_and_abandoned_work_is_not_started() {
        let offload = BlockingPool::new(1);
        let (say, hear) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(move |_| hear.recv_timeout(TIMEOUT).is_ok()).await }
        });
        while offload.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = Arc::new(AtomicBool::new(false));
        let second = tokio::spawn({
            let (offload, begun) = (offload.clone(), begun.clone());
            async move { offload.run(move |_| begun.store(true, Ordering::SeqCst)).await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.is_err());
        say.send(()).unwrap();
        assert!(first.await.unwrap());
        offload.run(|_| ()).await;
        assert!(!begun.load(Ordering::SeqCst), "its caller was gone before it began");
    }

    #[tokio::test]
    async fn work_learns_that_its_caller_is_gone() {
        let offload = BlockingPool::new(1);
        let (say, hear) = mpsc::channel();
        let (began, begins) = tokio::sync::oneshot::channel();
        let (tell, told) = tokio::sync::oneshot::channel();
        let call = tokio::spawn(async move {
            offload
                .run(move |abandoned| {
                    let _ = began.send(());
                    let _ = hear.recv_timeout(TIMEOUT);
                    let _ = tell.send(abandoned.is_set());
                })
                .await;
        });
        begins.await.unwrap();
        call.abort();
        assert!(call.await.is_err());
        say.send(()).unwrap();
        assert!(told.await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_is_the_callers() {
        let call = tokio::spawn(async { BlockingPool::new(1).run(|_| panic!("odd")).await });
        assert!(call.await.unwrap_err().is_panic());
    }
}
