//! For tests: a service in memory that gives canned answers and remembers what it was asked, and fixed clocks.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use aws_types::sdk_config::{SharedTimeSource, TimeSource};

/// Tue, 14 Nov 2023 22:13:20 GMT.
pub(super) const DATE: u64 = 1_700_000_000;

pub(super) fn seconds(unix: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
}

/// A clock that stands still.
pub(super) fn at(unix: u64) -> SharedTimeSource {
    #[derive(Debug)]
    struct Still(SystemTime);
    impl TimeSource for Still {
        fn now(&self) -> SystemTime {
            self.0
        }
    }
    SharedTimeSource::new(Still(seconds(unix)))
}

/// A clock that goes only by hand.
#[derive(Debug, Clone)]
pub(super) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(super) fn at(unix: u64) -> Self {
        Self(Arc::new(AtomicU64::new(unix)))
    }

    pub(super) fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(super) fn source(&self) -> SharedTimeSource {
        SharedTimeSource::new(self.clone())
    }
}

impl TimeSource for Hand {
    fn now(&self) -> SystemTime {
        seconds(self.0.load(Ordering::Relaxed))
    }
}

/// One answer.
#[derive(Debug)]
pub(super) enum Answer {
    Http { status: u16, body: String, date: Option<&'static str> },
    Broken(ConnectorError),
    Silence,
}

impl Answer {
    pub(super) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Http { status, body: body.into(), date: None }
    }

    pub(super) fn refused(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "__type": format!("com.amazonaws.ssm#{code}"), "message": message });
        Self::json(status, body.to_string())
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) operation: String,
    pub(super) uri: String,
    pub(super) body: String,
    pub(super) authorization: String,
    /// The access token in a request to the SSO portal.
    pub(super) bearer: String,
}

/// The service. Cheap to clone. Asked more often than it has answers, it fails.
#[derive(Debug, Clone, Default)]
pub(super) struct Canned {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Canned {
    pub(super) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), asked: Arc::default() }
    }

    /// Answers after those that are left.
    pub(super) fn more(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().expect("no panic before").extend(answers);
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic before").clone()
    }

    /// A configuration that talks to this service, with good credentials, one try a call, and a clock at [`DATE`].
    pub(super) fn config(&self) -> SdkConfig {
        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("AKIDEXAMPLE", "SECRETKEY", Some("SESSIONTOKEN".to_owned()), None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .time_source(at(DATE))
            .build()
    }
}

impl HttpConnector for Canned {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = |name| request.headers().get(name).unwrap_or_default().to_owned();
        self.asked.lock().expect("no panic before").push(Asked {
            operation: header("x-amz-target").trim_start_matches("AmazonSSM.").to_owned(),
            uri: request.uri().to_owned(),
            body: String::from_utf8_lossy(request.body().bytes().unwrap_or_default()).into_owned(),
            authorization: header("authorization"),
            bearer: header("x-amz-sso_bearer_token"),
        });
        match self.answers.lock().expect("no panic before").pop_front() {
            Some(Answer::Http { status, body, date }) => {
                let status = StatusCode::try_from(status).expect("a status");
                let mut response = HttpResponse::new(status, SdkBody::from(body));
                response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
                if let Some(date) = date {
                    response.headers_mut().insert("date", date);
                }
                HttpConnectorFuture::ready(Ok(response))
            }
            Some(Answer::Broken(error)) => HttpConnectorFuture::ready(Err(error)),
            Some(Answer::Silence) => HttpConnectorFuture::new(std::future::pending()),
            None => HttpConnectorFuture::ready(Err(ConnectorError::user("no answer left".into()))),
        }
    }
}
