//! The clients that are compared.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use crate::{
    Options,
    harness::{
        Outcome, built,
        client::{Client, announced, pointed_at},
        destination,
        emulator::Emulator,
        load::connect,
        reference::Shape,
    },
    plugin,
};

/// How often a client is started again that does not answer.
const ATTEMPTS: usize = 20;
/// How long a first byte may take to come back.
const FIRST_ECHO: Duration = Duration::from_secs(3);

pub(crate) struct Contender {
    pub(crate) name: String,
    kind: Kind,
}

enum Kind {
    Ssmfwd(Vec<&'static str>),
    /// The library, with messages of so many bytes.
    Bridge(usize),
    Plugin(PathBuf),
    Reference(Shape),
}

impl Contender {
    /// ssmfwd first: the others are compared with it.
    pub(crate) async fn all(options: &Options) -> Outcome<Vec<Self>> {
        let one = |name: &str, kind| Self { name: name.to_owned(), kind };
        let mut all = vec![one("ssmfwd", Kind::Ssmfwd(Vec::new()))];
        let help = Command::new(built("ssmfwd")?).arg("--help").output().await?;
        if String::from_utf8_lossy(&help.stdout).contains("--max-message-rate") {
            all.push(one("ssmfwd, pacing off", Kind::Ssmfwd(vec!["--max-message-rate", "0"])));
        }
        for bytes in [1024, 32768] {
            all.push(one(&format!("aws-ssm-bridge, {bytes} bytes"), Kind::Bridge(bytes)));
        }
        all.push(one("the plugin's shape", Kind::Reference(Shape::PLUGIN)));
        for path in &options.plugins {
            all.push(one(&format!("{}", path.display()), Kind::Plugin(path.clone())));
        }
        Ok(all)
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ssmfwd(_))
    }

    /// Starts it until a byte comes back; how often that took another start.
    pub(crate) async fn start(&self, emulator: &Emulator, port: u16) -> Outcome<(Client, usize)> {
        for hung in 0..ATTEMPTS {
            let client = self.try_start(emulator, port).await?;
            if let Ok(Ok(())) = timeout(FIRST_ECHO, echo(&client)).await {
                return Ok((client, hung));
            }
            // Dropping it ends it.
        }
        Err(format!("no byte came back in {ATTEMPTS} starts").into())
    }

    async fn try_start(&self, emulator: &Emulator, port: u16) -> Outcome<Client> {
        match &self.kind {
            Kind::Ssmfwd(options) => Client::ssmfwd(emulator, port, options).await,
            Kind::Reference(shape) => Client::part(Some(emulator), &shape.arguments(port)).await,
            Kind::Plugin(path) => plugin::start(path, emulator, port).await,
            Kind::Bridge(bytes) => {
                let program = std::env::current_exe()?.with_file_name("bridge");
                let mut command = pointed_at(emulator, program);
                command.args([port.to_string(), bytes.to_string()]);
                Client::start(command, announced).await
            }
        }
    }
}

async fn echo(client: &Client) -> std::io::Result<()> {
    let mut socket = connect(client.address).await?;
    socket.write_all(&destination::Command::Echo.request(0, 0)).await?;
    socket.write_all(b".").await?;
    socket.read_u8().await.map(drop)
}
