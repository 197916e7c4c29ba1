//! Random bytes that can be checked wherever they arrive: both ends generate them from one seed.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const BLOCK: usize = 4096;
/// Largest piece that is written or read at once.
const PIECE: usize = 64 << 10;

/// An endless stream of random bytes.
struct Pattern {
    random: fastrand::Rng,
    block: Box<[u8; BLOCK]>,
    used: usize,
}

impl Pattern {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), block: Box::new([0; BLOCK]), used: BLOCK }
    }

    /// The next bytes, at most so many and at least one.
    fn next(&mut self, most: usize) -> &[u8] {
        if self.used == BLOCK {
            self.random.fill(&mut self.block[..]);
            self.used = 0;
        }
        let start = self.used;
        self.used = BLOCK.min(start + most);
        &self.block[start..self.used]
    }

    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let next = self.next(bytes.len());
            let (now, later) = bytes.split_at_mut(next.len());
            now.copy_from_slice(next);
            bytes = later;
        }
    }

    /// Whether these are the next bytes.
    fn matches(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let next = self.next(bytes.len());
            let (now, later) = bytes.split_at(next.len());
            if now != next {
                return false;
            }
            bytes = later;
        }
        true
    }
}

/// Sends so many bytes of a pattern, in pieces of random sizes.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), seed: u64, total: usize) -> io::Result<()> {
    let (mut pattern, mut sizes) = (Pattern::new(seed), fastrand::Rng::with_seed(!seed));
    let (mut piece, mut left) = (vec![0; PIECE], total);
    while left > 0 {
        let most = 1 << sizes.u32(0..=16);
        let size = sizes.usize(1..=most).min(left);
        pattern.fill(&mut piece[..size]);
        to.write_all(&piece[..size]).await?;
        left -= size;
    }
    Ok(())
}

/// Reads so many bytes and checks them against a pattern.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin), seed: u64, total: usize) -> io::Result<()> {
    let (mut pattern, mut piece, mut left) = (Pattern::new(seed), vec![0; PIECE], total);
    while left > 0 {
        let most = left.min(PIECE);
        let count = from.read(&mut piece[..most]).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} of {total} bytes are missing")));
        }
        if !pattern.matches(&piece[..count]) {
            let at = total - left;
            return Err(io::Error::other(format!("wrong bytes in {at}..{} of {total}", at + count)));
        }
        left -= count;
    }
    Ok(())
}
