//! Seeded data, and digests of it.

use std::{
    env, fmt,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};

/// The same data in every run.
pub(crate) const SEED: u64 = 0x5eed_da7a;

/// Size of a table against the `ideal` agent, bytes.
pub(crate) fn ideal_size() -> u64 {
    megabytes("SSMFWD_INTEROP_MB", 100)
}

/// Size of a table against the `realistic` agent, bytes.
pub(crate) fn realistic_size() -> u64 {
    megabytes("SSMFWD_INTEROP_REALISTIC_MB", 5)
}

fn megabytes(variable: &str, default: u64) -> u64 {
    let number = match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number of megabytes: {text}")),
        Err(_) => default,
    };
    number * 1_000_000
}

/// Random bytes.
pub(crate) fn random(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut data = vec![0; size];
    random.fill(&mut data);
    data
}

/// Writes rows of id, word and value, until the file has the size asked for; `encode` writes a value in the
/// server's form, without anything that ends a column or a row. Returns the size.
///
/// Values are of every length up to 2000 bytes, contain every byte value, and often end in a newline.
pub(crate) fn write_rows(file: &Path, size: u64, encode: impl Fn(&[u8], &mut Vec<u8>)) -> u64 {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut file = BufWriter::new(File::create(file).expect("a file of this test"));
    let (mut written, mut id) = (0, 0_u64);
    let mut row = Vec::new();
    let mut value = Vec::new();
    while written < size {
        id += 1;
        value.resize(random.usize(..=2000), 0);
        random.fill(&mut value);
        if let (Some(last), true) = (value.last_mut(), random.bool()) {
            *last = b'\n';
        }
        row.clear();
        write!(row, "{id}\t{:016x}\t", random.u64(..)).expect("a vector");
        encode(&value, &mut row);
        row.push(b'\n');
        file.write_all(&row).expect("room on the disk");
        written += row.len() as u64;
    }
    file.flush().expect("room on the disk");
    written
}

/// SHA-256 and length of something large.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) bytes: u64,
    sha256: Vec<u8>,
}

impl Digest {
    pub(crate) fn of(mut from: impl Read) -> io::Result<Self> {
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(Self { bytes, sha256: context.finish().as_ref().to_vec() });
            }
            context.update(&buffer[..read]);
            bytes += read as u64;
        }
    }

    pub(crate) fn of_file(file: &Path) -> Self {
        File::open(file).and_then(Self::of).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, SHA-256 ", self.bytes)?;
        self.sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
