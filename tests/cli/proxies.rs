//! Proxies: the API and the websocket go through them, or not, as the environment says; and what they refuse is told as
//! theirs.

use ssmfwd::emulator::AgentKind;
use tokio::{net::TcpListener, process::Command};

use crate::harness::{Answer, Destination, Ended, Interceptor, Program, Proxy, World, receive, send};

/// `me@corp` and `p:ss/w%rd`, as they stand in a URL and as they go over the wire.
const USER: &str = "me%40corp:p%3Ass%2Fw%25rd";
const BASIC: &str = "Basic bWVAY29ycDpwOnNzL3clcmQ=";
/// What of it must not be shown.
const SECRETS: [&str; 4] = ["p%3Ass", "p:ss", "bWVAY29ycDpwOnNz", "me%40"];

/// The program with as much of a log as it gives, and an environment in which only these variables speak of proxies.
fn command(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = world.command(&["--output", "json", "--target", World::TARGET, "-vv"]);
    command.env_remove("NO_PROXY").env_remove("no_proxy").args(arguments).envs(variables.iter().copied());
    command
}

/// Opens a forward, uses it, loses the websocket, uses it again, and ends it.
async fn works(world: World, variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = Program::start(command(&world, variables, &[&[forward.as_str()], arguments].concat()));
    let ended = program.works_and_survives(&world).await;
    world.settled().await;
    tells_no_secret(&ended);
    ended
}

/// A run that fails before ready.
async fn fails(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let program = Program::start(command(world, variables, &[&["0:127.0.0.1:9"], arguments].concat()));
    let ended = program.exit().await;
    tells_no_secret(&ended);
    ended
}

#[track_caller]
fn tells_no_secret(ended: &Ended) {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} in\n{said}");
    }
}

fn with_user(proxy: &Proxy) -> String {
    format!("http://{USER}@127.0.0.1:{}", proxy.port)
}

#[tokio::test]
async fn with_tls_the_api_and_every_websocket_go_through_a_tunnel() {
    let world = World::with(|config| config.tls = true);
    let gateway = world.emulator.endpoint_url().trim_start_matches("https://").to_owned();
    let proxy = Proxy::start(Answer::Only(BASIC)).await;
    let ended = works(world, &[("HTTPS_PROXY", &with_user(&proxy)), ("RUST_LOG", "trace")], &[]).await;
    // StartSession, ResumeSession, and a websocket each; a connection that is made ahead may come too late to be used.
    let tunnels = proxy.tunnels();
    assert!(tunnels.len() >= 4 && tunnels.iter().all(|to| *to == gateway), "{tunnels:?}");
    assert_eq!(proxy.heads().len(), tunnels.len());
    // It is said which, without the user.
    let shown = format!("proxy={}", proxy.url());
    assert!(ended.stderr.contains(&shown), "no {shown} in\n{}", ended.stderr);
}

