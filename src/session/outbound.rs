//! The way out of this machine: names, addresses, proxies, TLS (`proto-notes/websocket.md#addresses`,
//! `proto-notes/websocket.md#proxies`). One for the websocket and the AWS API, so that what holds for one holds for the
//! other.
//!
//! What is said on a connection is not here.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use super::{
    DialError, DialStep, Proxies, Proxy, Trust, TrustError,
    admission::{Admission, Admissions, Refusal},
    dialer::Watch,
    proxy_tunnel::{self, NoTunnel},
    race::{in_turn, race},
    socket::Socket,
    transport::Transport,
};

/// Bytes of TLS records that may wait to be written: the default of 64 KiB makes short writes of what the websocket
/// hands over, and each costs a move of the rest.
const TLS_BUFFER: usize = 256 << 10;

/// How long the lookup of a name may take. Resolvers wait 5 s for a server before they ask the next.
const LOOKUP: Duration = Duration::from_secs(10);

/// How long one address may take for TCP and TLS together; of a proxy too.
const PER_ADDRESS: Duration = Duration::from_secs(8);

/// How long a proxy may take to open a tunnel: it looks up a name and connects, as we would.
const TUNNEL: Duration = Duration::from_secs(10);

/// How long TLS with the far end may take inside a tunnel.
const INSIDE: Duration = Duration::from_secs(8);

/// From when on a tunnel that its caller gives up speaks against the address of the proxy: before, it may be that
/// nobody needs it any more.
const GIVEN_UP: Duration = Duration::from_secs(2);

/// Makes connections, straight or through a proxy. What is trusted is read once; which addresses failed is remembered,
/// and whether proxies accept what they are told.
pub struct Outbound {
    proxies: Proxies,
    trust: Trust,
    tls: OnceCell<TlsConnector>,
    /// By host and port: how many of the addresses others go before next time, because they failed.
    passed_over: Mutex<HashMap<String, usize>>,
    admissions: Admissions,
}

/// A connection.
pub(crate) struct Reached {
    pub(crate) io: Transport,
    pub(super) path: Path,
}

/// How a connection was made, for the case that it is no good.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) address: SocketAddr,
    /// Whose address that is: the far end's or a proxy's host and port.
    pub(super) of: String,
    /// How many of these addresses are to be passed over next time if this one is no good.
    pub(super) others_first: usize,
}

