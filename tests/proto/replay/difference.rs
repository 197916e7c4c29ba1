//! In what our client does otherwise than the genuine one: every difference has a name here, or is a failure.

use std::collections::{BTreeMap, BTreeSet, btree_map::Values};

use bytes::Bytes;
use ssmfwd::{
    proto::{Config, Mode, StreamId},
    wire::{
        Acknowledge, FlagKind, HandshakeResponse, Message, OpenDataChannel, PayloadKind, from_json, smux::FrameHeader,
        to_json,
    },
};

use super::{
    script::Script,
    stage::Played,
    words::{Places, Subject},
};

/// What is different on purpose. The names are those of `proto-notes/replays.md#differences`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    /// A message that means nothing goes before the first data.
    Shield,
    /// A payload of one line feed stays one.
    LineFeed,
    /// A frame ends in the message in which it begins.
    WholeFrames,
    /// What is acknowledged is not sent again.
    NoRepeats,
    /// What comes again is acknowledged again.
    Duplicates,
    /// On a new websocket what was acknowledged on the last one is acknowledged once more.
    Receipts,
    /// The next connection waits until the agent has taken the end of the last.
    Turns,
    /// The end of the input ends the session, and only then.
    EndOfInput,
    /// The agent is told again that the session is over, until it acknowledges it, and the API after 2 s.
    Goodbye,
    /// Before it is ready, the session is ended with the API alone.
    EndedEarly,
    /// An agent that takes nothing is found out.
    Silence,
    /// The genuine client has stopped; ours has not.
    GoesOn,
}

impl Difference {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shield => "shield",
            Self::LineFeed => "line feed",
            Self::WholeFrames => "whole frames",
            Self::NoRepeats => "no repeats",
            Self::Duplicates => "duplicates",
            Self::Receipts => "receipts",
            Self::Turns => "turns",
            Self::EndOfInput => "end of input",
            Self::Goodbye => "goodbye",
            Self::EndedEarly => "ended early",
            Self::Silence => "silence",
            Self::GoesOn => "goes on",
        }
    }
}

/// Compares everything that was sent and delivered. Panics at what has no name.
#[track_caller]
pub(super) fn differences(script: &Script, played: &Played) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    compare_opened(script, played);
    compare_acknowledgements(script, played, &mut found);
    Upwards { script, played, found: &mut found }.compare();
    compare_repetitions(script, played, &mut found);
    compare_down(script, played);
    let silent = played.told.iter().any(|told| told.contains("acknowledges no data"));
    let named = [
        (played.duplicates > 0, Difference::Duplicates),
        (played.receipts > 0, Difference::Receipts),
        (played.waited, Difference::Turns),
        (silent, Difference::Silence),
    ];
    found.extend(named.into_iter().filter_map(|(is, difference)| is.then_some(difference)));
    found
}

/// The first message of each websocket: the same text, but for the identities and the version that is claimed. And one
/// ping, at once.
#[track_caller]
fn compare_opened(script: &Script, played: &Played) {
    let read = |text: &String| from_json::<OpenDataChannel>("open message", text.as_bytes()).expect("an open message");
    let (theirs, ours) = (&script.genuine.opened, &played.ours.opened);
    assert_eq!(ours.len(), theirs.len(), "websockets");
    let mut requests = BTreeSet::new();
    for (theirs, ours) in theirs.iter().zip(ours) {
        let (mut expected, read_ours) = (read(theirs), read(ours));
        assert!(requests.insert(read_ours.request_id.clone()), "a request id for each websocket");
        expected.request_id = read_ours.request_id;
        expected.client_id = Some(uuid::Uuid::from_u128(1).to_string());
        expected.client_version = Some(Config::CLIENT_VERSION.to_owned());
        assert_eq!(to_json(&expected), ours.as_bytes());
    }
    // Those that follow belong to liveness, not to a recording.
    assert!(played.pings_at_once == theirs.len(), "{} pings at once", played.pings_at_once);
}

