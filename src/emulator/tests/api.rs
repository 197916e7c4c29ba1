//! The API, the upgrade and the control path.

use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    super::{Action, Credentials, Emulator, EmulatorConfig, EndedBy, UpgradePolicy},
    client::{Client, Form, Last, Signer, authority, call, call_as, exchange, http, soon, start, upgrade},
    echo, emulator, ideal,
};

fn port_session(change: impl FnOnce(&mut Value)) -> Value {
    let mut input = json!({
        "Target": EmulatorConfig::DEFAULT_TARGET,
        "DocumentName": "AWS-StartPortForwardingSession",
        "Parameters": {"portNumber": ["9000"]},
        "Reason": "a test",
    });
    change(&mut input);
    input
}

#[tokio::test]
async fn start_resume_and_terminate_answer_like_the_service() {
    let emulator = emulator();
    let started = call(&emulator, "StartSession", &port_session(|_| ())).await;
    assert_eq!(started.status, 200, "{started:?}");
    assert!(started.head.contains("content-type: application/x-amz-json-1.1") && started.head.contains("date: "));
    let (id, url) = (started.text("SessionId"), started.text("StreamUrl"));
    assert!(id.starts_with("user-") && id.len() == "user-0123456789abcdef0".len(), "{id}");
    let base = format!("ws://{}/v1/data-channel/{id}?role=publish_subscribe&cell-number=", authority(&emulator));
    let cell = url.strip_prefix(&base).unwrap_or_else(|| panic!("{url}"));
    assert!(cell.contains('+') && cell.contains('/'), "{cell}");

    let resumed = call(&emulator, "ResumeSession", &json!({"SessionId": id})).await;
    assert_eq!(resumed.text("SessionId"), id);
    assert_ne!(resumed.text("TokenValue"), started.text("TokenValue"));
    assert_ne!(resumed.text("StreamUrl"), url);

    for _ in 0..2 {
        let terminated = call(&emulator, "TerminateSession", &json!({"SessionId": id})).await;
        assert_eq!((terminated.status, terminated.text("SessionId")), (200, id.clone()));
    }
    let over = call(&emulator, "ResumeSession", &json!({"SessionId": id})).await;
    assert_eq!((over.status, over.body.get("TokenValue")), (200, None));

    let state = emulator.state();
    assert_eq!((state.calls_of("StartSession"), state.calls_of("ResumeSession")), (1, 2));
    assert_eq!((state.sessions_started, state.ended_by(EndedBy::Api), state.live_sessions()), (1, 1, 0));
    let session = &state.sessions[&id];
    assert_eq!((session.reason.as_deref(), session.resumes), (Some("a test"), 1));
    assert_eq!((state.agents, state.errors.len()), (0, 0));
}

#[tokio::test]
async fn bad_requests_get_the_services_error_codes() {
    let emulator = emulator();
    let cases: [(&str, Value); 15] = [
        ("TargetNotConnected", port_session(|input| input["Target"] = "i-0000000000000dead".into())),
        ("InvalidDocument", port_session(|input| input["DocumentName"] = "AWS-NoSuchThing".into())),
        ("ValidationException", port_session(|input| input["DocumentName"] = "no spaces".into())),
        // These take no port.
        ("ValidationException", port_session(|input| input["DocumentName"] = Value::Null)),
        ("ValidationException", port_session(|input| input["DocumentName"] = "AWS-StartInteractiveCommand".into())),
        ("ValidationException", port_session(|input| input["Parameters"] = json!({"portNumber": ["http"]}))),
        ("ValidationException", port_session(|input| input["Parameters"] = json!({"portNumber": ["1", "2"]}))),
        ("ValidationException", port_session(|input| input["Parameters"] = json!({"host": ["x.example"]}))),
        ("ValidationException", port_session(|input| input["Target"] = Value::Null)),
        ("ValidationException", port_session(|input| input["Target"] = "".into())),
        ("ValidationException", port_session(|input| input["Reason"] = "".into())),
        ("SerializationException", port_session(|input| input["Parameters"] = json!({"portNumber": "9000"}))),
        ("SerializationException", json!([1])),
        ("SerializationException", port_session(|input| input["Target"] = json!(5))),
        ("SerializationException", json!("text")),
    ];
    for (code, input) in cases {
        let answer = call(&emulator, "StartSession", &input).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{input}: {answer:?}");
        assert!(answer.head.contains(&format!("x-amzn-errortype: {}", code.to_ascii_lowercase())), "{answer:?}");
    }
    for operation in ["ResumeSession", "TerminateSession"] {
        let answer = call(&emulator, operation, &json!({"SessionId": "user-nobody"})).await;
        assert_eq!(answer.code(), "DoesNotExistException");
        assert_eq!(call(&emulator, operation, &json!({})).await.code(), "ValidationException");
    }
    assert_eq!(call(&emulator, "DeleteEverything", &json!({})).await.code(), "UnknownOperationException");
    assert_eq!(http(&emulator, "GET", "/", &HeaderMap::new(), b"").await.status, 404);
    assert_eq!(emulator.state().sessions_started, 0);
}

