//! The built stack on loopback, against the `ideal` emulator in this process: sockets, the websocket, locks and tasks
//! are all there. `library` is a stream of a session in this process; `program` is a socket of the built program.
//!
//! Emulator and destination share the machine with what is measured.

use std::{io, sync::Arc};

use divan::{Bencher, counter::BytesCount};
use ssmfwd::{
    aws::{Aws, AwsOptions},
    emulator::{AgentKind, Emulator, EmulatorConfig},
    session::{Dialer, Session, SessionOptions, StartRequest, Stream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

use super::{
    destination::{self, Command},
    program::Program,
};

const BYTES: usize = 8 << 20;
/// What an application reads and writes at once, bytes.
const PIECE: usize = 64 << 10;

/// An emulated AWS and a destination behind it.
struct World {
    runtime: Runtime,
    emulator: Emulator,
    port: u16,
}

impl World {
    fn start() -> Self {
        let emulator = Emulator::start(EmulatorConfig { agent: AgentKind::Ideal, ..EmulatorConfig::default() });
        Self {
            runtime: Runtime::new().expect("a runtime"),
            emulator: emulator.expect("an emulator"),
            port: destination::start().expect("a destination"),
        }
    }

    /// A session of this process, with one stream. Ends with the stream.
    fn stream(&self) -> Stream {
        let request = StartRequest {
            target: self.emulator.target(),
            document: Some("AWS-StartPortForwardingSession".to_owned()),
            parameters: [("portNumber".to_owned(), vec![self.port.to_string()])].into(),
            reason: None,
        };
        let config = self.emulator.sdk_config();
        self.runtime.block_on(async {
            let control = Arc::new(Aws::from_sdk_config(&config, AwsOptions::default()).expect("a control plane"));
            let dialer = Arc::new(Dialer::new().expect("a dialer"));
            let cancel = CancellationToken::new();
            let session = Session::connect(control, dialer, request, SessionOptions::default(), cancel).await;
            session.expect("a session").open().await.expect("a stream")
        })
    }

    fn program(&self) -> Program {
        Program::start(&self.emulator, self.port).expect("a program that is ready")
    }

    /// A socket of the program.
    fn socket(&self, program: &Program) -> TcpStream {
        let socket = self.runtime.block_on(TcpStream::connect(program.address())).expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        socket
    }

    fn up(&self, bencher: Bencher<'_, '_>, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        let data = vec![0x5a; PIECE];
        bencher
            .counter(BytesCount::new(BYTES))
            .bench_local(|| self.runtime.block_on(upload(&mut io, &data)).expect("an open connection"));
    }

    fn down(&self, bencher: Bencher<'_, '_>, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = vec![0; PIECE];
        bencher
            .counter(BytesCount::new(BYTES))
            .bench_local(|| self.runtime.block_on(download(&mut io, &mut buffer)).expect("an open connection"));
    }

    fn ping_pong(&self, bencher: Bencher<'_, '_>, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        let echo = Command::Echo.of(u64::MAX);
        self.runtime.block_on(io.write_all(&echo)).expect("an open connection");
        bencher.bench_local(|| self.runtime.block_on(round_trip(&mut io)).expect("an open connection"));
    }
}

async fn upload(io: &mut (impl AsyncRead + AsyncWrite + Unpin), data: &[u8]) -> io::Result<u8> {
    io.write_all(&Command::Take.of(BYTES as u64)).await?;
    for _ in 0..BYTES / PIECE {
        io.write_all(data).await?;
    }
    io.read_u8().await
}

async fn download(io: &mut (impl AsyncRead + AsyncWrite + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    io.write_all(&Command::Send.of(BYTES as u64)).await?;
    let mut left = BYTES;
    while left > 0 {
        match io.read(buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

async fn round_trip(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<u8> {
    io.write_u8(b'.').await?;
    io.read_u8().await
}

mod library {
    use super::{Bencher, World};

    #[divan::bench(sample_count = 20, sample_size = 1)]
    fn up(bencher: Bencher<'_, '_>) {
        let world = World::start();
        world.up(bencher, world.stream());
    }

    #[divan::bench(sample_count = 20, sample_size = 1)]
    fn down(bencher: Bencher<'_, '_>) {
        let world = World::start();
        world.down(bencher, world.stream());
    }

    /// One byte there and back.
    #[divan::bench(sample_count = 2000, sample_size = 1)]
    fn ping_pong(bencher: Bencher<'_, '_>) {
        let world = World::start();
        world.ping_pong(bencher, world.stream());
    }
}

mod program {
    use super::{AsyncWriteExt, Bencher, Command, TcpStream, World, round_trip};

    #[divan::bench(sample_count = 20, sample_size = 1)]
    fn up(bencher: Bencher<'_, '_>) {
        let world = World::start();
        let program = world.program();
        world.up(bencher, world.socket(&program));
        program.stop().expect("its end");
    }

    #[divan::bench(sample_count = 20, sample_size = 1)]
    fn down(bencher: Bencher<'_, '_>) {
        let world = World::start();
        let program = world.program();
        world.down(bencher, world.socket(&program));
        program.stop().expect("its end");
    }

    /// One byte there and back.
    #[divan::bench(sample_count = 2000, sample_size = 1)]
    fn ping_pong(bencher: Bencher<'_, '_>) {
        let world = World::start();
        let program = world.program();
        world.ping_pong(bencher, world.socket(&program));
        program.stop().expect("its end");
    }

    /// A new connection, one byte there and back, and the close.
    #[divan::bench(sample_count = 500, sample_size = 1)]
    fn connect_and_echo(bencher: Bencher<'_, '_>) {
        let world = World::start();
        let program = world.program();
        bencher.bench_local(|| {
            world.runtime.block_on(async {
                let mut socket = TcpStream::connect(program.address()).await?;
                socket.write_all(&Command::Echo.of(1)).await?;
                round_trip(&mut socket).await
            })
        });
        program.stop().expect("its end");
    }
}
