//! CONNECT: what is said to a proxy, and how its answer is read (RFC 9110, section 9.3.6;
//! `proto-notes/websocket.md#proxies`). Which proxy, and what limits the time, is not decided here.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Proxy;

/// Bytes that a proxy may answer before the tunnel is open: far more than any proxy's headers.
const HEAD_LIMIT: usize = 16 << 10;

/// Authentication schemes of one answer that are named.
const SCHEMES_LIMIT: usize = 4;

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum NoTunnel {
    /// The proxy answered with another status than success, which means this.
    Refused(u16, String),
    /// What came is not an answer of an HTTP proxy.
    NotHttp(&'static str),
    /// The connection broke.
    Broken(io::Error),
}

/// Asks a proxy for a tunnel to an authority (host and port). What comes behind its answer is left unread: it is the
/// far end's.
pub(super) async fn open<S>(io: &mut S, authority: &str, proxy: &Proxy) -> Result<(), NoTunnel>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: ssmfwd/{}\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    if let Some(authorization) = proxy.authorization() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await.map_err(NoTunnel::Broken)?;
    io.flush().await.map_err(NoTunnel::Broken)?;

    let mut read = 0;
    loop {
        let head = head(io, HEAD_LIMIT - read).await?;
        read += head.len();
        let head = String::from_utf8_lossy(&head);
        match status(&head) {
            None => return Err(NoTunnel::NotHttp("what came is no HTTP status")),
            // More is to come.
            Some(100..200) => {}
            Some(200..300) => return Ok(()),
            Some(status) => return Err(NoTunnel::Refused(status, meaning(status, &head, proxy))),
        }
    }
}

/// Reads the head of an answer and not a byte more: one at a time, because what is behind it belongs to somebody else,
/// and nobody could be given back what was read of it. That is a few hundred reads, once for each connection.
async fn head<S: AsyncRead + Unpin>(io: &mut S, limit: usize) -> Result<Vec<u8>, NoTunnel> {
    const START: &[u8] = b"HTTP/1.";
    let mut head = Vec::with_capacity(256);
    while head.len() < limit {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && head.is_empty() => {
                let text = "it closed the connection without an answer";
                return Err(NoTunnel::Broken(io::Error::new(error.kind(), text)));
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(NoTunnel::Broken(io::Error::new(error.kind(), "it broke off its answer")));
            }
            Err(error) => return Err(NoTunnel::Broken(error)),
        }
        // Whoever speaks another protocol may wait for us to go on.
        if !head.iter().zip(START).all(|(came, expected)| came == expected) {
            return Err(NoTunnel::NotHttp("what came is not HTTP"));
        }
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
    }
    Err(NoTunnel::NotHttp("its answer has no end"))
}

/// The status of an answer.
fn status(head: &str) -> Option<u16> {
    let line = head.lines().next()?;
    let code = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?;
    let (code, rest) = code.split_at_checked(3)?;
    let fits = code.bytes().all(|byte| byte.is_ascii_digit()) && (rest.is_empty() || rest.starts_with(' '));
    code.parse().ok().filter(|code| fits && *code >= 100)
}

/// What a refusal means, in words. Nothing of the answer's own text is repeated.
fn meaning(status: u16, head: &str, proxy: &Proxy) -> String {
    match status {
        // tinyproxy has 401 for a wrong password.
        401 | 407 => {
            let schemes = schemes(head);
            let knows_basic = schemes.is_empty() || schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
            match knows_basic {
                true => proxy.wants_authentication().to_owned(),
                false => {
                    format!("it wants authentication of the kind {}, ssmfwd knows only Basic", schemes.join(" or "))
                }
            }
        }
        400 | 405 | 501 => "it does not make tunnels, or this is no proxy".to_owned(),
        403 => "its rules forbid this host or port".to_owned(),
        500 | 502..=504 => "it cannot reach this host".to_owned(),
        _ => "it does not say why".to_owned(),
    }
}