#[tokio::test]
async fn signatures_credentials_and_permissions_are_checked() {
    let emulator = emulator();
    let input = port_session(|_| ());
    let good = Signer::default();
    let with = |change: &dyn Fn(&mut Credentials)| {
        let mut signer = good.clone();
        change(&mut signer.credentials);
        signer
    };
    for (code, signer) in [
        ("InvalidSignatureException", with(&|credentials| credentials.secret_access_key.push('x'))),
        ("UnrecognizedClientException", with(&|credentials| credentials.access_key_id.push('x'))),
        ("UnrecognizedClientException", with(&|credentials| credentials.session_token = None)),
        ("InvalidSignatureException", Signer { region: "eu-west-1", ..good.clone() }),
        ("InvalidSignatureException", Signer { ahead: 400, ..good.clone() }),
        ("InvalidSignatureException", Signer { ahead: -400, ..good.clone() }),
    ] {
        assert_eq!(call_as(&emulator, &signer, "StartSession", &input).await.code(), code);
    }
    let mut unsigned = HeaderMap::new();
    unsigned.insert("x-amz-target", "AmazonSSM.StartSession".parse().unwrap());
    let answer = http(&emulator, "POST", "/", &unsigned, b"{}").await;
    assert_eq!(answer.code(), "MissingAuthenticationTokenException");

    emulator.configure(|config| config.clock_skew = 400);
    assert_eq!(call_as(&emulator, &good, "StartSession", &input).await.code(), "InvalidSignatureException");
    assert_eq!(call_as(&emulator, &Signer { ahead: 400, ..good.clone() }, "StartSession", &input).await.status, 200);
    emulator.configure(|config| {
        config.clock_skew = 0;
        config.denied = vec!["StartSession".into()];
    });
    assert_eq!(call(&emulator, "StartSession", &input).await.code(), "AccessDeniedException");
    emulator.configure(|config| config.expired_credentials = true);
    assert_eq!(call(&emulator, "StartSession", &input).await.code(), "ExpiredTokenException");
    emulator.configure(|config| {
        *config = EmulatorConfig { throttle: 2, ..ideal() };
    });
    for code in ["ThrottlingException", "ThrottlingException", ""] {
        assert_eq!(call(&emulator, "StartSession", &input).await.code(), code);
    }
    assert_eq!(emulator.state().errors["ThrottlingException"], 2);
}

#[tokio::test]
async fn each_upgrade_policy_accepts_its_form_and_answers_403_to_the_others() {
    let emulator = emulator();
    let url = start(&emulator, 9).await.text("StreamUrl");
    let forms = [Form::Space, Form::Literal, Form::Unsigned];
    for (policy, accepted) in [
        (UpgradePolicy::Signed, [true, false, false]),
        (UpgradePolicy::SignedLiteralPlus, [false, true, false]),
        (UpgradePolicy::Unsigned, [false, false, true]),
        (UpgradePolicy::Any, [true, true, true]),
    ] {
        emulator.configure(|config| config.upgrade = policy);
        for (form, accepted) in forms.into_iter().zip(accepted) {
            match upgrade(&url, form).await {
                Ok(_) => assert!(accepted, "{policy:?}"),
                Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                    assert!(!accepted && response.status() == 403, "{policy:?}");
                }
                Err(error) => panic!("{policy:?}: {error}"),
            }
        }
    }
    emulator.configure(|config| config.denied = vec!["OpenDataChannel".into()]);
    assert!(upgrade(&url, Form::Space).await.is_err());
    assert!(upgrade(&url, Form::Unsigned).await.is_ok(), "an unsigned upgrade needs no permission");
    let state = emulator.state();
    assert_eq!((state.upgrades_accepted, state.upgrades_refused), (7, 7));
    assert!(upgrade(&url.replace("user-", "nobody-"), Form::Unsigned).await.is_err(), "no such session");
}

#[tokio::test]
async fn a_token_opens_one_websocket_of_its_session_and_url() {
    let emulator = emulator();
    let grant = start(&emulator, 9).await;
    let id = grant.text("SessionId");
    let other = start(&emulator, 9).await;
    let resumed = call(&emulator, "ResumeSession", &json!({"SessionId": id})).await;
    let url = grant.text("StreamUrl");
    for (url, token) in [
        (&url, other.text("TokenValue")),
        (&url, "no such token".into()),
        (&url, resumed.text("TokenValue")), // with the StreamUrl of StartSession
    ] {
        let websocket = upgrade(url, Form::Space).await.unwrap();
        let last = Client::first(websocket, &token).await.last().await;
        assert!(matches!(last, Last::Close(1008, _)), "{last:?}");
    }
    let mut client = Client::open(&grant).await;
    client.until(|client| client.complete).await;
    let last = Client::open(&grant).await.last().await;
    assert!(matches!(last, Last::Close(1008, _)), "a used token: {last:?}");
    let state = emulator.state();
    assert_eq!((state.tokens_refused, state.violation_count), (4, 0));
    assert_eq!(state.sessions[&id].client_version.as_deref(), Some("1.2.764.0"));
}

