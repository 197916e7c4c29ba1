//! A transport that moves a few bytes at a time and is not ready at the worst moments, as its script says; and
//! sessions over such transports, for scripts of all kinds.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{gateway::Service, setup::Setup};

/// Each call takes the next byte of the script, which repeats, for reading and writing apart: a multiple of 4 is "not
/// ready, ask again", any other the largest number of bytes that move; 255 sets no limit.
pub(crate) struct Stutter<S> {
    io: S,
    script: Vec<u8>,
    reading: Place,
    writing: Place,
}

/// Where one direction is in the script.
#[derive(Default)]
struct Place {
    at: usize,
    /// The transport itself was not ready: saying so once more of our own would keep the clock from moving.
    waiting: bool,
}

impl Place {
    /// How much may move now; `None`: nothing.
    fn limit(&mut self, script: &[u8], cx: &Context<'_>) -> Option<usize> {
        let byte = script[self.at % script.len()];
        self.at += 1;
        match byte {
            255 => Some(usize::MAX),
            _ if !byte.is_multiple_of(4) => Some(usize::from(byte)),
            _ if self.waiting => Some(1),
            _ => {
                cx.waker().wake_by_ref();
                None
            }
        }
    }
}

impl<S> Stutter<S> {
    pub(crate) fn new(io: S, script: Vec<u8>) -> Self {
        assert!(script.iter().any(|byte| byte % 4 != 0), "a script that never gets anywhere");
        Self { io, script, reading: Place::default(), writing: Place::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stutter<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(limit) = this.reading.limit(&this.script, cx) else { return Poll::Pending };
        let limit = limit.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
        let poll = Pin::new(&mut this.io).poll_read(cx, &mut part);
        let count = part.filled().len();
        buffer.advance(count);
        this.reading.waiting = poll.is_pending();
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stutter<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(limit) = this.writing.limit(&this.script, cx) else { return Poll::Pending };
        let poll = Pin::new(&mut this.io).poll_write(cx, &bytes[..limit.min(bytes.len())]);
        this.writing.waiting = poll.is_pending();
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.writing.limit(&this.script, cx).is_none() {
            return Poll::Pending;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The body: two streams echo over a transport that stutters as the input says, and the session ends well.
async fn session_over(script: Vec<u8>, pipe: usize) {
    let world = Setup { stutter: script, pipe, ..Setup::new(Service::Echo) }.connect().await;
    let echo = |salt: u8| {
        let session = world.session.clone();
        async move {
            let mut stream = session.open().await.expect("open");
            let data: Vec<u8> = (0..6000u32).map(|at| (at % 253) as u8 ^ salt).collect();
            let mut back = vec![0; data.len()];
            let (mut reading, mut writing) = tokio::io::split(&mut stream);
            let (written, read) = tokio::join!(writing.write_all(&data), reading.read_exact(&mut back));
            written.expect("written");
            read.expect("read");
            assert!(back == data, "what came back is not what was sent");
        }
    };
    tokio::join!(echo(0), echo(0xaa));
    assert_eq!(world.session.close().await.to_string(), "ended as asked");
    assert_eq!(world.control.terminated(), 0, "the agent was told");
}

#[tokio::test(start_paused = true)]
async fn any_stutter_is_borne() {
    for seed in 0..150u64 {
        let mut rng = Rng::with_seed(seed);
        let kind = rng.u8(..4);
        let script: Vec<u8> = (0..rng.usize(1..200))
            .map(|_| match kind {
                0 => rng.u8(..),
                // Mostly not ready.
                1 => *rng.choice([0, 0, 0, 0, 7, 255].as_slice()).expect("not empty"),
                // Tiny pieces.
                2 => rng.u8(1..4),
                _ => *rng.choice([1, 4, 255].as_slice()).expect("not empty"),
            })
            .chain([255])
            .collect();
        let pipe = [64, 4096, 64 << 10][rng.usize(..3)];
        let run = tokio::spawn(session_over(script, pipe));
        if let Err(error) = run.await {
            panic!("seed {seed}: {error}");
        }
    }
}
