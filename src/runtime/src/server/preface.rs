//! The first bytes of a connection. What does not begin with HTTP/2's preface is closed before it costs anything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::BoxedIo;

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes have been looked at, and will be read again.
pub(super) struct AfterPreface {
    /// Bytes of the preface not yet read again.
    left: &'static [u8],
    io: BoxedIo,
}

/// Waits for the preface. `Ok(None)` when the peer closed without a word, as port probes do; an error when it said
/// something else.
pub(super) async fn read_preface(mut io: BoxedIo) -> io::Result<Option<AfterPreface>> {
    let mut seen = [0; PREFACE.len()];
    let mut len = 0;
    while len < PREFACE.len() {
        let read = io.read(&mut seen[len..]).await?;
        if read == 0 {
            return if len == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        len += read;
        if seen[..len] != PREFACE[..len] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2"));
        }
    }
    Ok(Some(AfterPreface { left: PREFACE, io }))
}

// === impl AfterPreface ===

impl AsyncRead for AfterPreface {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let (now, later) = self.left.split_at(self.left.len().min(buf.remaining()));
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AfterPreface {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn after(bytes: &[u8]) -> io::Result<Option<AfterPreface>> {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(bytes).await.unwrap();
        drop(client);
        read_preface(Box::new(server)).await
    }

    #[tokio::test]
    async fn the_preface_is_read_again_with_what_follows() {
        let bytes = [PREFACE.as_slice(), b"rest"].concat();
        let mut io = after(&bytes).await.unwrap().unwrap();
        let mut read = Vec::new();
        // Small reads, so that the preface comes in pieces.
        let mut small = [0; 5];
        loop {
            let len = io.read(&mut small).await.unwrap();
            if len == 0 {
                break;
            }
            read.extend_from_slice(&small[..len]);
        }
        assert_eq!(read, bytes);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        assert!(after(b"").await.unwrap().is_none());
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0", b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!"]
        {
            assert!(after(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