/// Who is at one end of a connection: only the words of failures differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Far,
    Proxy,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("proxies", &self.proxies).field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Outbound {
    /// A way out. Nothing is read before it is needed, or [`ready`](Self::ready) is called.
    #[must_use]
    pub fn new(proxies: Proxies, trust: Trust) -> Self {
        Self { proxies, trust, tls: OnceCell::new(), passed_over: Mutex::default(), admissions: Admissions::default() }
    }

    /// What the environment says: `HTTPS_PROXY` and so on, `AWS_CA_BUNDLE`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(Proxies::from_env(), Trust::from_env())
    }

    /// The proxies that are used.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Who is trusted.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Reads whom to trust, if that has not been done, on a thread where it holds up nobody.
    ///
    /// # Errors
    /// When there is nobody to trust.
    pub async fn ready(&self) -> Result<(), TrustError> {
        self.connector().await.map(drop)
    }

    /// The same on this thread.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub fn ready_now(&mut self) -> Result<(), TrustError> {
        if !self.tls.initialized() {
            self.tls = OnceCell::new_with(Some(self.trust.connector()?));
        }
        Ok(())
    }

    async fn connector(&self) -> Result<&TlsConnector, TrustError> {
        let read = || async {
            let trust = self.trust.clone();
            let read = tokio::task::spawn_blocking(move || trust.connector()).await;
            read.unwrap_or_else(|error| Err(TrustError::Machine(error.to_string())))
        };
        self.tls.get_or_try_init(read).await
    }

    /// A connection to a host, through a tunnel where a proxy is to be used. IPv6 addresses are in brackets.
    pub(crate) async fn connect(
        &self,
        tls: bool,
        host: &str,
        port: u16,
        watch: Watch<'_>,
    ) -> Result<Reached, DialError> {
        let authority = format!("{host}:{port}");
        match self.proxies.of(tls, host, port).map_err(DialError::ProxySetting)? {
            Some(proxy) => self.through(&proxy, tls, host, &authority, watch).await,
            None => self.straight(tls, host, port, &authority, watch).await,
        }
    }

    /// A connection to a proxy itself, for whoever asks it for something at this host and port, and says what it
    /// answered.
    pub(crate) async fn connect_to_proxy(
        &self,
        proxy: &Proxy,
        authority: &str,
    ) -> Result<(Reached, Admission), DialError> {
        let (link, path, admission) = self.admitted(proxy, authority, Watch::default()).await?;
        Ok((Reached { io: link.into(), path }, admission))
    }

    async fn straight(
        &self,
        tls: bool,
        host: &str,
        port: u16,
        authority: &str,
        watch: Watch<'_>,
    ) -> Result<Reached, DialError> {
        let tls = if tls { Some(self.with_name(host, authority, End::Far).await?) } else { None };
        let (path, link) = self.reach(host, port, tls.as_ref(), End::Far, authority, watch).await?;
        Ok(Reached { io: link.into(), path })
    }

    async fn through(
        &self,
        proxy: &Proxy,
        tls: bool,
        host: &str,
        authority: &str,
        watch: Watch<'_>,
    ) -> Result<Reached, DialError> {
        tracing::debug!(host = authority, %proxy, "through a proxy");
        let (link, path, admission) = self.admitted(proxy, authority, watch).await?;
        let given_up = GivenUp { outbound: self, path: &path, begun: Instant::now(), ended: false };
        let tls = if tls { Some(self.with_name(host, authority, End::Far).await?) } else { None };
        let opened = match link {
            Link::Plain(socket) => {
                let socket = tunnel(socket, authority, proxy, admission, watch).await;
                match (socket, &tls) {
                    (Ok(socket), Some(tls)) => inside(tls, socket, authority, proxy, watch).await.map(Transport::tls),
                    (Ok(socket), None) => Ok(Transport::plain(socket)),
                    (Err(error), _) => Err(error),
                }
            }
            Link::Tls(outer) => {
                let outer = tunnel(*outer, authority, proxy, admission, watch).await;
                match (outer, &tls) {
                    (Ok(outer), Some(tls)) => {
                        inside(tls, outer, authority, proxy, watch).await.map(Transport::tls_in_tls)
                    }
                    (Ok(outer), None) => Ok(Transport::tls(outer)),
                    (Err(error), _) => Err(error),
                }
            }
        };
        given_up.ended();
        // A refusal is an answer: another address of the same proxy would give the same.
        if opened.as_ref().is_err_and(|error| !matches!(error, DialError::ProxyRefused { .. })) {
            self.failed(&path);
        }
        opened.map(|io| Reached { io, path })
    }

    /// The same with the leave to ask it. Where it will be refused, nothing is done.
    async fn admitted(
        &self,
        proxy: &Proxy,
        authority: &str,
        watch: Watch<'_>,
    ) -> Result<(Link, Path, Admission), DialError> {
        let refused = |refusal: Refusal| {
            tracing::debug!(%proxy, "not asked again: it has refused user and password");
            proxy_refused(proxy, authority, refusal)
        };
        self.admissions.check(proxy).map_err(refused)?;
        let (link, path) = self.link(proxy, watch).await?;
        let admission = self.admissions.enter(proxy).await.map_err(refused)?;
        Ok((link, path, admission))
    }

    /// TCP to a proxy, and TLS where its URL says so.
    async fn link(&self, proxy: &Proxy, watch: Watch<'_>) -> Result<(Link, Path), DialError> {
        let shown = proxy.to_string();
        let tls = if proxy.is_tls() { Some(self.with_name(proxy.host(), &shown, End::Proxy).await?) } else { None };
        let (path, link) = self.reach(proxy.host(), proxy.port(), tls.as_ref(), End::Proxy, &shown, watch).await?;
        Ok((link, path))
    }

    async fn with_name(&self, host: &str, shown: &str, end: End) -> Result<Tls<'_>, DialError> {
        let tls_error = |source| end.tls_failed(shown, source);
        let server = ServerName::try_from(without_brackets(host).to_owned());
        let server = server.map_err(|error| tls_error(io::Error::other(error)))?;
        let connector = self.connector().await.map_err(DialError::Trust)?;
        Ok(Tls { connector, server })
    }

    /// TCP and TLS to the first address that answers.
    async fn reach(
        &self,
        host: &str,
        port: u16,
        tls: Option<&Tls<'_>>,
        end: End,
        shown: &str,
        watch: Watch<'_>,
    ) -> Result<(Path, Link), DialError> {
        let passed_over = self.passed_over(shown);
        let begun = Instant::now();
        let found = timeout(LOOKUP, lookup_host((without_brackets(host), port))).await;
        let found = found
            .unwrap_or_else(|_| Err(late("the name was not resolved", LOOKUP)))
            .map_err(|source| end.not_resolved(shown, source))?;
        let addresses = in_turn(found, passed_over);
        watch.tell(DialStep::Resolved { addresses: addresses.len() }, begun);
        tracing::trace!(host = shown, ?addresses, "connecting");
        let raced = race(&addresses, |address| connect(address, tls, end, shown, watch)).await;
        let (address, link) = raced.map_err(|failures| {
            // So that those not reached yet come first next time.
            self.pass_over(shown, passed_over.wrapping_add(failures.len()));
            all_failed(shown, end, failures)
        })?;
        let tried = addresses.iter().take_while(|tried| **tried != address).count() + 1;
        Ok((Path { address, of: shown.to_owned(), others_first: passed_over.wrapping_add(tried) }, link))
    }

    /// A connection came to nothing: others go first next time.
    pub(super) fn failed(&self, path: &Path) {
        self.pass_over(&path.of, path.others_first);
    }

    fn pass_over(&self, host: &str, count: usize) {
        let mut known = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(host.to_ascii_lowercase(), count);
    }

    pub(super) fn passed_over(&self, host: &str) -> usize {
        let known = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&host.to_ascii_lowercase()).copied().unwrap_or_default()
    }
}