/// The same messages are acknowledged in the same order and the same words.
#[track_caller]
fn compare_acknowledgements(script: &Script, played: &Played, found: &mut BTreeSet<Difference>) {
    let mut seen = BTreeSet::new();
    let first: Vec<_> = played.ours.acknowledgements.iter().filter(|body| seen.insert(*body)).collect();
    let again = played.ours.acknowledgements.len() - first.len();
    assert_eq!(again, played.duplicates + played.receipts, "nothing else is acknowledged twice");
    // Read and written again: those of the hand-made client are laid out otherwise.
    let canonical = |body| to_json(&Acknowledge::decode(body).expect("an acknowledgement"));
    let theirs: Vec<_> = script.genuine.acknowledgements.iter().map(canonical).collect();
    assert!(first.iter().zip(&theirs).all(|(ours, theirs)| *ours == theirs), "{first:?}");
    assert!(first.len() >= theirs.len(), "{} of {} acknowledgements", first.len(), theirs.len());
    if first.len() > theirs.len() {
        found.insert(Difference::GoesOn);
    }
}

/// What is sent upwards, message by message.
struct Upwards<'a> {
    script: &'a Script,
    played: &'a Played,
    found: &'a mut BTreeSet<Difference>,
}

type Messages<'a> = std::iter::Peekable<Values<'a, i64, Message>>;

impl Upwards<'_> {
    #[track_caller]
    fn compare(&mut self) {
        let mut theirs: Messages<'_> = self.script.genuine.messages.values().peekable();
        let mut ours: Messages<'_> = self.played.ours.messages.values().peekable();
        // How much our numbers are ahead.
        let mut shift = 0;
        loop {
            match (theirs.peek().copied(), ours.peek().copied()) {
                (_, Some(our)) if our.header.sequence.0 == 1 && self.is_shield(our) => {
                    self.found.insert(Difference::Shield);
                    shift += 1;
                    ours.next();
                }
                (Some(their), Some(our)) => {
                    let (number, expected) = (our.header.sequence.0, their.header.sequence.0 + shift);
                    assert_eq!((number, our.header.payload_kind), (expected, their.header.payload_kind));
                    if self.is_same(their, our) {
                        theirs.next();
                        ours.next();
                    } else {
                        shift += self.other_messages(&mut theirs, &mut ours);
                    }
                }
                (None, Some(our)) => {
                    self.said_more(our);
                    ours.next();
                }
                (Some(their), None) if is_terminate(their) => {
                    self.found.insert(Difference::EndedEarly);
                    theirs.next();
                }
                // What is written before the session is ready waits.
                (Some(_), None) if !self.played.told.iter().any(|told| told == "ready") => {
                    theirs.next();
                }
                (Some(their), None) => panic!("our client does not say {:?}", their.header),
                (None, None) => return,
            }
        }
    }

    fn is_shield(&self, our: &Message) -> bool {
        let (kind, payload) = (our.header.payload_kind, &our.payload);
        match self.script.mode {
            Mode::Mux => kind == PayloadKind::Output && *payload == FrameHeader::nop().encode()[..],
            _ => kind == PayloadKind::Size && payload == r#"{"cols":80,"rows":24}"#,
        }
    }

    fn is_same(&mut self, their: &Message, our: &Message) -> bool {
        if their.header.payload_kind == PayloadKind::HandshakeResponse {
            let mut expected: HandshakeResponse = from_json("response", &their.payload).expect("a response");
            expected.client_version = Config::CLIENT_VERSION.to_owned();
            return to_json(&expected) == our.payload;
        }
        let line_feed = self.script.mode != Mode::Mux && their.payload == "\r" && our.payload == "\n";
        if line_feed {
            self.found.insert(Difference::LineFeed);
        }
        line_feed || their.payload == our.payload
    }

    /// The same is said, in messages that are cut elsewhere. Gives how many more they are.
    #[track_caller]
    fn other_messages(&mut self, theirs: &mut Messages<'_>, ours: &mut Messages<'_>) -> i64 {
        assert_eq!(self.script.mode, Mode::Mux, "{:?} is not {:?}", ours.peek(), theirs.peek());
        let ours_say = self.played.ours.places(self.script.mode);
        let (mut their_places, mut our_places) = (Places::new(), Places::new());
        let mut more = 0;
        loop {
            if our_places.is_subset(&their_places) {
                let our = ours.next().expect("what the genuine client says");
                our_places.extend(&ours_say[&our.header.sequence.0]);
                more += 1;
            } else {
                let their = theirs.next().unwrap_or_else(|| panic!("the genuine client does not say {our_places:?}"));
                their_places.extend(&self.script.places[&their.header.sequence.0]);
                more -= 1;
            }
            if our_places == their_places {
                self.found.insert(Difference::WholeFrames);
                return more;
            }
        }
    }

    /// What the genuine client did not get to.
    #[track_caller]
    fn said_more(&mut self, our: &Message) {
        let places = &self.played.ours.places(self.script.mode)[&our.header.sequence.0];
        let ends = |(subject, _): &(Subject, usize)| matches!(subject, Subject::End(_));
        let difference = match self.script.mode {
            Mode::Raw if is_terminate(our) => Difference::EndOfInput,
            Mode::Mux if self.found.contains(&Difference::GoesOn) && places.iter().all(ends) => Difference::GoesOn,
            _ => panic!("the genuine client does not say {places:?}"),
        };
        let first = self.found.insert(difference);
        assert!(first || difference == Difference::GoesOn, "{places:?} more than once");
    }
}

