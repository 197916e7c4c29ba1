//! Shell and command sessions: one program, on a pty or without one (`proto-notes/agent.md#shells`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    AgentOptions, AgentOutput, ConnectionId, ProgramSignal, Streams,
    byte_queue::ByteQueue,
    characters::WholeCharacters,
    plugin::{Actions, Plugin, Verdict, WriteState},
    program::Order,
};
use crate::wire::{PayloadKind, Size};

/// The one program of a session.
const PROGRAM: ConnectionId = ConnectionId(1);

/// The status that is told of a command with separate output that cannot be started, ahead of the reason.
const NOT_STARTED: i32 = 1;

/// ```text
/// Starting ──▶ Resting ──▶ Reading ──▶ Ended: the rest is sent, then the session ends
///    └─▶ Failed ─────────────────────────▲
/// ```
enum State {
    /// Nothing of the client is taken yet.
    Starting,
    /// It runs; its output is not read before this time.
    Resting(Instant),
    Reading,
    /// It could not be started, which is told at this time.
    Failed(Instant, Bytes),
    /// Nothing more will come from it.
    Ended,
}

/// The plugin of a shell session.
pub(super) struct Shell {
    state: State,
    streams: Streams,
    profile: String,
    prefixes: [String; 2],
    windows: bool,
    wait: Duration,
    /// One message of the pump: more is not read from the program meanwhile.
    chunk: usize,
    /// Bytes of the client's message that the pty has not taken.
    unwritten: usize,
    output: ByteQueue,
    characters: WholeCharacters,
    /// Separate output in the order it came, and the exit status behind it.
    pieces: VecDeque<(PayloadKind, Bytes)>,
}

impl Shell {
    /// Starts the program at once.
    ///
    /// # Errors
    /// The text that ends the session instead.
    pub(super) fn new(options: &AgentOptions, actions: &mut Actions) -> Result<Self, String> {
        let AgentOptions { version, session_type, properties, .. } = options;
        let Order { program, profile, prefixes } = Order::from_properties(version, *session_type, properties)?;
        let streams = program.streams;
        actions.outputs.push_back(AgentOutput::Start(PROGRAM, program));
        Ok(Self {
            state: State::Starting,
            streams,
            profile,
            prefixes,
            windows: options.behaviour.windows,
            wait: options.behaviour.shell_wait,
            chunk: options.behaviour.chunk.max(1),
            unwritten: 0,
            output: ByteQueue::default(),
            characters: WholeCharacters::default(),
            pieces: VecDeque::new(),
        })
    }

    fn has_pty(&self) -> bool {
        self.streams == Streams::Pty
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn runs(&self) -> bool {
        matches!(self.state, State::Resting(_) | State::Reading)
    }

    fn write(&mut self, data: Bytes, actions: &mut Actions) {
        self.unwritten += data.len();
        actions.outputs.push_back(AgentOutput::Write(PROGRAM, data));
    }

    /// Separate output: one piece for each 1024 bytes at most, each behind its prefix.
    fn push_pieces(&mut self, kind: PayloadKind, mut data: Bytes) {
        let [output, error] = &self.prefixes;
        let prefix = if kind == PayloadKind::StdErr { error } else { output };
        while !data.is_empty() {
            let rest = data.split_off(data.len().min(self.chunk));
            if !prefix.is_empty() {
                let mut piece = BytesMut::with_capacity(prefix.len() + data.len());
                piece.put_slice(prefix.as_bytes());
                piece.put_slice(&data);
                data = piece.freeze();
            }
            self.pieces.push_back((kind, data));
            data = rest;
        }
    }

    fn push_status(&mut self, status: i32) {
        self.pieces.push_back((PayloadKind::ExitCode, format!("EXIT_CODE: {status}").into()));
    }

    /// It is over, and all of its output was sent.
    fn finish_if_ended(&mut self, actions: &mut Actions) {
        if self.has_ended() && !self.has_output() {
            actions.end = Some(String::new());
        }
    }
}

/// A lone line feed is what a Windows console calls Enter only as a carriage return.
fn for_windows(payload: &Bytes) -> Bytes {
    if payload.windows(2).any(|pair| pair == b"\r\n") {
        return payload.clone();
    }
    payload.iter().map(|byte| if *byte == b'\n' { b'\r' } else { *byte }).collect()
}

impl Plugin for Shell {
    /// Sizes are refused too as long as there is no pty.
    fn ready(&self) -> bool {
        !matches!(self.state, State::Starting)
    }

    fn data(&mut self, payload: Bytes, actions: &mut Actions) -> Verdict {
        if !self.runs() {
            // Over or never begun: there is nothing to write to.
            return Verdict::Refused;
        }
        if self.has_pty() {
            let payload = if self.windows { for_windows(&payload) } else { payload };
            self.write(payload, actions);
            return Verdict::Blocked;
        }
        let signals = payload.iter().filter_map(|byte| ProgramSignal::of(*byte));
        actions.outputs.extend(signals.map(|signal| AgentOutput::Signal(PROGRAM, signal)));
        Verdict::Done
    }

