//! A running emulator, as its owner holds it.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    Action, EmulatorConfig, EmulatorState, control,
    server::{self, Server},
    service::Service,
    sso::IdentityCenter,
    tls::{self, AuthorityFile},
};

/// Threads for websockets and destinations, beside one thread per session.
const RUNTIME_THREADS: usize = 2;
/// How long the runtime may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A running emulator: an SSM API, a message gateway and agents, on one port of loopback.
///
/// It lives on threads of its own, so that it works under any runtime or none, and a client's single-threaded test is
/// not slowed down by it. Dropping it stops it.
///
/// ```no_run
/// use ssmfwd::emulator::{Emulator, EmulatorConfig, EndedBy};
///
/// # async fn example() -> std::io::Result<()> {
/// let emulator = Emulator::start(EmulatorConfig::default())?;
/// println!("{} {:?}", emulator.endpoint_url(), emulator.env());
/// emulator.configure(|config| config.rtt = std::time::Duration::from_millis(50));
/// // ... a client starts and ends a session ...
/// let state = emulator.wait_for(|state| state.ended_by(EndedBy::Flag) == 1).await;
/// assert_eq!(state.violation_count, 0);
/// # Ok(())
/// # }
/// ```
pub struct Emulator {
    service: Arc<Service>,
    endpoint_url: String,
    authority_file: Option<AuthorityFile>,
    stop: CancellationToken,
    /// `None` only while dropping.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("endpoint_url", &self.endpoint_url).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Variables that would lead an AWS client elsewhere although all of [`env`](Self::env) is set: to be removed from
    /// the environment of a client.
    pub const CONFLICTING_ENV: &[&str] = &[
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_ENDPOINT_URL_SSM",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];

    /// Starts an emulator; when this returns, its port is open.
    ///
    /// # Errors
    /// When the port is taken, a certificate cannot be made, or the system has no threads to give.
    pub fn start(config: EmulatorConfig) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
        let listener = std::net::TcpListener::bind(address)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        listener.set_nonblocking(true)?;
        let authority = listener.local_addr()?.to_string();
        let (tls, authority_file) = config.tls.then(tls::authority).transpose()?.unzip();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("emulator")
            .enable_all()
            .build()?;
        let endpoint_url = format!("{}://{authority}", if tls.is_some() { "https" } else { "http" });
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let identity_center = IdentityCenter::new(config.seed);
        let service = Service::new(config, runtime.handle().clone());
        let server = Arc::new(Server { service: Arc::clone(&service), identity_center, tls, authority });
        let stop = CancellationToken::new();
        runtime.spawn(server::run(server, listener, stop.clone()));
        Ok(Self { service, endpoint_url, authority_file, stop, runtime: Some(runtime) })
    }

    /// Where API calls go, such as `http://127.0.0.1:4566`. Without a slash at the end.
    #[must_use]
    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// Where the control path is: `state`, `config` and `actions` below it. Plain HTTP even with TLS, and served in an
    /// outage too.
    #[must_use]
    pub fn control_url(&self) -> String {
        let authority = self.endpoint_url.split_once("://").map_or(self.endpoint_url.as_str(), |(_, rest)| rest);
        format!("http://{authority}{}", control::PATH)
    }

    /// A target whose agent is connected: the first of the configuration.
    #[must_use]
    pub fn target(&self) -> String {
        self.service.config().targets.first().cloned().unwrap_or_else(|| EmulatorConfig::DEFAULT_TARGET.into())
    }

    /// The certificate authority in PEM form, if the emulator serves TLS. The file goes with the emulator.
    #[must_use]
    pub fn ca_file(&self) -> Option<&std::path::Path> {
        self.authority_file.as_ref().map(AuthorityFile::path)
    }

    /// Variables that point an AWS client here, and keep the configuration of this machine's user out of it. They
    /// contain the emulated credentials, which open nothing else.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let config = self.service.config();
        let nothing = if cfg!(windows) { "NUL" } else { "/dev/null" };
        let mut env = vec![
            ("AWS_ENDPOINT_URL", self.endpoint_url.as_str()),
            ("AWS_ACCESS_KEY_ID", &config.credentials.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &config.credentials.secret_access_key),
            ("AWS_SESSION_TOKEN", config.credentials.session_token.as_deref().unwrap_or_default()),
            ("AWS_REGION", &config.region),
            ("AWS_DEFAULT_REGION", &config.region),
            ("AWS_CONFIG_FILE", nothing),
            ("AWS_SHARED_CREDENTIALS_FILE", nothing),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_PAGER", ""),
            ("NO_PROXY", "127.0.0.1,localhost,::1"),
            ("no_proxy", "127.0.0.1,localhost,::1"),
        ];
        let ca_file = self.ca_file().map(|file| file.display().to_string());
        if let Some(file) = &ca_file {
            env.extend([("SSL_CERT_FILE", file.as_str()), ("AWS_CA_BUNDLE", file)]);
        }
        env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The same as [`env`](Self::env) for a client in this process: the address, the region and the credentials.
    #[must_use]
    pub fn sdk_config(&self) -> aws_types::SdkConfig {
        let config = self.config();
        let credentials = aws_credential_types::Credentials::new(
            &config.credentials.access_key_id,
            &config.credentials.secret_access_key,
            config.credentials.session_token.clone(),
            None,
            "emulator",
        );
        aws_types::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(config.region))
            .endpoint_url(&self.endpoint_url)
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(credentials))
            .build()
    }

    /// The configuration as it is now.
    #[must_use]
    pub fn config(&self) -> EmulatorConfig {
        EmulatorConfig::clone(&self.service.config())
    }

    /// Changes the configuration; live sessions obey at once, except for what an agent is born with. Changes of
    /// what is fixed once started have no effect.
    pub fn configure(&self, change: impl FnOnce(&mut EmulatorConfig)) {
        self.service.configure(change);
    }

    /// Does something to all live sessions that have had a websocket, or to whatever the action names. Says how many
    /// sessions there were.
    pub fn act(&self, action: Action) -> usize {
        self.service.act(None, &action)
    }

    /// Does something to one session. Says whether it is live and has had a websocket.
    pub fn act_on(&self, session: &str, action: Action) -> bool {
        self.service.act(Some(session), &action) > 0
    }

    /// What has happened so far.
    #[must_use]
    pub fn state(&self) -> EmulatorState {
        self.service.snapshot()
    }

    /// Waits until the state is as described, and returns it. Waits for ever if that never happens: put a
    /// [`timeout`](tokio::time::timeout) around it.
    ///
    /// # Panics
    /// Never: the state lives as long as the emulator.
    pub async fn wait_for(&self, condition: impl FnMut(&EmulatorState) -> bool) -> EmulatorState {
        let mut watch = self.service.watch();
        let state = watch.wait_for(condition).await;
        #[expect(clippy::expect_used, reason = "the sender is owned by `self`")]
        let state = state.expect("the state lives as long as the emulator");
        state.clone()
    }
}

#[cfg(test)]
impl Emulator {
    /// Ends when the last part of the emulator has gone.
    pub(super) fn service_watch(&self) -> tokio::sync::watch::Receiver<EmulatorState> {
        self.service.watch()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
        self.service.stop();
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed in async code, where emulators are often dropped.
            if tokio::runtime::Handle::try_current().is_ok() {
                runtime.shutdown_background();
            } else {
                runtime.shutdown_timeout(STOP_LIMIT);
            }
        }
    }
}
