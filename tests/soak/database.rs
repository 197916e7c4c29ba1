//! One MariaDB client with one connection for the whole soak, whose transactions add up in the end.

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::{mariadb, program::find, verdict::Verdict};

const ACCOUNTS: usize = 20;
const BALANCE: i64 = 1_000_000;
/// Between two complete counts of the ledger, transactions.
const COUNT_EVERY: u64 = 64;

/// A server, and the client of it that goes through the tunnel.
pub(crate) struct Database {
    server: mariadb::Server,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Progress {
    transactions: AtomicU64,
    since: Mutex<Instant>,
    slowest: Mutex<Duration>,
}

/// What must be in the database.
struct Books {
    balances: [i64; ACCOUNTS],
    transactions: u64,
    moved: i64,
    note: String,
}

impl Database {
    /// Starts the server: its port is what the forward leads to.
    pub(crate) fn serve() -> mariadb::Server {
        mariadb::Server::start()
    }

    /// Creates the tables, directly, and starts the client, through the tunnel.
    pub(crate) fn start(server: mariadb::Server, port: u16, seed: u64, verdict: Verdict) -> Self {
        let accounts: Vec<_> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE})")).collect();
        mariadb::sql(
            server.port,
            &format!(
                "CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL); \
                 INSERT INTO account VALUES {}; \
                 CREATE TABLE ledger (n BIGINT PRIMARY KEY, source INT NOT NULL, target INT NOT NULL, \
                 amount BIGINT NOT NULL, note TEXT NOT NULL);",
                accounts.join(", ")
            ),
        );
        let progress = Arc::new(Progress {
            transactions: AtomicU64::new(0),
            since: Mutex::new(Instant::now()),
            slowest: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn({
            let (progress, direct) = (Arc::clone(&progress), server.port);
            async move {
                if let Err(error) = work(port, direct, seed, &progress, stopped).await {
                    verdict.fail(format!("MariaDB: {error}"));
                }
            }
        });
        Self { server, progress, stop, task }
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.progress.transactions.load(Relaxed)
    }

    pub(crate) fn slowest(&self) -> Duration {
        *self.progress.slowest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the transaction that is under way has gone on.
    pub(crate) fn waiting(&self) -> Duration {
        self.progress.since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Ends the client in order and compares what the server has with what was done.
    pub(crate) async fn finish(&mut self) {
        self.stop.send_replace(true);
        (&mut self.task).await.expect("the client's task does not panic");
    }

    /// Ends the server.
    pub(crate) fn end(self) {
        self.server.end();
    }
}

impl Progress {
    fn done(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        *slowest = slowest.max(since.elapsed());
        *since = Instant::now();
        self.transactions.fetch_add(1, Relaxed);
    }
}

/// The program: it reads statements and answers line by line.
struct Client {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(port: u16) -> Result<Self, String> {
        // Without the time limit of the clients of the interop world. It never connects again by itself.
        let mut command = std::process::Command::new(find("mariadb", mariadb::CLIENT));
        mariadb::lead_to(&mut command, port);
        command.args(["--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect", mariadb::DATABASE]);
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { return Err("no pipes".into()) };
        Ok(Self { child, to, from: BufReader::new(from).lines() })
    }

    async fn ask(&mut self, statements: &str) -> Result<String, String> {
        let written = self.to.write_all(statements.as_bytes()).await;
        match self.from.next_line().await {
            Ok(Some(line)) if written.is_ok() => Ok(line),
            other => Err(format!("no answer ({other:?}, {written:?})")),
        }
    }

    /// What it has to say about its end.
    async fn end(self) -> Result<(), String> {
        let Self { child, to, from } = self;
        drop((to, from));
        let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())),
        }
    }
}

async fn work(
    port: u16,
    direct: u16,
    seed: u64,
    progress: &Progress,
    stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut client = Client::start(port)?;
    let mut books = Books { balances: [BALANCE; ACCOUNTS], transactions: 0, moved: 0, note: String::new() };
    let outcome = transactions(&mut client, &mut books, seed, progress, stopped).await;
    let end = client.end().await;
    if let Err(error) = outcome {
        let end = end.err().map(|end| format!("; {end}")).unwrap_or_default();
        return Err(format!("transaction {}: {error}{end}", books.transactions));
    }
    end?;
    // In a thread: it waits for a program.
    let compared = tokio::task::spawn_blocking(move || books.compare(direct)).await;
    compared.map_err(|error| error.to_string())?
}

async fn transactions(
    client: &mut Client,
    books: &mut Books,
    seed: u64,
    progress: &Progress,
    stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let identity = client.ask("SELECT CONNECTION_ID();\n").await?;
    while !*stopped.borrow() {
        let (source, target) = (random.usize(..ACCOUNTS), random.usize(..ACCOUNTS));
        let amount = random.i64(1..1000);
        let length = random.usize(..4000);
        let note: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
        let number = books.transactions;
        let statements = format!(
            "START TRANSACTION; \
             UPDATE account SET balance = balance - {amount} WHERE id = {source}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {target}; \
             INSERT INTO ledger VALUES ({number}, {source}, {target}, {amount}, '{note}'); \
             SELECT CONNECTION_ID(), {number}, (SELECT SUM(balance) FROM account), \
             IFNULL((SELECT note FROM ledger WHERE n = {number} - 1), ''); \
             COMMIT;\n"
        );
        let answer = client.ask(&statements).await?;
        let expected = format!("{identity}\t{number}\t{}\t{}", ACCOUNTS as i64 * BALANCE, books.note);
        if answer != expected {
            return Err(format!("{answer:?} is not {expected:?}"));
        }
        books.enter(source, target, amount, note);
        if books.transactions.is_multiple_of(COUNT_EVERY) {
            let counted = client.ask("SELECT COUNT(*), SUM(amount) FROM ledger;\n").await?;
            let expected = format!("{}\t{}", books.transactions, books.moved);
            if counted != expected {
                return Err(format!("the ledger has {counted:?}, not {expected:?}"));
            }
        }
        progress.done();
    }
    Ok(())
}

impl Books {
    fn enter(&mut self, source: usize, target: usize, amount: i64, note: String) {
        for (account, change) in [(source, -amount), (target, amount)] {
            if let Some(balance) = self.balances.get_mut(account) {
                *balance += change;
            }
        }
        self.transactions += 1;
        self.moved += amount;
        self.note = note;
    }

    /// Asks the server, not through the tunnel.
    fn compare(&self, port: u16) -> Result<(), String> {
        let ledger = mariadb::sql(port, "SELECT COUNT(*), IFNULL(SUM(amount), 0) FROM ledger");
        let balances = mariadb::sql(port, "SELECT balance FROM account ORDER BY id");
        let expected: Vec<_> = self.balances.iter().map(i64::to_string).collect();
        if ledger != format!("{}\t{}", self.transactions, self.moved) || balances != expected.join("\n") {
            return Err(format!("the books do not balance: {ledger:?}, {balances:?}, expected {expected:?}"));
        }
        Ok(())
    }
}