fn is_terminate(message: &Message) -> bool {
    message.header.payload_kind == PayloadKind::Flag
        && FlagKind::decode(&message.payload) == Ok(FlagKind::TerminateSession)
}

/// What is sent more than once.
#[track_caller]
fn compare_repetitions(script: &Script, played: &Played, found: &mut BTreeSet<Difference>) {
    let ours_say = played.ours.places(script.mode);
    let said_by_ours = |places: &Places| {
        let same = ours_say.iter().filter(|(_, ours)| !ours.is_disjoint(places));
        same.map(|(number, _)| played.ours.times[number]).max().unwrap_or(1)
    };
    for (number, times) in &script.genuine.times {
        let theirs = *times > 1;
        let ours = said_by_ours(&script.places[number]) > 1;
        let flag = is_terminate(&script.genuine.messages[number]);
        // What the agent refused first was the shield.
        let refused = *number == 1 && script.first_taken == [false, true] && played.ours.times[&1] == 2;
        match (theirs, ours) {
            (true, true) | (false, false) => {}
            (true, false) if script.repeated_in_vain.contains(number) => {
                found.insert(Difference::NoRepeats);
            }
            (true, false) if refused => {}
            (false, true) if flag => {
                found.insert(Difference::Goodbye);
            }
            _ => panic!("message {number}: the genuine client repeats it: {theirs}, ours: {ours}"),
        }
    }
}

/// Every byte that the agent sent reaches its connection, once, in order.
#[track_caller]
fn compare_down(script: &Script, played: &Played) {
    let filled = |down: &BTreeMap<StreamId, Vec<u8>>| {
        let down = down.iter().filter(|(_, data)| !data.is_empty());
        down.map(|(id, data)| (*id, Bytes::from(data.clone()))).collect::<BTreeMap<_, _>>()
    };
    let (theirs, mut ours) = (filled(&script.down), filled(&played.down));
    if script.mode == Mode::Basic {
        let all: Vec<u8> = ours.into_values().flatten().collect();
        ours = if all.is_empty() { BTreeMap::new() } else { [(StreamId::FIRST, all.into())].into() };
    }
    assert!(ours == theirs, "{:?} instead of {:?} bytes", lengths(&ours), lengths(&theirs));
}

fn lengths(down: &BTreeMap<StreamId, Bytes>) -> Vec<(u32, usize)> {
    down.iter().map(|(id, data)| (id.0, data.len())).collect()
}
