//! Bounds of the state machine, each with its reason. A hostile or broken peer meets one of these, never the
//! machine's memory.

use std::time::Duration;

/// Unacknowledged messages in flight per session. The genuine agent stores 100,000 early ones, so this is ours: at
/// 1024 bytes a message it fills a path of 1 MiB.
pub const IN_FLIGHT_MESSAGES: usize = 1024;
/// Unacknowledged bytes in flight per session: what one agent's shared smux bucket can hold.
pub const IN_FLIGHT_BYTES: usize = 4 << 20;
/// Distance in sequence numbers between the oldest unacknowledged message and the newest sent: bounds the records of
/// messages that were acknowledged out of order while the oldest is being retransmitted.
pub const IN_FLIGHT_SPAN: usize = 4 * IN_FLIGHT_MESSAGES;
/// Unacknowledged bytes of all sessions of the process together.
pub const IN_FLIGHT_BYTES_PROCESS: usize = 16 << 20;

/// Messages that arrived ahead of an expected one. Beyond it they are not stored and not acknowledged: the agent
/// sends them again.
pub const EARLY_MESSAGES: usize = 4096;
/// Bytes of messages that arrived ahead of an expected one.
pub const EARLY_BYTES: usize = 4 << 20;

/// Acknowledgements waiting to be written. Beyond it the newest are dropped: the agent sends again what it misses.
pub const WAITING_ACKNOWLEDGEMENTS: usize = 4096;
/// Received sequence numbers that are acknowledged again after a resume: a lost acknowledgement costs the agent,
/// which resends only its oldest message, 100 ms each.
pub const REMEMBERED_RECEIPTS: usize = 1024;

/// Bytes of one stream that wait to be sent; then its writer waits.
pub const STREAM_UNSENT: usize = 64 << 10;
/// Bytes received for one stream and not read yet; what is above is parked.
pub const STREAM_UNREAD: usize = 1 << 20;
/// Parked bytes of one session; when spent, the websocket is not read any more.
pub const PARKED_BYTES: usize = 8 << 20;
/// Parked bytes of all sessions of the process together.
pub const PARKED_BYTES_PROCESS: usize = 24 << 20;
/// What every session may use of a process-wide budget, however full it is, so that none can be starved.
pub const PROCESS_BUDGET_FLOOR: usize = 64 << 10;
/// How long a stream whose reader is stopped may hold up the other streams of its session.
pub const SLOW_READER: Duration = Duration::from_secs(30);

/// Streams of one session that are open at the same time: more than file descriptors allow on common agents.
pub const OPEN_STREAMS: usize = 16_384;
/// Streams that were closed here and whose FIN from the agent is still awaited.
pub const TOMBSTONES: usize = 16_384;

/// Largest payload of a data message in bytes: what the genuine client sends.
pub const PAYLOAD: usize = 1024;
/// Bytes of one stream that go into a message before the next stream has its turn.
pub const QUANTUM: usize = 4096;

/// Malformed messages in a row before the session is given up.
pub const MALFORMED_MESSAGES: u32 = 64;

/// Client actions of a handshake request that are answered; the genuine agent asks for two at most.
pub const CLIENT_ACTIONS: usize = 16;
/// Characters of a name in a handshake request that are repeated, in the response or in an error.
pub const NAME: usize = 64;

/// From the first websocket to the end of the handshake. The agent itself gives up after 15 s.
pub const HANDSHAKE: Duration = Duration::from_secs(30);
/// First wait before the shield is sent again; doubles (`proto-notes/handshake.md#shield`).
pub const SHIELD_RETRY: Duration = Duration::from_millis(30);
/// How long new data is held after `pause_publication` if nothing else lifts the pause.
pub const PAUSE: Duration = Duration::from_secs(10);
/// How long the end waits for queued data to be acknowledged.
pub const DRAIN: Duration = Duration::from_secs(1);
/// How long the end waits for the acknowledgement of the TerminateSession flag: as long as the agent waits.
pub const TERMINATE: Duration = Duration::from_secs(2);
/// Unacknowledged data and nothing from the agent for this long is worth a word.
pub const STALLED: Duration = Duration::from_secs(10);
/// And for this long, the session is given up: a stalled destination and an agent that is gone look the same.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a session that waits for room in the process-wide budget looks for it: other sessions do not wake it.
pub const RECHECK: Duration = Duration::from_millis(100);
/// smux keepalive for agents that expect one (they cut a silent session after 30 s).
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// Least silence before another connection may use a basic-mode session.
pub const SETTLE: Duration = Duration::from_millis(50);