#[tokio::test]
async fn the_control_path_shows_and_changes_and_acts() {
    let emulator = emulator();
    let path = |name: &str| format!("{}/{name}", emulator.control_url().split_once(authority(&emulator)).unwrap().1);
    let none = HeaderMap::new();
    let (mut client, id) = Client::ready(&emulator, echo().await).await;

    let config = http(&emulator, "GET", &path("config"), &none, b"").await;
    assert_eq!(config.body["targets"], json!([emulator.target()]));
    assert!(!config.body.to_string().contains("AKID"), "{:?}", config.body);
    let changed = http(&emulator, "POST", &path("config"), &none, br#"{"rtt_ms": 2, "faults": {"drop": 0.5}}"#).await;
    assert_eq!((changed.status, &changed.body["rtt_ms"]), (200, &json!(2)));
    assert_eq!(emulator.config().faults.drop, 0.5);
    for bad in [&br#"{"rtt": 2}"#[..], b"{", br#"{"tls": true}"#] {
        assert_eq!(http(&emulator, "POST", &path("config"), &none, bad).await.status, 400);
    }
    emulator.configure(|config| config.faults.drop = 0.0);

    let state = http(&emulator, "GET", &path("state"), &none, b"").await;
    assert_eq!((&state.body["calls"]["StartSession"], &state.body["websockets"]), (&json!(1), &json!(1)));
    assert_eq!(state.body["sessions"][&id]["channel"], "open");

    let action = json!({"action": "channel_closed", "output": "maintenance", "session": id}).to_string();
    let done = http(&emulator, "POST", &path("actions"), &none, action.as_bytes()).await;
    assert_eq!(done.body, json!({"sessions": 1}));
    assert!(matches!(client.last().await, Last::ChannelClosed(output) if output == "maintenance"));
    for bad in [json!({"action": "explode"}), json!({"action": "bye", "sesion": "x"}), json!([])] {
        let refused = http(&emulator, "POST", &path("actions"), &none, bad.to_string().as_bytes()).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
    let nobody = json!({"action": "bye", "session": "nobody"}).to_string();
    assert_eq!(http(&emulator, "POST", &path("actions"), &none, nobody.as_bytes()).await.body, json!({"sessions": 0}));
    assert_eq!(http(&emulator, "GET", &path("nothing"), &none, b"").await.status, 404);
    assert_eq!(emulator.state().ended_by(EndedBy::Service), 1);
    assert_eq!(emulator.act(Action::Bye), 0);
}

#[tokio::test]
async fn custom_documents_and_targets_can_be_added_while_running() {
    let emulator = emulator();
    emulator.configure(|config| {
        config.targets.push("mi-0123456789abcdef0".into());
        let document = json!({
            "parameters": {"portNumber": {"allowed": "port"}},
            "properties": {"type": "LocalPortForwarding", "host": "127.0.0.1", "portNumber": "{{ portNumber }}"},
        });
        config.documents.insert("Team-Database".into(), serde_json::from_value(document).unwrap());
    });
    let input = |parameters: Value| json!({"Target": "mi-0123456789abcdef0", "DocumentName": "Team-Database", "Parameters": parameters});
    let port = echo().await.to_string();
    let answer = call(&emulator, "StartSession", &input(json!({"portNumber": [port]}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(call(&emulator, "StartSession", &input(json!({}))).await.code(), "ValidationException");
}

#[tokio::test]
async fn with_tls_the_certificate_is_vouched_for_by_the_authority_in_the_environment() {
    use rustls_pki_types::pem::PemObject;
    use tokio_rustls::{TlsConnector, rustls};

    let emulator = Emulator::start(EmulatorConfig { tls: true, ..ideal() }).expect("an emulator");
    let env: std::collections::BTreeMap<_, _> = emulator.env().into_iter().collect();
    assert!(env["AWS_ENDPOINT_URL"].starts_with("https://127.0.0.1:"));
    assert_eq!(env["SSL_CERT_FILE"], env["AWS_CA_BUNDLE"]);
    let mut roots = rustls::RootCertStore::empty();
    let authority_certificate = rustls_pki_types::CertificateDer::from_pem_file(&env["SSL_CERT_FILE"]).unwrap();
    roots.add(authority_certificate).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    for name in ["127.0.0.1", "localhost"] {
        let tcp = tokio::net::TcpStream::connect(authority(&emulator)).await.unwrap();
        let mut tls = soon(connector.connect(name.try_into().unwrap(), tcp)).await.expect("a trusted certificate");
        let input = port_session(|_| ()).to_string();
        let plain = [("host", authority(&emulator)), ("x-amz-target", "AmazonSSM.StartSession")];
        let url = format!("{}/", emulator.endpoint_url());
        let headers = Signer::default().sign("POST", &url, "ssm", &plain, input.as_bytes());
        let answer = exchange(&mut tls, "POST", "/", &headers, input.as_bytes()).await;
        assert!(answer.text("StreamUrl").starts_with("wss://127.0.0.1:"), "{answer:?}");
    }
    let file = emulator.ca_file().expect("a file").to_owned();
    drop(emulator);
    assert!(!file.exists() && !file.parent().unwrap().exists());
}
