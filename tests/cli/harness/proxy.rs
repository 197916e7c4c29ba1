//! An HTTP proxy of a test: it writes down what it is asked for, and does it or not.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// What a proxy does when it is asked for something.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// What it is asked for.
    Serve,
    /// The same for those who send this `Proxy-Authorization`, and 407 for others.
    Only(&'static str),
    /// Says this, and closes.
    Say(Vec<u8>),
    /// Says this to CONNECT to a host that begins so, and serves the rest.
    SayTo(&'static str, Vec<u8>),
    /// Takes everything and says nothing.
    Hang,
}

/// A certificate authority, and servers that it vouches for.
pub(crate) struct Interceptor {
    folder: TempDir,
    acceptor: TlsAcceptor,
}

impl Interceptor {
    /// A server for these names.
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate");
        let issuer = Issuer::new(params, key);
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("they belong together");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("room");
        Self { folder, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// The authority in PEM form.
    pub(crate) fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// What a proxy is made of.
#[derive(Clone)]
struct Ways {
    answer: Answer,
    /// TLS with who comes.
    front: Option<TlsAcceptor>,
    /// TLS with who comes, inside the tunnel, which then leads to this address whatever was asked for.
    inside: Option<(TlsAcceptor, String)>,
}

impl Proxy {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::with(Ways { answer, front: None, inside: None }).await
    }

    /// One that speaks TLS itself.
    pub(crate) async fn with_tls(answer: Answer, tls: &Interceptor) -> Self {
        Self::with(Ways { answer, front: Some(tls.acceptor.clone()), inside: None }).await
    }

    /// One that opens what is encrypted, and leads it to a URL without TLS.
    pub(crate) async fn intercepting(tls: &Interceptor, url: &str) -> Self {
        let address = url.trim_start_matches("http://").to_owned();
        Self::with(Ways { answer: Answer::Serve, front: None, inside: Some((tls.acceptor.clone(), address)) }).await
    }

    async fn with(ways: Ways) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).expect("a socket");
                let (ways, record) = (ways.clone(), Arc::clone(&record));
                tokio::spawn(async move {
                    match ways.front.clone() {
                        Some(tls) => {
                            if let Ok(client) = tls.accept(client).await {
                                serve(client, ways, record).await;
                            }
                        }
                        None => serve(client, ways, record).await,
                    }
                });
            }
        });
        Self { port, heads, task }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The heads of all requests, in order.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic before").clone()
    }

    /// The hosts and ports that tunnels were asked for, in order.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        let heads = self.heads();
        let authority = |head: &String| Some(head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned());
        heads.iter().filter_map(authority).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn head(client: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, ways: Ways, record: Arc<Mutex<Vec<String>>>) {
    let Some(head) = head(&mut client).await else { return };
    record.lock().expect("no panic before").push(head.clone());
    let tunnel = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    let says = match &ways.answer {
        Answer::Serve => None,
        Answer::Only(authorization) if head.contains(&format!("Proxy-Authorization: {authorization}\r\n")) => None,
        // What hyper writes is in lower case.
        Answer::Only(authorization) if head.contains(&format!("proxy-authorization: {authorization}\r\n")) => None,
        Answer::Only(_) => Some(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n".to_vec()),
        Answer::Say(words) => Some(words.clone()),
        Answer::SayTo(host, words) => tunnel.as_ref().filter(|to| to.starts_with(host)).map(|_| words.clone()),
        Answer::Hang => {
            let mut rest = Vec::new();
            drop(client.read_to_end(&mut rest).await);
            return;
        }
    };
    if let Some(words) = says {
        drop(client.write_all(&words).await);
        drop(client.shutdown().await);
        return;
    }
    match (tunnel, ways.inside) {
        (Some(_), Some((tls, address))) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok();
            // A client that does not trust this ends it.
            let Ok(mut client) = tls.accept(client).await else { return };
            let mut server = TcpStream::connect(address).await.expect("the far end");
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
        (Some(to), None) => {
            let Ok(mut server) = TcpStream::connect(&to).await else {
                drop(client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await);
                return;
            };
            server.set_nodelay(true).expect("a socket");
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok();
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
        (None, _) => {
            let (method, rest) = head.split_once(" http://").expect("the whole URL");
            let (to, rest) = rest.split_once('/').expect("a path");
            let mut server = TcpStream::connect(to).await.expect("the far end");
            server.write_all(format!("{method} /{rest}").as_bytes()).await.expect("it listens");
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
    }
}