    fn write_state(&self) -> WriteState {
        match self.state {
            State::Resting(_) | State::Reading if self.unwritten == 0 => WriteState::Done,
            State::Resting(_) | State::Reading => WriteState::Blocked,
            State::Starting | State::Failed(..) | State::Ended => WriteState::Failed,
        }
    }

    fn size(&mut self, size: Size, actions: &mut Actions) {
        if self.has_pty() && self.runs() {
            actions.outputs.push_back(AgentOutput::Resize(PROGRAM, size));
        }
    }

    /// Neither flag means anything to a shell.
    fn obeys_flags(&self) -> bool {
        false
    }

    fn started(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        if id != PROGRAM || !matches!(self.state, State::Starting) {
            return;
        }
        self.state =
            if self.has_pty() && !self.wait.is_zero() { State::Resting(now + self.wait) } else { State::Reading };
        if self.has_pty() && !self.profile.is_empty() {
            let profile = std::mem::take(&mut self.profile) + "\n";
            self.write(profile.into(), actions);
        }
    }

    fn start_failed(&mut self, now: Instant, id: ConnectionId, error: &str, actions: &mut Actions) {
        if id != PROGRAM || !matches!(self.state, State::Starting) {
            return;
        }
        if self.has_pty() {
            self.state = State::Ended;
            actions.end =
                Some(format!("\n----------ERROR-------\nUnable to start command: Failed to start pty: {error}\n\n"));
        } else {
            if self.streams == Streams::Separate {
                self.push_status(NOT_STARTED);
            }
            self.state = State::Failed(now + self.wait, error.to_owned().into());
            self.advance(now, actions);
        }
    }

    fn received(&mut self, id: ConnectionId, data: Bytes, _: &mut Actions) {
        if id == PROGRAM && self.runs() {
            match self.streams {
                Streams::Separate => self.push_pieces(PayloadKind::Output, data),
                Streams::Pty | Streams::Collected => self.output.push(data),
            }
        }
    }

    fn received_error(&mut self, id: ConnectionId, data: Bytes, _: &mut Actions) {
        if id == PROGRAM && self.runs() {
            self.push_pieces(PayloadKind::StdErr, data);
        }
    }

    /// The end of separate output is not the end: the exit status is still to come.
    fn eof(&mut self, id: ConnectionId, actions: &mut Actions) {
        if id == PROGRAM && self.runs() && self.streams != Streams::Separate {
            self.state = State::Ended;
            self.finish_if_ended(actions);
        }
    }

    fn exited(&mut self, id: ConnectionId, status: i32, _: &mut Actions) {
        if id == PROGRAM && self.runs() && self.streams == Streams::Separate {
            self.state = State::Ended;
            self.push_status(status);
        }
    }

    fn written(&mut self, id: ConnectionId, len: usize, _: &mut Actions) {
        if id == PROGRAM {
            self.unwritten = self.unwritten.saturating_sub(len);
        }
    }

    fn wants_data(&self, id: ConnectionId) -> bool {
        let room = self.pieces.is_empty() && self.output.len() < self.chunk;
        id == PROGRAM && matches!(self.state, State::Reading) && room
    }

    fn has_output(&self) -> bool {
        let held = self.has_ended() && self.characters.is_holding();
        !self.output.is_empty() || !self.pieces.is_empty() || held
    }

    fn take_output(&mut self, max: usize) -> (PayloadKind, Bytes) {
        if let Some(piece) = self.pieces.pop_front() {
            return piece;
        }
        let payload = if self.output.is_empty() {
            self.characters.take_held()
        } else {
            self.characters.pass(self.output.take(max))
        };
        (PayloadKind::Output, payload)
    }

    fn output_sent(&mut self, actions: &mut Actions) {
        self.finish_if_ended(actions);
    }

    fn paced(&self) -> bool {
        self.streams != Streams::Separate
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Resting(until) | State::Failed(until, _) => Some(until),
            State::Starting | State::Reading | State::Ended => None,
        }
    }

    fn advance(&mut self, now: Instant, _: &mut Actions) {
        match &mut self.state {
            State::Resting(until) if *until <= now => self.state = State::Reading,
            State::Failed(at, text) if *at <= now => {
                self.pieces.push_back((PayloadKind::StdErr, std::mem::take(text)));
                self.state = State::Ended;
            }
            _ => {}
        }
    }

    fn close(&mut self, actions: &mut Actions) {
        if !matches!(self.state, State::Failed(..)) {
            actions.outputs.push_back(AgentOutput::Close(PROGRAM));
        }
        self.state = State::Ended;
        self.output.clear();
        self.pieces.clear();
    }

    fn open_streams(&self) -> usize {
        usize::from(!self.has_ended())
    }
}
