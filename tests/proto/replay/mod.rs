//! Our client in recorded sessions of the genuine client and agent (`proto-notes/replays.md`).

mod conversation;
mod difference;
mod script;
mod stage;
mod words;

use crate::recording::Recording;

#[test]
fn try_it() {
    for recording in Recording::all() {
        if let Ok(only) = std::env::var("ONLY") && recording.name != only { continue }
        let script = script::Script::read(&recording);
        let played = stage::play(&script);
        println!("== {} {:?}", recording.name, played.told);
        let d = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| difference::differences(&script, &played)));
        println!("     {d:?}");
    }
}
