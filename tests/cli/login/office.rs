//! Somebody who uses an emulated Identity Center: a home directory, a browser, what a token looks like.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use ssmfwd::emulator::{EmulatorConfig, SsoConfig};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::harness::{Destination, Ended, Program, World, within};

/// Where tokens are, below the home directory.
pub(crate) const CACHE: &str = ".aws/sso/cache";

/// The file of the session `corp`: the SHA-1 of its name.
pub(crate) const CORP: &str = "ee0bfd2552fbd840c02cc48b6e823320543c450f.json";

/// An emulated Identity Center, and a home directory of somebody who uses it.
pub(crate) struct Office {
    pub(crate) world: World,
    pub(crate) home: TempDir,
}

impl Office {
    pub(crate) fn with(change: impl FnOnce(&mut EmulatorConfig)) -> Self {
        let office = Self { world: World::with(change), home: tempfile::tempdir().expect("a folder") };
        let start_url = SsoConfig::START_URL;
        office.write_config(&format!(
            "[profile dev]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Ops\n\n\
             [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = {start_url}\n\
             sso_registration_scopes = sso:account:access\n\n\
             [profile old]\nsso_region = eu-west-1\nsso_start_url = {start_url}\nsso_account_id = 123456789012\n\
             sso_role_name = Ops\n\n\
             [profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\n\n\
             [profile both]\nsso_session = corp\nsso_region = eu-west-1\nsso_start_url = {start_url}\n\n\
             [profile keys]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = x\n"
        ));
        office
    }

    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.home.path().join("aws-config")
    }

    pub(crate) fn write_config(&self, text: &str) {
        fs::write(self.config_file(), text).expect("written");
    }

    /// The program without keys in its environment, without PATH, and so without a browser.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command.env("HOME", self.home.path()).env("AWS_CONFIG_FILE", self.config_file());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::start(self.command(arguments))
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).exit().await
    }

    /// The only token there is, and its file.
    pub(crate) fn token_file(&self) -> (PathBuf, Value) {
        let folder = self.home.path().join(CACHE);
        let files: Vec<_> = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
        let [file] = &files[..] else { panic!("{files:?}") };
        (file.clone(), serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON"))
    }

    /// Changes the only token there is.
    pub(crate) fn change_token(&self, change: impl FnOnce(&mut Value)) {
        let (file, mut token) = self.token_file();
        change(&mut token);
        fs::write(file, token.to_string()).expect("written");
    }

    pub(crate) fn expire_token(&self) {
        self.change_token(|token| token["expiresAt"] = "2023-11-14T22:13:20Z".into());
    }

    /// A login by a code that nobody has to type in.
    pub(crate) async fn log_in(&self, arguments: &[&str]) -> Ended {
        self.world.emulator.configure(|config| config.sso.auto_device = true);
        self.run(&[&["login", "--device"], arguments].concat()).await.expect_status(0)
    }

    pub(crate) fn calls_of(&self, operation: &str) -> u64 {
        self.world.emulator.state().calls_of(operation)
    }
}

/// An answer of a server.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

/// One request, as a browser that knows nothing.
async fn request(method: &str, url: &str, body: &str) -> Answer {
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("an address");
    let mut socket = within("connecting", TcpStream::connect(authority)).await.expect("a listener");
    let length = body.len();
    let text = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(text.as_bytes()).await.expect("it is open");
    let mut answer = String::new();
    within("an answer", socket.read_to_string(&mut answer)).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) async fn visit(url: &str) -> Answer {
    request("GET", url, "").await
}

impl Answer {
    fn attribute(&self, start: &str) -> &str {
        let value = self.body.split_once(start).and_then(|(_, rest)| rest.split_once('"'));
        value.unwrap_or_else(|| panic!("no {start} in {}", self.body)).0
    }

    pub(crate) fn location(&self) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix("location: "));
        line.unwrap_or_else(|| panic!("no location in {}", self.head))
    }

    /// Presses a button of a form.
    pub(crate) async fn press(&self, page: &str, decision: &str) -> Self {
        assert_eq!(self.status, 200, "{}", self.body);
        let origin = page.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let (name, value) = (self.attribute("name=\""), self.attribute("value=\""));
        let url = format!("{origin}{}", self.attribute("action=\""));
        request("POST", &url, &format!("{name}={value}&decision={decision}")).await
    }
}

/// The address that the program shows.
pub(crate) async fn shown(program: &Program, part: &str) -> String {
    program.line(part).await.strip_prefix("ssmfwd: ").expect("a line of ours").to_owned()
}

/// The value of a parameter in an address.
pub(crate) fn parameter(url: &str, name: &str) -> String {
    let url = url::Url::parse(url).expect("an address");
    url.query_pairs().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name} in {url}")).1.into_owned()
}

/// Plays the browser from the login page to the program's own.
pub(crate) async fn decide(program: &Program, decision: &str) -> Answer {
    let url = shown(program, "/authorize?").await;
    let back = visit(&url).await.press(&url, decision).await;
    assert_eq!(back.status, 303);
    visit(back.location()).await
}

/// What a token's file looks like after a login to `corp`.
pub(crate) fn check_token(file: &Path, token: &Value, renewable: bool) {
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(file.parent().expect("a folder"))), (0o600, 0o700));
    let keys: Vec<_> = token.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = vec![
        "accessToken",
        "clientId",
        "clientSecret",
        "expiresAt",
        "refreshToken",
        "region",
        "registrationExpiresAt",
        "startUrl",
    ];
    expected.retain(|key| renewable || *key != "refreshToken");
    assert_eq!(keys, expected);
    assert_eq!((&token["region"], &token["startUrl"]), (&"eu-west-1".into(), &SsoConfig::START_URL.into()));
    for key in ["expiresAt", "registrationExpiresAt"] {
        let time = token[key].as_str().expect("a time");
        // The SDK writes fractions when it renews a token.
        assert!(time.len() >= 20 && time.ends_with('Z'), "{time}");
    }
}

/// A forward works with what is there.
pub(crate) async fn forwards(office: &Office, profile: &str) {
    let echo = Destination::echo().await;
    let forward = format!("0:127.0.0.1:{}", echo.port);
    let program = office.start(&[&forward, "-t", World::TARGET, "--profile", profile, "--output", "json"]);
    program.connect().await.echo(b"hello").await;
    program.signal(rustix::process::Signal::TERM);
    program.exit().await.expect_status(143);
}
