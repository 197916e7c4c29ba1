//! A page in Chromium without a screen, asked what it shows. Driven over the pipes of its DevTools protocol: one JSON
//! object, one zero byte.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    process::Command,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    program::{find, text},
    service::Service,
};

/// How long a page may take to show something, milliseconds.
const PATIENCE: u32 = 60_000;

/// One browser with one page.
pub(crate) struct Page {
    browser: Service,
    requests: File,
    answers: BufReader<File>,
    /// What was told without being asked.
    events: VecDeque<Value>,
    session: Value,
    next_id: u64,
    folder: TempDir,
}

impl Page {
    pub(crate) fn open(url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [requests, answers] = ["requests", "answers"].map(|name| folder.path().join(name));
        text(Command::new(find("mkfifo", "coreutils")).args([&requests, &answers]));
        let chromium = find("chromium", "chromium");
        // The sandbox needs rights that containers do not give; what is shown is ours.
        let script = "exec \"$0\" --headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
                      --disable-dev-shm-usage --remote-debugging-pipe --user-data-dir=\"$1/profile\" 3<\"$1/requests\" \
                      4>\"$1/answers\"";
        let mut command = Command::new(find("sh", "dash"));
        command.args(["-c", script]).arg(chromium).arg(folder.path()).env("HOME", folder.path());
        let browser = Service::start("chromium", &mut command);
        let requests = OpenOptions::new().write(true).open(requests).expect("a pipe");
        let answers = BufReader::new(File::open(answers).expect("a pipe"));
        let (events, next_id) = (VecDeque::new(), 1);
        let mut page = Self { browser, requests, answers, events, session: Value::Null, next_id, folder };
        let target = page.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attached = page.call("Target.attachToTarget", &json!({"targetId": target["targetId"], "flatten": true}));
        page.session = attached["sessionId"].clone();
        for domain in ["Runtime", "Log", "Page"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.call("Page.navigate", &json!({ "url": url }));
        page
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"id": id, "method": method, "params": parameters});
        if self.session.is_string() {
            request["sessionId"] = self.session.clone();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).expect("it reads");
        loop {
            let mut answer = self.receive();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    fn receive(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).expect("a pipe can be read");
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// The value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until a condition of the page holds.
    #[track_caller]
    pub(crate) fn until(&mut self, condition: &str) {
        let met = self.value(&format!(
            "new Promise(done => {{ const look = () => ({condition}) ? done(true) : setTimeout(look, 50); look(); \
             setTimeout(() => done(false), {PATIENCE}); }})"
        ));
        if met != true {
            let shown = self.value("document.body.innerText");
            panic!("never: {condition}\nshown:\n{}\nlog: {:?}", shown.as_str().unwrap_or_default(), self.events);
        }
    }

    /// Ends the browser. Nothing has failed in the page, and its policy has held nothing back.
    pub(crate) fn close(mut self) {
        self.value("null");
        for event in &self.events {
            let is_failure = event["method"] == "Runtime.exceptionThrown"
                || event["method"] == "Log.entryAdded" && event["params"]["entry"]["source"] != "network";
            assert!(!is_failure, "{event}");
        }
        self.browser.end(Signal::TERM);
        fs::remove_dir_all(self.folder.path().join("profile")).ok();
    }
}
