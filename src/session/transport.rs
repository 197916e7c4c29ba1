//! What a websocket runs over.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::socket::Socket;

/// TCP, with TLS everywhere but on loopback; or a tunnel through a proxy, which looks the same from here.
#[derive(Debug)]
pub struct Transport {
    kind: Kind,
    head: Head,
}

/// How far the answer to the upgrade has been read. What comes behind its head is given out apart from it: so the
/// connection can be taken from who has read the head, and nothing is lost. (A websocket that begins with what was read
/// together with a head reads every message with a call of its own for ever: its buffer has that small size.)
#[derive(Debug)]
enum Head {
    /// So many bytes of the empty line at its end have come.
    Reading(usize),
    /// What came with it, and is to be given out next.
    Over(Bytes),
}

/// The end of a head.
const EMPTY_LINE: &[u8; 4] = b"\r\n\r\n";

impl Head {
    /// Takes what was just read, and leaves of it what belongs to the head.
    fn split(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Self::Reading(matched) = self else { return };
        let read = &buffer.filled()[before..];
        let end = read.iter().position(|byte| {
            *matched = match *byte {
                byte if byte == EMPTY_LINE[*matched] => *matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            *matched == EMPTY_LINE.len()
        });
        if let Some(end) = end {
            let rest = Bytes::copy_from_slice(&read[end + 1..]);
            buffer.set_filled(before + end + 1);
            *self = Self::Over(rest);
        }
    }
}

#[derive(Debug)]
enum Kind {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// Through a proxy that is itself spoken to with TLS.
    TlsInTls(Box<TlsStream<TlsStream<Socket>>>),
}

impl Transport {
    pub(super) fn plain(socket: Socket) -> Self {
        Self { kind: Kind::Plain(socket), head: Head::Reading(0) }
    }

    pub(super) fn tls(tls: TlsStream<Socket>) -> Self {
        Self { kind: Kind::Tls(Box::new(tls)), head: Head::Reading(0) }
    }

    pub(super) fn tls_in_tls(tls: TlsStream<TlsStream<Socket>>) -> Self {
        Self { kind: Kind::TlsInTls(Box::new(tls)), head: Head::Reading(0) }
    }

    /// The connection below.
    pub(super) fn socket(&mut self) -> &mut Socket {
        match &mut self.kind {
            Kind::Plain(socket) => socket,
            Kind::Tls(tls) => tls.get_mut().0,
            Kind::TlsInTls(tls) => tls.get_mut().0.get_mut().0,
        }
    }
}

macro_rules! forward {
    ($self:expr, $io:ident => $call:expr) => {
        match &mut $self.get_mut().kind {
            Kind::Plain(io) => {
                let $io = Pin::new(io);
                $call
            }
            Kind::Tls(io) => {
                let $io = Pin::new(io);
                $call
            }
            Kind::TlsInTls(io) => {
                let $io = Pin::new(io);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Head::Over(rest) = &mut self.head
            && !rest.is_empty()
        {
            buffer.put_slice(&rest.split_to(rest.len().min(buffer.remaining())));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(forward!(self.as_mut(), io => io.poll_read(cx, buffer)))?;
        self.head.split(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of the reads gives that get these chunks from the connection.
    fn reads(chunks: &[&str]) -> Vec<String> {
        let mut head = Head::Reading(0);
        let mut given = Vec::new();
        for chunk in chunks {
            let mut space = [0; 100];
            let mut buffer = ReadBuf::new(&mut space);
            buffer.put_slice(b"..");
            buffer.put_slice(chunk.as_bytes());
            head.split(&mut buffer, 2);
            given.push(String::from_utf8_lossy(&buffer.filled()[2..]).into_owned());
            if let Head::Over(rest) = &mut head
                && !rest.is_empty()
            {
                given.push(String::from_utf8_lossy(&std::mem::take(rest)).into_owned());
            }
        }
        given
    }

    #[test]
    fn what_comes_behind_a_head_is_given_out_apart_from_it() {
        assert_eq!(reads(&["HTTP\r\na: b\r\n\r\nrest\r\n\r\nx"]), ["HTTP\r\na: b\r\n\r\n", "rest\r\n\r\nx"]);
        assert_eq!(reads(&["HTTP\r\n\r", "\nrest", "more"]), ["HTTP\r\n\r", "\n", "rest", "more"]);
        assert_eq!(reads(&["HTTP\r\r\n", "\r", "\n"]), ["HTTP\r\r\n", "\r", "\n"]);
        assert_eq!(reads(&["\r\na\r\n\r\n", "\r\n\r\n"]), ["\r\na\r\n\r\n", "\r\n\r\n"]);
        assert_eq!(reads(&["no end"]), ["no end"]);
    }
}
