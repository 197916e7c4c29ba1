//! The switches of the emulated agent.

use std::time::Duration;

use super::SealFault;

/// How the agent behaves. [`realistic`](Self::realistic) is the genuine agent, quirks included; [`ideal`](Self::ideal)
/// drops the pacing and the serial dialling, never other semantics.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Behaviour {
    /// Largest payload of a message to the client, bytes (1024).
    pub chunk: usize,
    /// From one message of data to the client to the next (1.33 ms; zero in `ideal`). The genuine agent sleeps 1.11 ms
    /// and needs the rest to read, frame and send. With what a timer is late, this makes its 0.73 MB/s.
    pub pace: Duration,
    /// Most unacknowledged messages to the client before the pump waits. The genuine agent has no such window and
    /// `realistic` neither, its pacing does without; `ideal` would fill its outgoing buffer at once (1024).
    pub window: Option<usize>,
    /// Whether a destination that is being dialled holds up the streams behind it (true; false in `ideal`).
    pub serial_dial: bool,
    /// Stream-data messages after HandshakeComplete that are acknowledged and thrown away (0).
    pub swallow_early: u32,
    /// Stream-data messages after those that are refused: not acknowledged, not processed (0). Each arrival counts,
    /// retransmissions included.
    pub refuse_early: u32,
    /// How long after a message was sent it is put into the outgoing buffer: an acknowledgement that comes sooner is
    /// lost, and the message is sent again. The genuine agent needs about 200 µs on loopback (0: off).
    pub store_delay: Duration,
    /// Ends the session right after the handshake with this text (none).
    pub refusal: Option<String>,
    /// The session type that the handshake names (none: that of the session).
    pub session_type: Option<String>,
    /// The handshake asks for payloads sealed with a data key of this KMS key (none: the genuine agent never asks in
    /// port sessions).
    pub kms_key: Option<String>,
    /// Whether a client that does not bind its data key to the challenge is refused: the genuine agent's option
    /// `RequireKMSChallengeResponse` (false).
    pub require_challenge: bool,
    /// One wrong seal (none).
    pub seal_fault: Option<SealFault>,
    /// How long the output of a program on a pty is left alone after its start, and after which the failure of a
    /// program without one is told (1 s; zero in `ideal`).
    pub shell_wait: Duration,
    /// Whether input is changed as on Windows: line feeds become carriage returns in a payload without CR LF (false).
    pub windows: bool,
    /// Whether sessions to link-local service addresses are refused (true).
    pub deny_list: bool,
    /// Whether the agent's worker dies without a word when the first dial of a basic or raw session fails, as the
    /// genuine one does (true), or ends the session with a text as its source intends.
    pub crash_when_refused: bool,
    /// Bytes of client data between the websocket reader and the mux; also of destination data between the mux and
    /// the pump (212,992, Linux's default for a local socket).
    pub local_socket: usize,
    /// Bytes of received data that all streams of a session share (4 MiB); at zero no frame is read any more.
    pub receive_bucket: usize,
    /// Opened streams that wait to be dialled (1024); beyond it no frame is read any more.
    pub accept_backlog: usize,
}

impl Behaviour {
    /// The genuine agent. Early refusals and lost acknowledgements depend on luck there and are off here.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            chunk: 1024,
            pace: Duration::from_micros(1330),
            window: None,
            serial_dial: true,
            swallow_early: 0,
            refuse_early: 0,
            store_delay: Duration::ZERO,
            refusal: None,
            session_type: None,
            kms_key: None,
            require_challenge: false,
            seal_fault: None,
            shell_wait: Duration::from_secs(1),
            windows: false,
            deny_list: true,
            crash_when_refused: true,
            local_socket: 212_992,
            receive_bucket: 4 << 20,
            accept_backlog: 1024,
        }
    }

    /// The same agent in no hurry to sleep: no pacing, destinations dialled side by side, shells read at once.
    #[must_use]
    pub fn ideal() -> Self {
        Self {
            pace: Duration::ZERO,
            window: Some(1024),
            serial_dial: false,
            shell_wait: Duration::ZERO,
            ..Self::realistic()
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::realistic()
    }
}