/// The schemes of authentication that an answer offers.
fn schemes(head: &str) -> Vec<&str> {
    let values = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authenticate").then_some(value.trim())
    });
    let scheme = |value: &'_ str| value.find([' ', ',']).unwrap_or(value.len());
    let schemes = values.map(|value| &value[..scheme(value)]);
    let plain = |scheme: &&str| {
        (1..=20).contains(&scheme.len()) && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    schemes.filter(plain).take(SCHEMES_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::{super::Proxies, *};

    fn proxy(url: &'static str) -> Proxy {
        let proxies = Proxies::from_variables(|name| (name == "HTTPS_PROXY").then(|| url.to_owned()));
        proxies.of(true, "gateway", 443).expect("usable").expect("a proxy")
    }

    /// What the proxy was asked, what became of it, and what could be read after it.
    async fn asked(url: &'static str, answer: &[u8]) -> (String, Result<(), NoTunnel>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(answer).await.expect("room");
        theirs.shutdown().await.expect("open");
        let opened = open(&mut ours, "gateway:443", &proxy(url)).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.expect("in memory");
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.expect("text");
        (request, opened, rest)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_nothing_behind_the_answer_is_taken() {
        for answer in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200\r\nServer: x\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 204 \r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let (request, opened, rest) = asked("http://me:pw@p:1", format!("{answer}\r\n\r\nrest").as_bytes()).await;
            opened.unwrap_or_else(|error| panic!("{answer:?}: {error:?}"));
            assert_eq!(rest, b"\r\n\r\nrest", "{answer:?}");
            let lines: Vec<_> = request.split("\r\n").collect();
            assert_eq!(lines[..2], ["CONNECT gateway:443 HTTP/1.1", "Host: gateway:443"]);
            assert!(lines.contains(&"Proxy-Authorization: Basic bWU6cHc="), "{request}");
            assert_eq!(lines[lines.len() - 2..], ["", ""]);
        }
        let (request, ..) = asked("http://p:1", b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(!request.contains("Authorization"), "{request}");
    }

    #[tokio::test]
    async fn refusals_are_told_in_words() {
        for (url, answer, status, words) in [
            ("http://p", "407 x\r\nProxy-Authenticate: Basic realm=\"x\"", 407, "a user and a password in"),
            ("http://me:pw@p", "407 x\r\nproxy-authenticate: Basic", 407, "does not accept the user"),
            (
                "http://me:pw@p",
                "407 x\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM",
                407,
                "Negotiate or NTLM",
            ),
            ("http://me:pw@p", "407 x\r\nProxy-Authenticate: \u{1b}[31m", 407, "does not accept the user"),
            ("http://p", "403 Forbidden", 403, "rules"),
            ("http://me:pw@p", "401 Unauthorized", 401, "does not accept the user"),
            ("http://p", "500 Unable to connect", 500, "cannot reach"),
            ("http://p", "502 Bad Gateway", 502, "cannot reach"),
            ("http://p", "501 Not Implemented", 501, "no proxy"),
            ("http://p", "302 Found\r\nLocation: http://login", 302, "not say why"),
            ("http://p", "999", 999, "not say why"),
        ] {
            match asked(url, format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.1 {
                Err(NoTunnel::Refused(refused, meaning)) => {
                    assert_eq!(refused, status, "{answer}");
                    assert!(meaning.contains(words) && !meaning.contains('\u{1b}'), "{answer}: {meaning}");
                }
                other => panic!("{answer}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_and_bounded() {
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; HEAD_LIMIT]].concat();
        let hints = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(HEAD_LIMIT / 25 + 1);
        for answer in [
            b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(),
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 +20\r\n\r\n",
            b"HTTP/1.\xff 200\r\n\r\n",
            b"\r\n\r\n",
            &endless,
            &hints,
        ] {
            let (_, opened, _) = asked("http://p", answer).await;
            assert!(matches!(opened, Err(NoTunnel::NotHttp(_))), "{opened:?}");
        }
        for answer in [b"".as_slice(), b"HTTP/1.1 20"] {
            let (_, opened, _) = asked("http://p", answer).await;
            assert!(matches!(opened, Err(NoTunnel::Broken(_))), "{opened:?}");
        }
    }
}