/// Somebody waits for a proxy: if it is given up late, another address goes first next time.
struct GivenUp<'a> {
    outbound: &'a Outbound,
    path: &'a Path,
    begun: Instant,
    ended: bool,
}

impl GivenUp<'_> {
    fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if !self.ended && self.begun.elapsed() >= GIVEN_UP {
            self.outbound.failed(self.path);
        }
    }
}

/// TLS that knows whom it should find.
struct Tls<'a> {
    connector: &'a TlsConnector,
    server: ServerName<'static>,
}

impl Tls<'_> {
    async fn handshake<S>(&self, io: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let bounded = |connection: &mut tokio_rustls::rustls::ClientConnection| {
            connection.set_buffer_limit(Some(TLS_BUFFER));
        };
        self.connector.connect_with(self.server.clone(), io, bounded).await
    }
}

/// What leads to one address.
enum Link {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl From<Link> for Transport {
    fn from(link: Link) -> Self {
        match link {
            Link::Plain(socket) => Self::plain(socket),
            Link::Tls(tls) => Self::tls(*tls),
        }
    }
}

/// TCP and TLS to one address.
async fn connect(
    address: SocketAddr,
    tls: Option<&Tls<'_>>,
    end: End,
    shown: &str,
    watch: Watch<'_>,
) -> Result<Link, DialError> {
    let begun = Instant::now();
    let until = begun + PER_ADDRESS;
    let connect_failed = |source| end.connect_failed(shown, source);
    let tcp = timeout_at(until, TcpStream::connect(address)).await;
    let tcp = tcp.unwrap_or_else(|_| Err(late("no answer", PER_ADDRESS))).map_err(connect_failed)?;
    // Without it a small message waits for the acknowledgement of the one before: 40 ms in the handshake.
    tcp.set_nodelay(true).map_err(connect_failed)?;
    watch.tell(DialStep::Connected(address), begun);
    let socket = Socket::new(tcp);
    let Some(tls) = tls else { return Ok(Link::Plain(socket)) };
    let begun = Instant::now();
    let done = timeout_at(until, tls.handshake(socket)).await.unwrap_or_else(|_| Err(late("no answer", PER_ADDRESS)));
    let tls = done.map_err(|source| end.tls_failed(shown, source))?;
    if end == End::Far {
        watch.tell(DialStep::Secured, begun);
    }
    Ok(Link::Tls(Box::new(tls)))
}

/// Has a proxy open a tunnel.
async fn tunnel<S>(
    mut io: S,
    authority: &str,
    proxy: &Proxy,
    admission: Admission,
    watch: Watch<'_>,
) -> Result<S, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let opened = timeout(TUNNEL, proxy_tunnel::open(&mut io, authority, proxy)).await;
    let opened = opened.unwrap_or_else(|_| Err(NoTunnel::Broken(late("no answer to CONNECT", TUNNEL))));
    let no_answer = |source| DialError::ProxyAnswer { proxy: proxy.to_string(), host: authority.to_owned(), source };
    match opened {
        Ok(()) => {
            admission.accepted();
            watch.tell(DialStep::Tunnelled(proxy.to_string()), begun);
            Ok(io)
        }
        Err(NoTunnel::Refused(status, meaning)) => {
            // tinyproxy has 401 for a wrong password.
            if matches!(status, 401 | 407) {
                admission.refused(status, &meaning);
            }
            Err(proxy_refused(proxy, authority, Refusal { status, meaning }))
        }
        Err(NoTunnel::NotHttp(what)) => Err(no_answer(io::Error::new(io::ErrorKind::InvalidData, what))),
        Err(NoTunnel::Broken(source)) => Err(no_answer(source)),
    }
}

