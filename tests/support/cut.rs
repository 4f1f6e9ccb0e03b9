//! A TCP connection between two programs that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Forwards connections to another port, until it is cut.
pub struct Cable {
    pub port: u16,
    cut: Arc<Cut>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Cut {
    now: Notify,
    stays: AtomicBool,
}

impl Cable {
    /// Forwards to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let own = listener.local_addr().expect("it is bound").port();
        let cut = Arc::new(Cut::default());
        let serving = tokio::spawn(serve(listener, port, cut.clone()));
        Self { port: own, cut, serving }
    }

    /// Breaks every connection; new ones succeed.
    pub fn cut(&self) {
        self.cut.now.notify_waiters();
    }

    /// Breaks every connection, and new ones too until `mend` is called.
    pub fn pull(&self) {
        self.cut.stays.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn mend(&self) {
        self.cut.stays.store(false, Ordering::SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, port: u16, cut: Arc<Cut>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let cut = cut.clone();
        tokio::spawn(async move {
            let broken = cut.now.notified();
            if cut.stays.load(Ordering::SeqCst) {
                return;
            }
            let far = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let Ok(mut far) = TcpStream::connect(far).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                () = broken => {}
            }
        });
    }
}
