//! What a machine tells its programs: the metadata service of an instance, or the agent of a container.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// An answer: status and body.
pub(crate) type Answer = (u16, String);

/// A small HTTP server on loopback.
pub(crate) struct Machine {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Machine {
    /// Answers requests, given as their first line and their headers in lower case.
    pub(crate) async fn answering(answer: impl Fn(&str, &[String]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (asked, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(answer));
        let record = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                // A client that goes away is no failure of a test.
                tokio::spawn(async move { serve(socket, &record, &*answer).await.ok() });
            }
        });
        Self { url, asked, task }
    }

    /// An instance with a role, behind tokens as IMDSv2 has them.
    pub(crate) async fn instance(keys: String) -> Self {
        Self::answering(move |request, headers| {
            let with_token = headers.iter().any(|header| header == "x-aws-ec2-metadata-token: imds-token");
            let path = request.split(' ').nth(1).unwrap_or_default();
            match path.trim_end_matches('/') {
                "/latest/api/token" if request.starts_with("PUT ") => (200, "imds-token".into()),
                _ if !with_token => (401, String::new()),
                "/latest/meta-data/iam/security-credentials" => (200, "bastion-role".into()),
                "/latest/meta-data/iam/security-credentials/bastion-role" => (200, keys.clone()),
                _ => (404, String::new()),
            }
        })
        .await
    }

    /// First lines of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: TcpStream,
    record: &Mutex<Vec<String>>,
    answer: &(impl Fn(&str, &[String]) -> Answer + ?Sized),
) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut request = String::new();
        if socket.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).await?;
            match line.trim_end() {
                "" => break,
                header => {
                    let (name, value) = header.split_once(':').unwrap_or((header, ""));
                    headers.push(format!("{}:{value}", name.to_ascii_lowercase()));
                }
            }
        }
        let length = headers.iter().find_map(|header| header.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        socket.read_exact(&mut body).await?;
        record.lock().expect("no panic").push(request.trim_end().to_owned());
        let (status, body) = answer(&request, &headers);
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600";
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{ttl}\r\n\r\n{body}", body.len());
        socket.write_all(head.as_bytes()).await?;
    }
}
