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
/// Bytes from the oldest unacknowledged message to the newest sent: messages share memory with their neighbours, so one
/// that is not acknowledged keeps others.
pub const IN_FLIGHT_SPAN_BYTES: usize = 4 * IN_FLIGHT_BYTES;
/// Unacknowledged bytes of all sessions of the process together: four that are full, for the same reason.
pub const IN_FLIGHT_BYTES_PROCESS: usize = 16 << 20;

/// Messages that arrived ahead of an expected one. Beyond it they are not stored and not acknowledged: the agent
/// sends them again.
pub const EARLY_MESSAGES: usize = 4096;
/// Bytes of messages that arrived ahead of an expected one.
pub const EARLY_BYTES: usize = 4 << 20;

/// Acknowledgements waiting to be written. Beyond it the newest are dropped: the agent sends again what it misses, but
/// at ten a second, so this is generous: 45 s of its pump, or a moment of an agent without one, in less than a
/// megabyte.
pub const WAITING_ACKNOWLEDGEMENTS: usize = 32_768;
/// Received sequence numbers that are acknowledged again after a resume: a lost acknowledgement costs the agent,
/// which resends only its oldest message, 100 ms each. About 1.4 s of its pump, more than is under way at any round
/// trip.
pub const REMEMBERED_RECEIPTS: usize = 1024;

/// Bytes of one stream that wait to be sent; then its writer waits. Enough to fill messages while the writer is woken;
/// what is more only moves the queue from the kernel to us.
pub const STREAM_UNSENT: usize = 64 << 10;
/// Bytes received for one stream and not read yet; what is above is parked. More than a second of the agent's pump: a
/// reader that is merely slow does not show.
pub const STREAM_UNREAD: usize = 1 << 20;
/// Bytes received for all streams of all sessions of the process and not read yet, beside what is parked. A session
/// that holds part of what is too much is not read. Many readers that have stopped, each within its own bound, must not
/// add up to the memory of the process: with what is parked and in flight this leaves a session well below 64 MB.
pub const UNREAD_PROCESS: usize = 24 << 20;
/// What each session may hold, however much the others do: readers that have stopped there must not stop those that are
/// merely slow here.
pub const UNREAD_FLOOR: usize = 4 << 20;
/// Received data may keep the websocket's read buffers alive until the session has received so many bytes more; then it
/// is copied out. A reader that keeps up is a batch of the websocket's behind, and what is kept alive beside what is
/// counted stays below a stream's own bound.
pub const RECENT: u64 = 256 << 10;
/// Full messages in a row, with nothing sent in between, that are a download: somewhat more than what most answers
/// consist of.
pub const DOWNLOAD: u32 = 32;
/// Websockets that may be lost with the same large message at the head, with nothing acknowledged in between, until it
/// is suspected: one is chance, two are bad luck or a bad network.
pub const KILLS: u32 = 2;
/// And so many more that last without it for [`STEADY`] and are lost right after it, until it is taken for too large.
pub const PROOFS: u32 = 2;
/// Parked bytes of one session; when spent, the websocket is not read any more. As much as one pump sends in 11 s, so
/// that a reader has time before the others of its session feel it.
pub const PARKED_BYTES: usize = 8 << 20;
/// Parked bytes of all sessions of the process together: three that are stopped, in a program that stays below 64 MB.
pub const PARKED_BYTES_PROCESS: usize = 24 << 20;
/// What every session may use of a process-wide budget, however full it is, so that none can be starved: one stream's
/// unsent data.
pub const PROCESS_BUDGET_FLOOR: usize = 64 << 10;
/// How long a stream whose reader is stopped may hold up the other streams of its session: half of the minute after
/// which the agent, unheard, gives its websocket up.
pub const SLOW_READER: Duration = Duration::from_secs(30);

/// Streams of one session that are open at the same time: more than file descriptors allow on common agents.
pub const OPEN_STREAMS: usize = 16_384;
/// Streams that were closed here and whose FIN from the agent is still awaited: as many as may be open. The oldest is
/// forgotten beyond it, and a late refusal may then be blamed on another.
pub const TOMBSTONES: usize = 16_384;

/// Payload of a data message in bytes that passes everywhere: what the genuine client sends. Larger ones have to be
/// tried first (`proto-notes/sending.md#payload-size`).
pub const PAYLOAD: usize = 1024;
/// Largest payload that is tried unless told otherwise: the most that an independent client has used against the real
/// service. The genuine agent gains nothing from more.
pub const PAYLOAD_MAX: usize = 32 << 10;
/// Largest payload that may be asked for: the most that was tried on the genuine agent.
pub const PAYLOAD_LIMIT: usize = 64 << 10;
/// Data messages a second and session unless told otherwise: above about 1000 the service was seen to pause sessions,
/// and then to drop them (`proto-notes/sending.md#rate`).
pub const MESSAGE_RATE: u32 = 900;
/// Bytes of one stream that go into a message before the next stream has its turn: a write of a terminal or a query
/// passes at once, and a frame header costs 0.2 %.
pub const QUANTUM: usize = 4096;

