//! Accepting connections: the bounds that every TCP surface needs and no server library sets by itself.

use crate::metrics::{Metrics, Surface};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections that one surface holds open at once; the next one is closed at the door.
pub const CONNECTIONS_MAX: usize = 4_096;

/// How long open connections may take to finish when the node stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Pause after the operating system refused to accept, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says when the node stops. Clones see the same moment.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// The sender says `true` when the node stops.
    #[must_use]
    pub const fn new(receiver: watch::Receiver<bool>) -> Self {
        Self(receiver)
    }

    /// Returns when the node stops, at once if it stops already.
    pub async fn wait(mut self) {
        // An error means that whoever would have said so is gone: that is stopping, too.
        drop(self.0.wait_for(|stopping| *stopping).await);
    }
}

/// Accepts connections until `stopping`, runs `serve` for each, and waits a bounded time for the last ones.
///
/// Every accepted socket has `TCP_NODELAY`: a small answer that waits for the acknowledgement of the one before costs
/// 44 ms, and no server library sets the option on a listener that it is given.
pub async fn accept<F, Fut>(
    listener: TcpListener,
    surface: Surface,
    metrics: Arc<Metrics>,
    stopping: Stopping,
    serve: F,
) where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let stop = stopping.wait();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(surface = surface.word(), %error, "can't accept a connection; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.len() >= CONNECTIONS_MAX {
            metrics.connection_refused(surface);
            continue;
        }
        // It fails only where the connection is gone already.
        if stream.set_nodelay(true).is_ok() {
            let (open, connection) = (metrics.connection(surface), serve(stream));
            connections.spawn(async move {
                let _open = open;
                connection.await;
            });
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_GRACE, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        let open = connections.len();
        tracing::info!(
            surface = surface.word(),
            open,
            "connections are still open after the grace period; cutting them"
        );
    }
}

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub(crate) struct Rewound<const N: usize> {
    head: [u8; N],
    given: usize,
    stream: TcpStream,
}

impl<const N: usize> Rewound<N> {
    /// The stream as it was before `head` was read from it.
    pub(crate) const fn new(head: [u8; N], stream: TcpStream) -> Self {
        Self { head, given: 0, stream }
    }
}

impl<const N: usize> AsyncRead for Rewound<N> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { head, given, stream } = &mut *self;
        if *given == N {
            return Pin::new(stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(N - *given);
        buf.put_slice(&head[*given..*given + count]);
        *given += count;
        Poll::Ready(Ok(()))
    }
}

impl<const N: usize> AsyncWrite for Rewound<N> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn accepted_sockets_do_not_wait_to_send() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let (seen, mut nodelay) = mpsc::unbounded_channel();
        let server =
            tokio::spawn(accept(listener, Surface::Grpc, Metrics::new(), Stopping::new(stopping), move |stream| {
                seen.send(stream.nodelay().unwrap()).unwrap();
                async {}
            }));
        let _client = TcpStream::connect(address).await.unwrap();
        assert_eq!(nodelay.recv().await, Some(true));
        stop.send(true).unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_rewound_stream_gives_its_head_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(b"headtail").await.unwrap();
        client.shutdown().await.unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        let mut all = Vec::new();
        Rewound::new(head, stream).read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"headtail");
    }
}