fn proxy_refused(proxy: &Proxy, authority: &str, Refusal { status, meaning }: Refusal) -> DialError {
    DialError::ProxyRefused { proxy: proxy.to_string(), host: authority.to_owned(), status, meaning }
}

/// TLS with the far end, inside a tunnel.
async fn inside<S>(
    tls: &Tls<'_>,
    io: S,
    authority: &str,
    proxy: &Proxy,
    watch: Watch<'_>,
) -> Result<TlsStream<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let done = timeout(INSIDE, tls.handshake(io)).await.unwrap_or_else(|_| Err(late("no answer", INSIDE)));
    if done.is_ok() {
        watch.tell(DialStep::Secured, begun);
    }
    done.map_err(|source| {
        // Whose certificate that was may be the question.
        let source = io::Error::new(source.kind(), format!("through the proxy {proxy}: {source}"));
        DialError::Tls { host: authority.to_owned(), source }
    })
}

impl End {
    /// Of a proxy it says no more than that there is no way to it.
    fn not_resolved(self, shown: &str, source: io::Error) -> DialError {
        match self {
            Self::Far => DialError::Resolve { host: shown.to_owned(), source },
            Self::Proxy => self.connect_failed(shown, source),
        }
    }

    fn connect_failed(self, shown: &str, source: io::Error) -> DialError {
        match self {
            Self::Far => DialError::Connect { host: shown.to_owned(), source },
            Self::Proxy => DialError::ProxyConnect { proxy: shown.to_owned(), source },
        }
    }

    fn tls_failed(self, shown: &str, source: io::Error) -> DialError {
        match self {
            Self::Far => DialError::Tls { host: shown.to_owned(), source },
            Self::Proxy => DialError::ProxyTls { proxy: shown.to_owned(), source },
        }
    }
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

pub(super) fn late(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", limit.as_secs()))
}

/// The failure that came last, of those that got furthest; of several it is said that they were.
fn all_failed(shown: &str, end: End, mut failures: Vec<(SocketAddr, DialError)>) -> DialError {
    let tried = failures.len();
    failures.sort_by_key(|(_, error)| matches!(error, DialError::Tls { .. } | DialError::ProxyTls { .. }));
    let Some((address, error)) = failures.pop() else {
        return end.not_resolved(shown, io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    };
    let one_of_many = |source: io::Error| match tried {
        1 => source,
        _ => io::Error::new(source.kind(), format!("{address}: {source} ({tried} addresses were tried)")),
    };
    match error {
        DialError::Connect { source, .. } | DialError::ProxyConnect { source, .. } => {
            end.connect_failed(shown, one_of_many(source))
        }
        DialError::Tls { source, .. } | DialError::ProxyTls { source, .. } => {
            end.tls_failed(shown, one_of_many(source))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
