//! A sandbox's connection whose first bytes were already looked at, and what they say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

/// Where other bytes than HTTP and TLS are allowed, a connection that says nothing for so long waits for the server to speak.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);
/// Anywhere else a client may take its time: programs open connections ahead of need.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Longest method the vault takes for one.
const LONGEST_METHOD: usize = 20;
/// A TLS hello has to be over after so many bytes.
const LONGEST_HELLO: usize = 64 << 10;
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection and the bytes that were read ahead.
pub(crate) struct Wire {
    ahead: BytesMut,
    stream: TcpStream,
    /// Its place among the sandbox's connections, whatever becomes of it: a tunnel, a WebSocket.
    _place: OwnedSemaphorePermit,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Tls,
    Http1,
    /// HTTP/2 without TLS, known in advance.
    Http2,
    /// Something else.
    Other,
    /// Nothing: it waits.
    Silent,
    /// It is over.
    Closed,
}

impl Wire {
    pub fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self { ahead: BytesMut::new(), stream, _place: place }
    }

    /// Gives bytes back that were read from this wire.
    pub fn push_back(&mut self, bytes: &[u8]) {
        self.ahead = [bytes, &self.ahead].concat().as_slice().into();
    }

    /// The server's name in a TLS hello, which can be read again afterwards. None: it names no server.
    pub async fn server_name(&mut self) -> io::Result<Option<String>> {
        let (mut acceptor, mut fed) = (rustls::server::Acceptor::default(), 0);
        while fed < LONGEST_HELLO {
            let mut rest = &self.ahead[fed..];
            while !rest.is_empty() {
                acceptor.read_tls(&mut rest)?;
                if let Some(hello) = acceptor.accept().map_err(|(error, _)| io::Error::other(error))? {
                    return Ok(hello.client_hello().server_name().map(str::to_owned));
                }
            }
            fed = self.ahead.len();
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Waits for the first bytes, each time so long, and judges them; they can be read again afterwards. May be dropped and
    /// called again.
    pub async fn sniff(&mut self, wait: Duration) -> io::Result<Speaks> {
        loop {
            if let Some(speaks) = judge(&self.ahead) {
                return Ok(speaks);
            }
            match tokio::time::timeout(wait, self.stream.read_buf(&mut self.ahead)).await {
                Ok(Ok(0)) => return Ok(if self.ahead.is_empty() { Speaks::Closed } else { Speaks::Other }),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) if self.ahead.is_empty() => return Ok(Speaks::Silent),
                // An unfinished beginning: whatever it is to become, it is not a request.
                Err(_) => return Ok(Speaks::Other),
            }
        }
    }
}

/// None: more bytes are needed.
pub(crate) fn judge(seen: &[u8]) -> Option<Speaks> {
    match seen {
        [] => None,
        [0x16] => None,
        [0x16, 3, ..] => Some(Speaks::Tls),
        [0x16, ..] => Some(Speaks::Other),
        _ if seen.starts_with(H2_PREFACE) => Some(Speaks::Http2),
        _ if H2_PREFACE.starts_with(seen) && seen.len() >= 4 => None,
        _ => {
            let method = seen.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-' || **b == b'_').count();
            match seen.get(method) {
                Some(b' ') if (1..=LONGEST_METHOD).contains(&method) => Some(Speaks::Http1),
                None if method <= LONGEST_METHOD => None,
                _ => Some(Speaks::Other),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..n]);
            self.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Speaks>) {
        assert_eq!(judge(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn tells_what_is_spoken_by_the_first_bytes() {
        check(&[0x16, 3, 1, 2, 0], Some(Speaks::Tls));
        check(&[0x16], None);
        check(&[0x16, 9], Some(Speaks::Other));
        check(b"GE", None);
        check(b"GET / HTTP/1.1\r\n", Some(Speaks::Http1));
        check(b"M-SEARCH * HTTP/1.1\r\n", Some(Speaks::Http1));
        check(H2_PREFACE, Some(Speaks::Http2));
        check(&H2_PREFACE[..9], None);
        check(b"PRI * HTTP/3", Some(Speaks::Http1));
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Some(Speaks::Other));
        check(b" GET / HTTP/1.1", Some(Speaks::Other));
        check(b"\r\nGET / HTTP/1.1", Some(Speaks::Other));
        check(&[b'A'; 30], Some(Speaks::Other));
        // However many bytes come at once: a method that is too long is none.
        check(&[b'A'; 21], Some(Speaks::Other));
        check(b"AAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n", Some(Speaks::Other));
        check(b"AAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n", Some(Speaks::Http1));
        check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], Some(Speaks::Other));
    }
}