#[tokio::test]
async fn without_tls_the_api_is_asked_by_way_of_the_proxy_and_the_websocket_has_a_tunnel() {
    let world = World::ideal();
    let url = world.emulator.endpoint_url().to_owned();
    let proxy = Proxy::start(Answer::Only(BASIC)).await;
    // Both cases of the name, and the variable for all.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let world = World::ideal();
        works(world, &[(name, &with_user(&proxy))], &[]).await;
    }
    works(world, &[("HTTP_PROXY", &with_user(&proxy)), ("RUST_LOG", "trace")], &[]).await;
    let heads = proxy.heads();
    let here = heads.iter().filter(|head| head.contains(url.trim_start_matches("http://")));
    let (tunnels, asked): (Vec<_>, Vec<_>) = here.partition(|head| head.starts_with("CONNECT "));
    // Who we are is asked too, as far as there is time.
    assert!(tunnels.len() >= 2 && asked.len() >= 2, "{heads:#?}");
    for head in asked {
        assert!(head.starts_with(&format!("POST {url}/ HTTP/1.1\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    for tls in [true, false] {
        let world = World::with(|config| config.tls = tls);
        let front = Interceptor::of(&["localhost"]);
        let proxy = Proxy::with_tls(Answer::Only(BASIC), &front).await;
        // Both authorities are trusted: the proxy's, and the emulator's if it has one.
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("bundle.pem");
        let mut authorities = std::fs::read(front.ca_file()).expect("a file");
        if let Some(file) = world.emulator.ca_file() {
            authorities.extend(std::fs::read(file).expect("a file"));
        }
        std::fs::write(&bundle, authorities).expect("room");
        let url = format!("https://{USER}@localhost:{}", proxy.port);
        works(world, &[("ALL_PROXY", &url), ("AWS_CA_BUNDLE", &bundle.display().to_string())], &[]).await;
        let (tunnels, heads) = (proxy.tunnels(), proxy.heads());
        // Without TLS at the far end calls are told to the proxy itself: two, and the question who we are if there is time.
        let asked = heads.iter().filter(|head| head.starts_with("POST http://")).count();
        assert_eq!(asked + tunnels.len(), heads.len(), "{heads:#?}");
        assert!(if tls { asked == 0 } else { asked >= 2 }, "{heads:#?}");
        assert!(heads.len() >= 4, "{heads:#?}");
    }
}

/// A realistic agent sends in drips, for which the socket is read in a manner of its own; TLS in TLS must not notice.
#[tokio::test]
async fn much_data_passes_tls_in_tls() {
    const BYTES: usize = 1 << 20;
    let world = World::with(|config| (config.tls, config.agent) = (true, AgentKind::Realistic));
    let (front, folder) = (Interceptor::of(&["localhost"]), tempfile::tempdir().expect("a folder"));
    let proxy = Proxy::with_tls(Answer::Serve, &front).await;
    let bundle = folder.path().join("bundle.pem");
    let authorities = [front.ca_file().into(), world.emulator.ca_file().expect("it has one").to_owned()];
    let authorities = authorities.map(|file| std::fs::read(file).expect("a file"));
    std::fs::write(&bundle, authorities.concat()).expect("room");
    let destination = Destination::serve(|mut socket| async move {
        receive(&mut socket, 1, BYTES).await.expect("what was sent");
        send(&mut socket, 2, BYTES).await.expect("an open connection");
    })
    .await;
    let url = format!("https://localhost:{}", proxy.port);
    let variables = [("HTTPS_PROXY", url.as_str()), ("AWS_CA_BUNDLE", &bundle.display().to_string())];
    let program = Program::start(command(&world, &variables, &[&format!("0:127.0.0.1:{}", destination.port)]));
    let mut client = program.connect().await;
    program.within("sending", send(&mut client.0, 1, BYTES)).await.expect("an open connection");
    program.within("receiving", receive(&mut client.0, 2, BYTES)).await.expect("what was sent");
    drop(client);
    world.finish(program).await;
    assert!(proxy.tunnels().len() >= 2);
}

#[tokio::test]
async fn exceptions_are_reached_without_the_proxy() {
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let dead = format!("http://{dead}");
    for (name, value) in [
        ("NO_PROXY", "127.0.0.1"),
        ("no_proxy", "127.0.0.0/8"),
        ("NO_PROXY", "example.com, 127.0.0.1"),
        ("no_proxy", "::/0,0.0.0.0/0"),
    ] {
        works(World::ideal(), &[("HTTP_PROXY", &dead), (name, value)], &[]).await;
    }
    let world = World::with(|config| config.tls = true);
    works(world, &[("HTTPS_PROXY", "socks5://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")], &[]).await;
    // A variable that does not concern it.
    works(World::ideal(), &[("HTTPS_PROXY", &dead)], &[]).await;
}

#[tokio::test]
async fn a_name_is_an_exception_with_all_below_it() {
    let world = World::ideal();
    let url = world.emulator.endpoint_url().replace("127.0.0.1", "localhost");
    works(world, &[("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", ".localhost")], &["--endpoint-url", &url]).await;
}

#[tokio::test]
async fn a_refusal_is_told_as_the_proxys() {
    let say = |words: &str| Answer::Say(words.as_bytes().to_vec());
    let world = World::with(|config| config.tls = true);
    for (answer, user, words) in [
        (Answer::Only(BASIC), "", "HTTP status 407: it wants authentication"),
        (Answer::Only("Basic eDp5"), USER, "HTTP status 407: it does not accept the user and the password"),
        (say("HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n"), USER, "of the kind NTLM"),
        (say("HTTP/1.1 403 Forbidden\r\n\r\n"), USER, "HTTP status 403: its rules forbid this host or port"),
        (say("HTTP/1.1 502 Bad Gateway\r\n\r\n"), USER, "HTTP status 502: it cannot reach this host"),
        (say("SSH-2.0-OpenSSH_9.2\r\n"), USER, "what came is not HTTP"),
        (say(""), USER, "closed the connection without an answer"),
        (Answer::Say([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 20_000]].concat()), USER, "its answer has no end"),
    ] {
        let proxy = Proxy::start(answer).await;
        let url = if user.is_empty() { proxy.url() } else { with_user(&proxy) };
        let ended = fails(&world, &[("HTTPS_PROXY", &url)], &[]).await.expect_status(1);
        let ended = ended.expect_stderr(words).expect_stderr(&format!("the proxy {}", proxy.url()));
        let gateway = world.emulator.endpoint_url().trim_start_matches("https://");
        assert!(ended.stderr.contains(&format!("{gateway} cannot be reached")), "{}", ended.stderr);
        // What is decided is not asked again and again: too many wrong passwords lock an account.
        // Nor is it said by several at once.
        let most = match (words.contains("HTTP status 407") || words.contains("NTLM"), user) {
            // The call, the connection made ahead, who we are and what the target is called.
            (true, "") => 4,
            (true, _) => 1,
            (false, _) if words.contains("403") => 4,
            (false, _) => usize::MAX,
        };
        assert!(proxy.heads().len() <= most, "{words}: {:?}", proxy.heads());
    }
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn a_password_is_missed_without_a_tunnel_too() {
    let world = World::ideal();
    let proxy = Proxy::start(Answer::Only(BASIC)).await;
    let ended = fails(&world, &[("HTTP_PROXY", &proxy.url())], &[]).await.expect_status(1);
    ended.expect_stderr(&format!("the proxy {} refused", proxy.url())).expect_stderr("HTTP status 407");
    let wrong = Proxy::start(Answer::Only("Basic eDp5")).await;
    let ended = fails(&world, &[("HTTP_PROXY", &with_user(&wrong))], &[]).await.expect_status(1);
    ended.expect_stderr(&format!("the proxy {} refused", wrong.url())).expect_stderr("it does not accept the user");
    assert_eq!(wrong.heads().len(), 1, "{:?}", wrong.heads());
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn trouble_with_the_websocket_alone_is_told_as_the_proxys_too() {
    let world = World::ideal();
    let port = world.emulator.endpoint_url().rsplit_once(':').expect("a port").1;
    let words = b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec();
    let proxy = Proxy::start(Answer::SayTo("localhost:", words)).await;
    let elsewhere = format!("ws://localhost:{port}");
    let ended = fails(&world, &[("HTTP_PROXY", &with_user(&proxy))], &["--ssmmessages-endpoint", &elsewhere]).await;
    let refused = format!("the proxy {} refused a tunnel to localhost:{port} with HTTP status 403", proxy.url());
    ended.expect_status(1).expect_stderr("cannot open the data channel").expect_stderr(&refused);
    assert_eq!(world.settled().await.calls_of("StartSession"), 1);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_says_nothing_is_named() {
    let world = World::with(|config| config.tls = true);
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let url = format!("http://{USER}@{dead}");
    let ended = fails(&world, &[("HTTPS_PROXY", &url)], &[]).await.expect_status(1);
    ended.expect_stderr(&format!("cannot connect to the proxy http://{dead}"));

    let hangs = Proxy::start(Answer::Hang).await;
    let ended = fails(&world, &[("HTTPS_PROXY", &with_user(&hangs))], &["--connect-timeout", "60"]).await;
    let ended = ended.expect_status(1).expect_stderr("did not answer in time");
    ended.expect_stderr(&format!("through the proxy {}", hangs.url()));

    // It speaks no TLS.
    let plain = Proxy::start(Answer::Hang).await;
    let url = format!("https://{USER}@localhost:{}", plain.port);
    let ended = fails(&world, &[("HTTPS_PROXY", &url)], &["--connect-timeout", "1"]).await;
    ended.expect_status(1);
    assert!(plain.heads().is_empty());
    assert!(world.settled().await.calls.is_empty());
}

#[tokio::test]
async fn a_proxy_of_an_unknown_kind_is_a_usage_error_and_nothing_goes_past_it() {
    let world = World::ideal();
    for (name, url, words) in [
        ("HTTP_PROXY", "socks5://me:hunter2@127.0.0.1:1080", "HTTP_PROXY names a SOCKS proxy"),
        ("ALL_PROXY", "socks5h://127.0.0.1:1080", "ALL_PROXY names a SOCKS proxy"),
        ("http_proxy", "ftp://127.0.0.1:21", "http_proxy names a proxy of another kind"),
        ("HTTP_PROXY", "http://me:hunter#2@127.0.0.1:1", "HTTP_PROXY is not of the form"),
    ] {
        let ended = fails(&world, &[(name, url)], &[]).await.expect_status(2);
        let ended = ended.expect_stderr("the AWS configuration cannot be used").expect_stderr(words);
        assert!(!ended.stderr.contains("hunter"), "{}", ended.stderr);
    }
    assert!(world.settled().await.calls.is_empty());
}
