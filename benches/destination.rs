//! What the benches connect to, behind the agent: a thread per connection that does what the client asks for.
//!
//! A request is a command and a number of bytes, big-endian: see [`Command`].

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use socket2::{Domain, Socket, Type};

/// What a connection is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    /// Take so many bytes, then answer with one.
    Take = b'T',
    /// Send so many bytes.
    Send = b'S',
    /// Return so many bytes, each as soon as it comes.
    Echo = b'E',
}

impl Command {
    /// The request.
    pub(crate) fn of(self, bytes: u64) -> [u8; 9] {
        let mut request = [self as u8; 9];
        request[1..].copy_from_slice(&bytes.to_be_bytes());
        request
    }
}

const BUFFER: usize = 64 << 10;
/// Connections that may wait to be accepted. The library's 128 is not enough for hundreds that are opened at once: those
/// beyond it wait a second for the kernel's next attempt.
const BACKLOG: i32 = 4096;

/// Starts a destination on loopback that lives as long as the process, and returns its port.
pub(crate) fn start() -> io::Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // A bench that is done hangs up in the middle of things.
            thread::spawn(|| serve(socket).ok());
        }
    });
    Ok(port)
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0x5a; BUFFER];
    loop {
        let mut request = [0; 9];
        socket.read_exact(&mut request)?;
        let [command, bytes @ ..] = request;
        let mut left = u64::from_be_bytes(bytes);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let count = if command == Command::Send as u8 { most } else { socket.read(&mut buffer[..most])? };
            if count == 0 {
                return Ok(());
            }
            if command != Command::Take as u8 {
                socket.write_all(&buffer[..count])?;
            }
            left -= count as u64;
        }
        if command == Command::Take as u8 {
            socket.write_all(b".")?;
        }
    }
}
