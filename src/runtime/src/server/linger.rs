//! A connection's last moments: what was written must reach the peer even if it is still sending.
//!
//! A socket that is closed with unread bytes in it answers with a reset, and a reset overtakes what was written before it: the
//! peer would lose its calls' last words. So the write half is closed first, and what still comes is read and thrown away
//! until the peer has closed too, for a bounded time.

use crate::net::Io;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long the peer may take to close its half.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are thrown away at most: a little more than a connection's window.
const MAX_DISCARDED: usize = 64 << 20;

/// An IO lent to a protocol that does not give it back: it comes back when the protocol drops it.
pub(super) struct Lent<T> {
    // Taken only in `drop`.
    io: Option<T>,
    back: Option<oneshot::Sender<T>>,
}

/// Lends `io`; the receiver gets it back.
pub(super) fn lend<T: Io>(io: T) -> (Lent<T>, oneshot::Receiver<T>) {
    let (back, returned) = oneshot::channel();
    (Lent { io: Some(io), back: Some(back) }, returned)
}

/// Closes the write half and waits, for a bounded time, until the peer has closed too.
pub(super) async fn close<T: Io>(mut io: T) {
    let drained = timeout(LINGER, async {
        io.shutdown().await?;
        let mut scratch = [0; 16 * 1024];
        let mut discarded = 0;
        while discarded < MAX_DISCARDED {
            match io.read(&mut scratch).await? {
                0 => break,
                read => discarded += read,
            }
        }
        io::Result::Ok(())
    });
    if let Ok(Err(error)) = drained.await {
        tracing::trace!(%error, "connection closed by its peer");
    }
}

// === impl Lent ===

impl<T: Unpin> Lent<T> {
    fn io(&mut self) -> Pin<&mut T> {
        Pin::new(self.io.as_mut().expect("the IO is taken only when this is dropped"))
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        if let (Some(io), Some(back)) = (self.io.take(), self.back.take()) {
            // Nobody waits for a connection that was cut: then it closes here.
            drop(back.send(io));
        }
    }
}

impl<T: Io> AsyncRead for Lent<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl<T: Io> AsyncWrite for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
