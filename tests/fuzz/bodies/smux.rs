//! A smux byte stream, whole and in pieces.

use ssmfwd::wire::DecodeError;
use ssmfwd::wire::smux::{Command, FrameHeader, HEADER_LEN};

/// The first byte is the size of the pieces less one, the rest the stream: how it is cut must not matter.
pub(crate) fn smux(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else { return };
    let mut whole = Reader::default();
    whole.feed(stream);
    let mut pieces = Reader::default();
    for piece in stream.chunks(usize::from(*size) + 1) {
        pieces.feed(piece);
    }
    assert_eq!(whole, pieces, "frames depend on how the stream was cut");
    let written = whole.frames.iter().flat_map(|(header, data)| header.encode().into_iter().chain(data.clone()));
    assert!(stream.starts_with(&written.collect::<Vec<_>>()), "frames are not what the stream says");
}

/// Collects frames until the first error.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reader {
    pending: Vec<u8>,
    frames: Vec<(FrameHeader, Vec<u8>)>,
    failed: Option<DecodeError>,
}

impl Reader {
    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while self.failed.is_none() {
            let Some((header, rest)) = self.pending.split_first_chunk::<HEADER_LEN>() else { return };
            let header = match FrameHeader::decode(*header) {
                Ok(header) => header,
                Err(error) => {
                    check_error(header, &error);
                    self.failed = Some(error);
                    return;
                }
            };
            assert!(header.command == Command::Psh || header.data_len() == 0, "only PSH carries data");
            let Some(data) = rest.get(..header.data_len()) else { return };
            self.frames.push((header, data.to_vec()));
            let rest = self.pending.split_off(HEADER_LEN + header.data_len());
            self.pending = rest;
        }
    }
}

fn check_error(header: &[u8; HEADER_LEN], error: &DecodeError) {
    match *error {
        DecodeError::SmuxVersion(version) => assert!(version == header[0] && version != 1),
        DecodeError::SmuxCommand(command) => assert!(header[0] == 1 && command == header[1] && command > 3),
        ref other => panic!("a frame header cannot be wrong in this way: {other}"),
    }
}
