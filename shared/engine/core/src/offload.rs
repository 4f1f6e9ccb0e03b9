//! Work that takes long, done on blocking threads: only so much of it at once, and none for
//! callers that are gone.
//!
//! The runtime's threads serve everybody. What unpacks, parses, writes or redacts more than a
//! few kilobytes runs beside them, so that one caller's large page delays no other's small one.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Bytes of JSON up to which a thread's hand-over costs more than the work.
pub const SMALL: usize = 32 * 1024;

/// Runs long work on blocking threads. Cheap to clone; clones share one bound.
#[derive(Clone, Debug)]
pub struct Offload(Arc<Semaphore>);

/// Whether whoever asked for the work is gone. Work looks at it between two items.
#[derive(Clone, Debug, Default)]
pub struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets the flag when the future that waits for the work is dropped.
struct SetOnDrop(Abandoned);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Default for Offload {
    /// Half of the cores: the other half is left to the runtime.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(cores.div_ceil(2))
    }
}

impl Offload {
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once.max(1))))
    }

    /// Does the work on a blocking thread, in the order of the calls. Work whose caller is gone
    /// is not begun. Without a runtime it is done right here.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Abandoned) -> T + Send + 'static,
    ) -> T {
        let permit = self.0.clone().acquire_owned().await.expect("it is never closed");
        let Ok(runtime) = Handle::try_current() else { return work(&Abandoned::default()) };
        let caller = SetOnDrop(Abandoned::default());
        let abandoned = caller.0.clone();
        let job = runtime.spawn_blocking(move || {
            let _permit = permit;
            (!abandoned.is_set()).then(|| work(&abandoned))
        });
        match job.await {
            Ok(Some(done)) => done,
            Ok(None) => unreachable!("only a caller that is gone abandons its work"),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime shuts down, and drops this future too.
            Err(_) => std::future::pending().await,
        }
    }

    /// The same where there is much to do, and right here where there is little.
    pub async fn run_if<T: Send + 'static>(
        &self,
        much: bool,
        work: impl FnOnce(&Abandoned) -> T + Send + 'static,
    ) -> T {
        if much { self.run(work).await } else { work(&Abandoned::default()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// One thread for everybody: it goes on while the work waits for what it does meanwhile.
    #[tokio::test]
    async fn the_runtime_goes_on_meanwhile() {
        let offload = Offload::new(1);
        let (say, hear) = mpsc::channel();
        let work = offload.run(move |_| hear.recv_timeout(PATIENCE).is_ok());
        let (heard, _) = tokio::join!(work, async { say.send(()) });
        assert!(heard, "the runtime's only thread was held by the work");
    }

    #[tokio::test]
    async fn only_so_much_is_done_at_once_and_none_for_who_is_gone() {
        let offload = Offload::new(1);
        let (say, hear) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(move |_| hear.recv_timeout(PATIENCE).is_ok()).await }
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
        let offload = Offload::new(1);
        let (say, hear) = mpsc::channel();
        let (began, begins) = tokio::sync::oneshot::channel();
        let (tell, told) = tokio::sync::oneshot::channel();
        let call = tokio::spawn(async move {
            offload
                .run(move |abandoned| {
                    let _ = began.send(());
                    let _ = hear.recv_timeout(PATIENCE);
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
        let call = tokio::spawn(async { Offload::new(1).run(|_| panic!("odd")).await });
        assert!(call.await.unwrap_err().is_panic());
    }
}
