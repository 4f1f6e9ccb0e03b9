//! A stream whose writes fail when the other side stops reading, or reads almost nothing.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The bytes that must be written in each time span. The system asks for more only when much of
/// its buffer is free, so slow but honest readers take many times this at once.
const MIN_PROGRESS: usize = 16 * 1024;

/// A write through this stream is blocked for `patience` at most.
pub struct StallGuard<S> {
    stream: S,
    patience: Duration,
    /// Runs from when the stream accepts no more bytes until everything is written.
    blocked: Option<Pin<Box<Sleep>>>,
    /// Bytes written since then.
    progress: usize,
}

impl<S> StallGuard<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, blocked: None, progress: 0 }
    }

    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        bytes: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match bytes {
            Poll::Ready(Ok(bytes)) => {
                self.progress += bytes;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(cx),
        }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let blocked = self.blocked.get_or_insert_with(|| {
                self.progress = 0;
                Box::pin(sleep(self.patience))
            });
            ready!(blocked.as_mut().poll(cx));
            if self.progress < MIN_PROGRESS {
                let text = "the client does not read the response";
                return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, text)));
            }
            self.blocked = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(cx, written)
    }

    // Without this, responses would be copied, and the copies would not be counted.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.blocked = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Writes more than the reader takes, until it fails. Returns the error and the time until
    /// then.
    async fn write_on(stream: DuplexStream) -> (ErrorKind, Duration) {
        let mut guarded = StallGuard::new(stream, TIMEOUT);
        #[expect(clippy::disallowed_methods, reason = "the paused clock of the test runtime")]
        let begun = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = guarded.write_all(&[0; 4096]).await {
                break error.kind();
            }
        };
        (error, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_reads_nothing_is_given_up_on() {
        let (ours, _theirs) = duplex(1024);
        assert_eq!(write_on(ours).await, (ErrorKind::TimedOut, TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_reads_a_byte_now_and_then_is_given_up_on_too() {
        let (ours, mut theirs) = duplex(1024);
        let reader = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(write_on(ours).await, (ErrorKind::TimedOut, TIMEOUT));
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_side_is_not() {
        let (ours, mut theirs) = duplex(1024);
        let mut guarded = StallGuard::new(ours, TIMEOUT);
        let writer = tokio::spawn(async move { guarded.write_all(&[7; 256 * 1024]).await });
        let mut read = 0;
        while read < 256 * 1024 {
            // 4 KB each 5 s: 24 KB in the time in which 16 KB must be written.
            sleep(Duration::from_secs(5)).await;
            let mut piece = [0; 4096];
            let wanted = piece.len().min(256 * 1024 - read);
            theirs.read_exact(&mut piece[..wanted]).await.unwrap();
            read += wanted;
        }
        writer.await.unwrap().unwrap();
    }
}
