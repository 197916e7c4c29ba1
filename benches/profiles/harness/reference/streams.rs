//! Local sockets as smux streams.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ssmfwd::wire::smux::{Command, FrameHeader, HEADER_LEN, StreamId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::pump::Pipe;
use crate::harness::Outcome;

/// Bytes of one read, and of one frame: what Go's copy loop takes at once.
const READ: usize = 32 << 10;
/// Pieces that a slow reader may be behind; then the whole session waits, as the genuine plugin does.
const BEHIND: usize = 64;

#[derive(Default)]
pub(super) struct Streams {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u32,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Received, and not a whole frame yet.
    partial: BytesMut,
}

impl Streams {
    fn add(&self) -> (u32, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(BEHIND);
        let mut open = self.lock();
        open.last = if open.last == 0 { StreamId::FIRST.0 } else { open.last + 2 };
        let id = open.last;
        open.streams.insert(id, sender);
        (id, receiver)
    }

    /// Cuts a payload into frames and hands over their data.
    pub(super) async fn deliver(&self, payload: Bytes) -> Outcome<()> {
        for (to, data) in self.frames(&payload)? {
            // A reader that has gone wants nothing.
            drop(to.send(data).await);
        }
        Ok(())
    }

    fn frames(&self, payload: &[u8]) -> Outcome<Vec<(mpsc::Sender<Bytes>, Bytes)>> {
        let mut open = self.lock();
        open.partial.extend_from_slice(payload);
        let mut deliveries = Vec::new();
        while let Some(header) = open.partial.first_chunk::<HEADER_LEN>() {
            let header = FrameHeader::decode(*header)?;
            if open.partial.len() < HEADER_LEN + header.data_len() {
                break;
            }
            open.partial.advance(HEADER_LEN);
            let data = open.partial.split_to(header.data_len()).freeze();
            match header.command {
                Command::Psh => {
                    if let Some(to) = open.streams.get(&header.stream.0) {
                        deliveries.push((to.clone(), data));
                    }
                }
                Command::Fin => drop(open.streams.remove(&header.stream.0)),
                Command::Syn | Command::Nop => {}
            }
        }
        Ok(deliveries)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one local connection. It ends with whichever side ends first.
pub(super) fn serve(streams: Arc<Streams>, mut socket: TcpStream, pipe: Pipe) {
    tokio::spawn(async move {
        let (id, mut incoming) = streams.add();
        let stream = StreamId(id);
        let syn = Bytes::copy_from_slice(&FrameHeader::syn(stream).encode());
        let (mut reader, mut writer) = socket.split();
        let up = async {
            let mut buffer = BytesMut::new();
            if pipe.send(syn).await.is_err() {
                return;
            }
            loop {
                buffer.reserve(HEADER_LEN + READ);
                buffer.extend_from_slice(&[0; HEADER_LEN]);
                let count = reader.read_buf(&mut (&mut buffer).limit(READ)).await.unwrap_or(0);
                let length = u16::try_from(count).unwrap_or(u16::MAX);
                let header = if count == 0 { FrameHeader::fin(stream) } else { FrameHeader::psh(stream, length) };
                buffer[..HEADER_LEN].copy_from_slice(&header.encode());
                if pipe.send(buffer.split().freeze()).await.is_err() || count == 0 {
                    return;
                }
            }
        };
        let down = async {
            while let Some(data) = incoming.recv().await {
                if writer.write_all(&data).await.is_err() {
                    return;
                }
            }
            drop(writer.shutdown().await);
        };
        tokio::join!(up, down);
    });
}