/// Payload of a message for streams that had nothing to send until now, which does not wait for a window that bulk data
/// keeps full: what always passes, and no burden on any path.
pub const URGENT: usize = PAYLOAD;

/// Malformed messages in a row on one websocket before the session is given up: on TLS none is ever damaged by chance,
/// and a peer of another version may send a few that we cannot read.
pub const MALFORMED_MESSAGES: u32 = 64;

/// Client actions of a handshake request that are answered; the genuine agent asks for two at most.
pub const CLIENT_ACTIONS: usize = 16;
/// Characters of the id of a KMS key: the most that KMS takes.
pub const KEY_ID: usize = 2048;
/// Characters of the challenge for the encryption context, and bytes of the challenge that is to be sealed: the genuine
/// agent's have 24 and 64.
pub const CHALLENGE: usize = 1024;
/// Ranges of nonces that are remembered, twice: of an agent that draws them at random, as many of its last messages, in
/// a hundred kilobytes.
pub const NONCE_RANGES: usize = 1024;
/// Characters of a text for people that are kept: why the channel was closed, what the administrator has to say. A
/// message may hold a megabyte, and every open stream gets a copy of the reason. The longest text of the genuine
/// agent and service is some 200 characters.
pub const TEXT: usize = 1024;
/// Characters of a name in a handshake request that are repeated, in the response or in an error: the longest that
/// exist have 24.
pub const NAME: usize = 64;

/// From the first websocket to the end of the handshake. The agent itself gives up after 15 s.
pub const HANDSHAKE: Duration = Duration::from_secs(30);
/// First wait before the shield is sent again; doubles (`proto-notes/handshake.md#shield`). The agent is ready within
/// some 25 ms; the usual timeout would cost a start 200.
pub const SHIELD_RETRY: Duration = Duration::from_millis(30);
/// How long new data is held after `pause_publication` if nothing else lifts the pause: starts get lost, and an agent
/// that replaces its websocket needs milliseconds.
pub const PAUSE: Duration = Duration::from_secs(10);
/// For how long nothing has to be in flight until the memory of a transfer is given back: shorter pauses are part of
/// it.
pub const REST: Duration = Duration::from_secs(1);
/// How long the end waits for queued data to be acknowledged: people wait for it too.
pub const DRAIN: Duration = Duration::from_secs(1);
/// How long the end waits for the acknowledgement of the TerminateSession flag: as long as the agent waits.
pub const TERMINATE: Duration = Duration::from_secs(2);
/// Unacknowledged data and nothing from the agent for this long is worth a word: as long as the longest wait between
/// two transmissions, so that a healthy agent has been asked again.
pub const STALLED: Duration = Duration::from_secs(10);
/// And for this long, the session is given up: a stalled destination and an agent that is gone look the same, and a
/// destination that takes nothing for five minutes is the rarer of the two.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// An open stream without a byte or a FIN for this long is worth a word: destinations within a VPC answer a dial in
/// milliseconds, and Linux has sent its SYN four times by then (after 0, 1, 3 and 7 s).
pub const UNANSWERED: Duration = Duration::from_secs(10);
/// A stream that has sent more than this has a destination that takes it: without one, the agent holds 4 MiB of its
/// shared bucket and a few socket buffers, and no more than the window is in flight.
pub const TAKEN_UPWARDS: u64 = 2 * IN_FLIGHT_BYTES as u64 + (1 << 20);
/// How often a session that waits for room in the process-wide budget looks for it: other sessions do not wake it, and
/// ten times a second is neither felt nor seen.
pub const RECHECK: Duration = Duration::from_millis(100);
/// smux keepalive for agents that expect one: they cut a silent session after 30 s, and two may be late.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// Least silence before another connection may use a basic-mode session: tens of the agent's pump intervals.
pub const SETTLE: Duration = Duration::from_millis(50);

/// Ceiling of the first wait before another attempt to replace a lost websocket; doubles. Shorter than people notice,
/// longer than a call of the API takes.
pub const RECONNECT_BASE: Duration = Duration::from_millis(250);
/// Highest ceiling: how long a network that is back may go unnoticed, and at five seconds in the mean no burden for an
/// API that throttles.
pub const RECONNECT_CEILING: Duration = Duration::from_secs(10);
/// A websocket that lived for this long and said something was good: its loss is no reason to wait.
pub const STEADY: Duration = Duration::from_millis(500);
/// How long a ping may stay unanswered after the machine or the network has woken, or three retransmission timeouts if
/// that is longer: a websocket that was dead before is not worth two whole ping intervals.
pub const PROBE: Duration = Duration::from_secs(3);
