//! A PostgreSQL client library over streams of `ssmfwd::Client`, as a program has it that opens no local port: the one
//! test of this world that links the library.

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, pin_mut};
use ssmfwd::{
    Client, ClientOptions,
    aws::{Aws, AwsOptions},
    emulator::{Action, AgentKind, Emulator, EmulatorConfig},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::NoTls;

use super::postgresql::{Server, USER};

/// Generous: it only turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(120);
/// Connections at a time.
const CONNECTIONS: i64 = 20;
/// Rows of a result of some 5 MB.
const ROWS: i32 = 5_000;

struct Connection {
    postgres: tokio_postgres::Client,
    running: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Connection {
    async fn open(client: &Client, port: u16) -> Self {
        let stream = client.connect(EmulatorConfig::DEFAULT_TARGET, ("127.0.0.1", port)).await.expect("a stream");
        let mut config = tokio_postgres::Config::new();
        let connected = config.user(USER).dbname("postgres").connect_raw(stream, NoTls).await;
        let (postgres, connection) = connected.expect("the server's greeting");
        Self { postgres, running: tokio::spawn(connection) }
    }

    /// Says goodbye, and waits for the end.
    async fn close(self) {
        drop(self.postgres);
        self.running.await.expect("no panic").expect("an orderly end");
    }
}

async fn uses(server: &Server) {
    // What is on its way when a websocket is lost, the agent repeats at ten messages a second: the faster the agent, the
    // longer a resume takes, and this test is about a client of a database and not about that.
    let config = EmulatorConfig { agent: AgentKind::Realistic, ..EmulatorConfig::default() };
    let emulator = Emulator::start(config).expect("an emulator");
    let aws = Aws::from_sdk_config(&emulator.sdk_config(), AwsOptions::default()).expect("a control plane");
    let client = Client::new(aws, ClientOptions::default());

    // As a connection pool that fills up.
    let connections = join_all((0..CONNECTIONS).map(|_| Connection::open(&client, server.port))).await;
    let asking = connections.iter().zip(0..).map(|(connection, number): (_, i64)| async move {
        let answer = connection.postgres.query_one("SELECT $1::bigint * 2", &[&number]).await.expect("an answer");
        assert_eq!(answer.get::<_, i64>(0), number * 2);
    });
    join_all(asking).await;
    assert_eq!(emulator.state().sessions_started, 1);
    join_all(connections.into_iter().map(Connection::close)).await;

    // A large result, under which the websocket is lost.
    let connection = Connection::open(&client, server.port).await;
    let select = "SELECT id, repeat(md5(id::text), 32) FROM generate_series(1, $1::int) AS id";
    let rows = connection.postgres.query_raw(select, [ROWS]).await.expect("an answer");
    pin_mut!(rows);
    let mut expected = 0;
    while let Some(row) = rows.next().await {
        let row = row.expect("a row");
        expected += 1;
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1).len()), (expected, 1024));
        if expected == ROWS / 2 {
            emulator.act(Action::Disconnect);
        }
    }
    assert_eq!(expected, ROWS);
    connection.close().await;

    client.close().await;
    let state = emulator.wait_for(|state| state.live_sessions() == 0 && state.agents == 0).await;
    assert_eq!(state.violations, [""; 0]);
    assert!(state.sessions.values().any(|session| session.websockets > 1), "{state:?}");
}

#[test]
fn a_client_library_works_over_streams_without_a_local_port() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async { timeout(LIMIT, uses(&server)).await }).expect("in time");
    server.end();
}
