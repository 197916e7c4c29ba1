//! Our client in recorded sessions of the genuine client and agent, in the genuine client's place: it hears what that
//! heard and is asked for the same. What it sends and delivers is the same, but for differences that have a name
//! (`proto-notes/replays.md`).
//!
//! What is not here: anything that depends on how the other end reacts to ours, beside acknowledgements. A recorded
//! agent cannot react; that is what the worlds with the emulated agent are for.

mod conversation;
mod difference;
mod script;
mod stage;
mod words;

use std::path::Path;

use self::{
    difference::{Difference, differences},
    script::Script,
    stage::play,
};
use crate::recording::Recording;

/// Which recording, what is different in it, what the application is told: on connection 3, 5 …, or of the session,
/// whose end has `API` if TerminateSession is called.
macro_rules! replays {
    ($($test:ident: $recording:literal, [$($difference:ident),*], [$($told:literal),*];)*) => {
        const REPLAYED: &[(&str, &[Difference])] = &[$(($recording, &[$(Difference::$difference),*])),*];

        $(
            #[test]
            fn $test() {
                let script = Script::read(&Recording::of($recording));
                let played = play(&script);
                assert_eq!(played.told, [$($told),*] as [&str; _]);
                let found: Vec<_> = differences(&script, &played).into_iter().collect();
                assert_eq!(found, [$(Difference::$difference),*]);
            }
        )*
    };
}

replays! {
    ssh: "h-ssh-standard-stream", [Shield, LineFeed, EndOfInput],
        ["ready", "Us: ended as asked, API", "3 ended"];
    ssh_to_a_destination_that_refuses: "h2-ssh-destination-refused", [Shield, Silence],
        ["Stalled(true)", "Library: timed out: the agent acknowledges no data: the destination refused the connection or \
          did not answer, API"];
    ssh_to_a_destination_that_closes: "f-agent-ends-session-destination-closed-ssh", [Shield],
        ["ready", "Agent: the session was closed", "3 ended"];

    basic_one_after_another: "a-basic-two-sequential-connections", [Shield, NoRepeats],
        ["ready", "3 ended", "5 ended", "Us: ended as asked"];
    basic_two_at_once: "a2-basic-two-concurrent-connections", [Shield, Turns, Goodbye],
        ["ready", "3 ended", "5 ended", "Us: ended as asked, API"];
    basic_to_a_destination_that_refuses: "a3-basic-destination-refused", [Shield, EndedEarly],
        ["Us: ended as asked, API"];
    basic_to_a_destination_that_closes: "a4-basic-server-closes-first", [Shield],
        ["ready", "3 ended", "Us: ended as asked"];

    mux_interleaved: "b-mux-two-interleaved", [Shield, WholeFrames],
        ["ready", "3 ended", "5 ended", "Us: ended as asked"];
    remote_host: "c-remote-host", [Shield],
        ["ready", "3 ended", "Us: ended as asked"];
    remote_host_that_is_forbidden: "c2-remote-host-forbidden", [Shield],
        ["Agent: the session was closed: Forwarding to IP address 169.254.169.254 is forbidden."];
    mux_to_a_destination_that_refuses: "d-destination-refused", [Shield, Goodbye],
        ["ready", "3 refused by its destination", "3 refused", "5 refused by its destination", "5 refused",
         "Us: ended as asked, API"];

    interrupted: "e-terminate-by-client-sigint", [Shield],
        ["ready", "Us: ended as asked", "3 cut"];
    ended_by_the_api: "e2-terminate-by-api", [Shield],
        ["ready", "Service: the session was closed", "3 cut"];
    killed: "e3-client-killed-without-goodbye", [Shield],
        ["ready"];
    agent_killed: "f2-agent-session-worker-killed", [Shield, Goodbye],
        ["ready", "Us: ended as asked, API", "3 cut"];

    resumed: "g-client-drop-and-resume", [Shield, NoRepeats, Receipts],
        ["ready", "Resumed", "3 ended", "Us: ended as asked"];
    resumed_within_a_download: "g2-client-drop-during-download", [Shield, Receipts],
        ["ready", "Resumed", "3 ended", "Us: ended as asked"];
    agent_back_on_another_websocket: "g3-agent-drop-and-reconnect", [Shield, Duplicates],
        ["ready", "3 ended", "Us: ended as asked"];
    not_resumed: "g4-resume-refused-no-token", [Shield],
        ["ready", "Library: the session cannot be resumed: no token, API", "3 cut"];

    messages_lost: "i-drop-2pct-echo", [Shield, Duplicates],
        ["ready", "Us: ended as asked", "3 cut"];
    messages_doubled: "i-dup-2pct-echo", [Shield, NoRepeats, Duplicates],
        ["ready", "3 ended", "Us: ended as asked"];
    messages_late: "i-reorder-2pct-echo", [Shield, NoRepeats],
        ["ready", "3 ended", "Us: ended as asked"];
    agent_not_ready: "x-agent-not-ready-reject", [Shield, EndedEarly],
        ["Us: ended as asked, API"];
    genuine_client_broken: "x-startup-race-plugin-hang", [Shield, NoRepeats, Duplicates, GoesOn],
        ["ready", "3 ended"];
}

/// The one whose agent has to react: it repeats what the genuine client does not acknowledge, and nothing else.
const NOT_REPLAYED: &str = "g5-client-drop-during-download-rtt50";

/// The table of the notes has a row for each recording: its name first, the names of its differences last.
#[test]
fn the_notes_name_the_same_differences() {
    let notes = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-notes/replays.md");
    let notes = std::fs::read_to_string(notes).expect("the notes");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> = notes.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    for recording in Recording::all() {
        let name = format!("`{}`", recording.name);
        let row = rows.iter().find(|cells| cells[0] == name).unwrap_or_else(|| panic!("{name} is not in the notes"));
        let replayed = REPLAYED.iter().find(|(replayed, _)| *replayed == recording.name);
        let Some((_, differences)) = replayed else {
            assert_eq!((recording.name.as_str(), row[3].as_str()), (NOT_REPLAYED, "not replayed"));
            continue;
        };
        let names: Vec<_> = differences.iter().map(|difference| difference.name()).collect();
        assert_eq!(row[3], names.join(", "), "{name}");
        let explained = |name: &&str| notes.contains(&format!("\n* **{name}**: "));
        assert!(names.iter().all(explained), "{names:?}");
    }
}
