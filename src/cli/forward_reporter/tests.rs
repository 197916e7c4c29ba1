//! What people and programs are told of lives of forwards.

use std::time::Duration;

use super::{
    super::{
        args::Format,
        plan::tests::planned,
        reporter::tests::{ended, ended_as_asked, events, forward, lost, session, told, without_times},
    },
    *,
};
use crate::forward::start_failure;

fn of(id: &str, event: SessionEvent) -> Event {
    Event::Session { session: session(id), member: 0, event }
}

fn of_session(event: SessionEvent) -> Event {
    of("me-0a", event)
}

fn begun(id: &str) -> SessionEvent {
    SessionEvent::Started { session: session(id), target: "i-0a".into() }
}

fn started(id: &str) -> Event {
    of(id, begun(id))
}

/// A session that is started and gets ready.
fn serves(id: &str) -> [Event; 2] {
    [started(id), of(id, SessionEvent::Ready)]
}

fn closed(by: Initiator, text: &str) -> CloseReason {
    CloseReason::new(by, Cause::ChannelClosed(text.into()))
}

/// What people are told of one forward.
fn lines(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let (_, stderr) = told(Format::Text, false, |reporter| {
        let told = reporter.of(&forward("1:db:2"));
        events.into_iter().for_each(|event| told.tell(&event));
    });
    stderr.lines().map(str::to_owned).collect()
}

fn reconnecting(attempt: u32, cause: &str, kind: Option<ControlErrorKind>) -> Event {
    of_session(SessionEvent::Reconnecting { attempt, cause: cause.into(), kind, next: None })
}

fn resumed() -> Event {
    of_session(SessionEvent::Resumed { outage: Duration::from_millis(2340) })
}

fn start_failed(attempt: u32, kind: ControlErrorKind) -> Event {
    Event::StartFailed { error: Arc::new(start_failure(kind)), attempt, present: 0 }
}

fn replaced(new: &str, old: &str) -> Event {
    Event::SessionReplaced { session: session(new), member: 0, replaces: session(old), reason: lost() }
}

/// A night in the life of a forward.
fn night() -> Vec<Event> {
    use ControlErrorKind::{ExpiredCredentials as Expired, Network, Throttled};
    let over = closed(Initiator::Service, "idle");
    let events = vec![
        reconnecting(0, "the gateway said 1000 Bye", None),
        reconnecting(1, "no route", Some(Network)),
        reconnecting(2, "no route", Some(Network)),
        reconnecting(3, "slower", Some(Throttled)),
        reconnecting(4, "no route", Some(Network)),
        resumed(),
        reconnecting(0, "reset", None),
        reconnecting(1, "expired", Some(Expired)),
        reconnecting(2, "expired", Some(Expired)),
        reconnecting(3, "no route", Some(Network)),
        reconnecting(4, "expired", Some(Expired)),
        resumed(),
        of_session(SessionEvent::Unanswered(2)),
        of_session(SessionEvent::Stalled(true)),
        of_session(SessionEvent::Stalled(false)),
        ended("me-0a", lost()),
        start_failed(1, Throttled),
        Event::WindowClosed { outage: Duration::from_secs(60) },
        started("me-0b"),
        of("me-0b", SessionEvent::Ready),
        replaced("me-0b", "me-0a"),
        ended("me-0b", over.clone()),
        Event::Dormant { reason: over, fulfilled: false, idle: None },
        started("me-0c"),
        of("me-0c", SessionEvent::Ready),
    ];
    serves("me-0a").into_iter().chain(events).collect()
}

fn tell_night(reporter: &Arc<Reporter>) {
    let forward = planned(&["1:db:2", "-t", "i-0a", "--profile", "dev"]);
    let told = reporter.of(&forward);
    night().iter().for_each(|event| told.tell(event));
}

#[test]
fn people_are_told_each_thing_once() {
    let (stdout, stderr) = told(Format::Text, false, tell_night);
    assert_eq!(stdout, "");
    let expected = [
        "ssmfwd: 1:db:2: websocket lost (the gateway said 1000 Bye): reconnecting; connections are kept",
        "ssmfwd: 1:db:2: still reconnecting: no route",
        "ssmfwd: 1:db:2: still reconnecting: slower",
        "ssmfwd: 1:db:2: resumed after 2.3 s: nothing was lost",
        "ssmfwd: 1:db:2: websocket lost (reset): reconnecting; connections are kept",
        "warning: the credentials cannot be used any more: expired",
        "warning: log in with `ssmfwd login --profile dev`, or put new keys into the file they come from: \
         the tunnel goes on by itself then",
        "ssmfwd: 1:db:2: still reconnecting: no route",
        "ssmfwd: 1:db:2: resumed after 2.3 s: nothing was lost",
        "ssmfwd: the credentials can be used again",
        "ssmfwd: 1:db:2: db:2 has sent nothing for 10 s on 2 connections: it may be busy, or not answer \
         (the agent dials one after another, so others may wait behind it)",
        "warning: 1:db:2: nothing heard from the agent for 10 s: connections wait, new ones get another session",
        "ssmfwd: 1:db:2: the agent is heard again",
        "warning: 1:db:2: session me-0a was lost, its connections are reset: connection lost: gone",
        "ssmfwd: 1:db:2: no new session yet: StartSession of i-0a failed: no",
        "ssmfwd: 1:db:2: no session for 60 s: new connections are refused until it is back",
        "ssmfwd: 1:db:2: session me-0b takes its place",
        "ssmfwd: 1:db:2: the session was closed: idle (by the Session Manager service); open connections were \
         reset, the next connection starts a new session",
        "ssmfwd: 1:db:2: a connection came: session me-0c",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn programs_are_told_everything() {
    let (stdout, _) = told(Format::Json, false, tell_night);
    let expected = events(
        "1:db:2",
        &[
            r#"{"event":"session_started",F,"session_id":"me-0a","target":"i-0a","member":0}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":0,"cause":"the gateway said 1000 Bye"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":1,"cause":"no route"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":2,"cause":"no route"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":3,"cause":"slower"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":4,"cause":"no route"}"#,
            r#"{"event":"resumed",F,"session_id":"me-0a","outage_ms":2340}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":0,"cause":"reset"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":1,"cause":"expired"}"#,
            concat!(
                r#"{"event":"credentials_expired",F,"message":"expired","hint":"log in with `ssmfwd login "#,
                r#"--profile dev`, or put new keys into the file they come from: the tunnel goes on by itself "#,
                r#"then"}"#,
            ),
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":2,"cause":"expired"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":3,"cause":"no route"}"#,
            r#"{"event":"reconnecting",F,"session_id":"me-0a","attempt":4,"cause":"expired"}"#,
            r#"{"event":"resumed",F,"session_id":"me-0a","outage_ms":2340}"#,
            r#"{"event":"destination_silent",F,"destination":"db:2","connections":2}"#,
            r#"{"event":"stalled",F,"active":true,"session_id":"me-0a"}"#,
            r#"{"event":"stalled",F,"active":false,"session_id":"me-0a"}"#,
            r#"{"event":"session_ended",F,"session_id":"me-0a","member":0,"reason":"connection_lost","by":"network",
                "detail":"connection lost: gone","bytes_up":3,"bytes_down":4}"#,
            r#"{"event":"reconnecting",F,"session_id":null,"attempt":1,
                "cause":"StartSession of i-0a failed: no"}"#,
            r#"{"event":"session_started",F,"session_id":"me-0b","target":"i-0a","member":0}"#,
            r#"{"event":"session_replaced",F,"session_id":"me-0b","replaces":"me-0a","member":0,"reason":"connection_lost",
                "by":"network","detail":"connection lost: gone"}"#,
            r#"{"event":"session_ended",F,"session_id":"me-0b","member":0,"reason":"channel_closed","by":"service",
                "detail":"the session was closed: idle (by the Session Manager service)","bytes_up":3,"bytes_down":4}"#,
            r#"{"event":"dormant",F,"reason":"channel_closed","by":"service",
                "detail":"the session was closed: idle (by the Session Manager service)"}"#,
            r#"{"event":"session_started",F,"session_id":"me-0c","target":"i-0a","member":0}"#,
        ],
    );
    assert_eq!(without_times(&stdout), expected);
}

#[test]
fn quiet_says_nothing_of_it() {
    assert_eq!(told(Format::Text, true, tell_night), (String::new(), String::new()));
}

#[test]
fn one_login_serves_all_forwards() {
    let (_, stderr) = told(Format::Text, false, |reporter| {
        let forwards = [reporter.of(&forward("1:db:2")), reporter.of(&forward("3:db:4"))];
        let expired = || reconnecting(1, "expired", Some(ControlErrorKind::ExpiredCredentials));
        for _ in 0..2 {
            forwards.iter().for_each(|forward| forward.tell(&expired()));
            forwards.iter().for_each(|forward| forward.tell(&resumed()));
        }
    });
    assert_eq!(stderr.matches("ssmfwd login").count(), 2, "{stderr}");
    assert_eq!(stderr.matches("can be used again").count(), 2, "{stderr}");
}

/// The first one waits for nobody any more, and the second one learns of the login first.
#[test]
fn a_second_expiry_is_told_although_a_forward_slept_through_the_login() {
    let (stdout, stderr) = told(Format::Text, false, |reporter| {
        let [dormant, busy] = [reporter.of(&forward("1:db:2")), reporter.of(&forward("3:db:4"))];
        dormant.tell(&start_failed(1, ControlErrorKind::ExpiredCredentials));
        busy.tell(&reconnecting(1, "expired", Some(ControlErrorKind::ExpiredCredentials)));
        busy.tell(&resumed());
        busy.tell(&reconnecting(1, "expired", Some(ControlErrorKind::ExpiredCredentials)));
    });
    assert_eq!((&stdout[..], stderr.matches("ssmfwd login").count()), ("", 2), "{stderr}");
    assert_eq!(stderr.matches("can be used again").count(), 1, "{stderr}");
}

#[test]
fn a_reset_is_told_when_it_happens() {
    let why = CloseReason::new(Initiator::Library, Cause::NotResumable("ResumeSession failed".into()));
    let told = lines(serves("me-0a").into_iter().chain([ended("me-0a", why)]));
    let expected = "warning: 1:db:2: session me-0a was lost, its connections are reset: \
                    the session cannot be resumed: ResumeSession failed";
    assert_eq!(told, [expected]);
}

/// Nothing follows the end of a session that serves no new connections any more.
#[test]
fn a_session_that_is_ended_beside_the_current_one_is_told() {
    let over = || closed(Initiator::Service, "maintenance");
    let warning = "warning: 1:db:2: session me-0a was ended, its connections are reset: \
                   the session was closed: maintenance (by the Session Manager service)";
    for meanwhile in [
        serves("me-0b").to_vec(),
        vec![of_session(SessionEvent::Stalled(true))],
        vec![start_failed(1, ControlErrorKind::TargetNotConnected)],
        vec![started("me-0b")],
    ] {
        let told = lines(serves("me-0a").into_iter().chain(meanwhile.clone()).chain([ended("me-0a", over())]));
        assert_eq!(told.last().map(String::as_str), Some(warning), "{meanwhile:?}");
    }
    // The current one goes on.
    let events = serves("me-0a").into_iter().chain(serves("me-0b"));
    let told =
        lines(events.chain([ended("me-0b", over()), Event::Dormant { reason: over(), fulfilled: false, idle: None }]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("open connections were reset, the next connection starts"), "{told:?}");
}

/// What we have ended ourselves is no misfortune.
#[test]
fn an_end_for_want_of_connections_is_told_as_ours() {
    let reason = CloseReason::new(Initiator::Library, Cause::Timeout("no connection used the forward"));
    // A session that is lost while it is being ended was there for nobody either.
    for end in [reason.clone(), lost()] {
        let idle = Event::Dormant { reason: reason.clone(), fulfilled: false, idle: Some(Duration::from_secs(5)) };
        let told = lines(
            serves("me-0a").into_iter().chain([idle, ended_beside("me-0a", 0, end, true)]).chain(serves("me-0b")),
        );
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].ends_with("idle for 5 s, session ended; the next connection starts another"), "{told:?}");
        assert!(told[1].contains("a connection came: session me-0b"), "{told:?}");
    }
}

#[test]
fn connections_that_wait_are_told() {
    let told = lines([Event::ConnectionsLimited { limit: 2 }]);
    let expected = "warning: 1:db:2: 2 connections are open, others wait until one ends: --max-connections allows more";
    assert_eq!(told, [expected]);
}

/// A session of before, which only its connections use, does not make the next one one of several.
#[test]
fn an_end_after_a_dormancy_is_told_once() {
    let over = || closed(Initiator::Service, "maintenance");
    let dormant = || Event::Dormant { reason: over(), fulfilled: false, idle: None };
    let beside = |event| Event::Session { session: session("me-0b"), member: 1, event };
    let events = serves("me-0a").into_iter().chain([beside(begun("me-0b"))]);
    let events = events.chain([beside(SessionEvent::Ready), ended("me-0a", over()), dormant()]);
    let told = lines(events.chain(serves("me-0c")).chain([ended("me-0c", over()), dormant()]));
    assert!(told.iter().all(|line| !line.contains("me-0c was ended")), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.contains("the next connection starts")).count(), 2, "{told:?}");
}

/// One session reconnects, the other one was ended, and there is no third: the first may come back.
#[test]
fn starts_that_fail_beside_a_session_are_told_and_do_not_write_it_off() {
    let over = || closed(Initiator::Service, "maintenance");
    let failed = |attempt| Event::StartFailed {
        error: Arc::new(start_failure(ControlErrorKind::ExpiredCredentials)),
        attempt,
        present: 1,
    };
    let beside = |event| Event::Session { session: session("me-0b"), member: 1, event };
    let events = serves("me-0a").into_iter().chain([begun("me-0b"), SessionEvent::Ready].map(beside));
    let events =
        events.chain([reconnecting(0, "reset", None), ended("me-0b", over()), failed(1), failed(2), resumed()]);
    let told =
        lines(events.chain([ended("me-0a", over()), Event::Dormant { reason: over(), fulfilled: false, idle: None }]));
    let expected = [
        "websocket lost (reset)",
        "session me-0b was ended, its connections are reset",
        "the credentials cannot be used any more: StartSession of i-0a failed: no",
        "log in",
        "resumed after",
        "the credentials can be used again",
        "the next connection starts a new session",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    told.iter().zip(expected).for_each(|(told, expected)| assert!(told.contains(expected), "{told}"));
}

#[test]
fn ends_that_reset_nothing_are_not_told() {
    let [asked, data_ended] = [ended_as_asked(), closed(Initiator::Agent, "")];
    let fulfilled = Event::Dormant { reason: data_ended.clone(), fulfilled: true, idle: None };
    let events = serves("me-0a").into_iter().chain(serves("me-0b"));
    let events = events.chain([ended("me-0a", data_ended.clone()), ended("me-0b", data_ended), fulfilled]);
    assert_eq!(lines(events.chain(serves("me-0c")).chain([ended("me-0c", asked)])), [""; 0]);
}

/// All night long sessions are started, and none gets ready.
#[test]
fn starts_that_lead_nowhere_are_told_once() {
    let late = || CloseReason::new(Initiator::Library, Cause::Timeout("the agent did not complete the handshake"));
    let nowhere = |attempt: u32| {
        let error = Event::StartFailed { error: Arc::new(ConnectError::Closed(late())), attempt, present: 0 };
        [started("me-0b"), ended("me-0b", late()), error]
    };
    let before = serves("me-0a").into_iter().chain([ended("me-0a", lost())]);
    let told = lines(before.chain((1..1000).flat_map(nowhere)));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("was lost") && told[1].contains("no new session yet: the session ended"), "{told:?}");
}

#[test]
fn what_an_sdk_makes_of_a_page_in_html_is_not_told() {
    for (cause, short) in [
        (
            "call failed: h:443 answered with status 503: malformed JSON: <html>",
            "call failed: h:443 answered with status 503",
        ),
        ("h answered with status 503", "h answered with status 503"),
        ("h answered with status 407 and no reason: a proxy?", "h answered with status 407 and no reason: a proxy?"),
        ("reset: by peer", "reset: by peer"),
    ] {
        assert_eq!(in_short(cause), short);
    }
}

#[test]
fn causes_that_are_ever_new_are_not_told_for_ever() {
    let (stdout, stderr) = told(Format::Text, false, |reporter| {
        let forward = reporter.of(&forward("1:db:2"));
        (0..100).for_each(|attempt| forward.tell(&reconnecting(attempt, &format!("request {attempt}"), None)));
    });
    assert_eq!((stdout.len(), stderr.lines().count()), (0, CAUSES_MAX));
}

fn of_place(id: &str, member: u32, event: SessionEvent) -> Event {
    Event::Session { session: session(id), member, event }
}

/// Three sessions that serve together.
fn three() -> Vec<Event> {
    let of = |(member, id): (u32, &str)| [begun(id), SessionEvent::Ready].map(|event| of_place(id, member, event));
    (0..).zip(["me-0a", "me-0b", "me-0c"]).flat_map(of).collect()
}

fn ended_beside(id: &str, member: u32, reason: CloseReason, idle: bool) -> Event {
    Event::SessionEnded { session: session(id), member, reason, idle, bytes_up: 0, bytes_down: 0 }
}

#[test]
fn one_of_several_sessions_is_told_to_be_over_if_connections_were_lost() {
    let over = || closed(Initiator::Service, "maintenance");
    for (reason, how) in [(lost(), "was lost"), (over(), "was ended")] {
        let told = lines(three().into_iter().chain([ended_beside("me-0b", 1, reason.clone(), false)]));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("session me-0b {how}, its connections are reset")), "{told:?}");
        let told = lines(three().into_iter().chain([ended_beside("me-0b", 1, reason, true)]));
        assert_eq!(told, [""; 0]);
    }
    // Of the last one the dormancy is told.
    let ends = [(0, "me-0a"), (1, "me-0b"), (2, "me-0c")].map(|(member, id)| ended_beside(id, member, over(), false));
    let told =
        lines(three().into_iter().chain(ends).chain([Event::Dormant { reason: over(), fulfilled: false, idle: None }]));
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[2].contains("the next connection starts a new session"), "{told:?}");
}

#[test]
fn what_sessions_lose_together_is_told_once() {
    let lost = |id, member| {
        of_place(id, member, SessionEvent::Reconnecting { attempt: 0, cause: "reset".into(), kind: None, next: None })
    };
    let failed = |id, member, attempt| {
        of_place(id, member, SessionEvent::Reconnecting { attempt, cause: "no route".into(), kind: None, next: None })
    };
    let resumed = |id, member| of_place(id, member, SessionEvent::Resumed { outage: Duration::from_secs(7) });
    let told = lines(three().into_iter().chain([
        lost("me-0a", 0),
        lost("me-0b", 1),
        failed("me-0a", 0, 1),
        lost("me-0c", 2),
        failed("me-0b", 1, 1),
        resumed("me-0b", 1),
        failed("me-0a", 0, 2),
        resumed("me-0a", 0),
        resumed("me-0c", 2),
    ]));
    let expected = [
        "ssmfwd: 1:db:2: websocket lost (reset): reconnecting; connections are kept",
        "ssmfwd: 1:db:2: still reconnecting: no route",
        "ssmfwd: 1:db:2: resumed after 7.0 s: nothing was lost",
    ];
    assert_eq!(told, expected);
}

#[test]
fn fewer_sessions_than_asked_for_are_told_and_a_pool_that_cannot_grow_is_not() {
    let failed =
        |wanted| Event::NotGrown { error: Arc::new(start_failure(ControlErrorKind::Throttled)), present: 1, wanted };
    let told = lines([failed(None), failed(Some(4)), Event::SessionsLimited { wanted: 16, allowed: 9 }]);
    let expected = [
        "ssmfwd: 1:db:2: 1 of 4 sessions, more later: StartSession of i-0a failed: no",
        "warning: 1:db:2: 9 of 16 sessions: one program has 16 to a target at most",
    ];
    assert_eq!(told, expected);
}

#[test]
fn rates_are_for_programs() {
    let rates = Event::SessionRates {
        session: session("me-0b"),
        member: 1,
        bytes_up_per_s: 2,
        bytes_down_per_s: 3,
        connections: 4,
    };
    assert_eq!(lines([rates.clone()]), [""; 0]);
    let (stdout, _) = told(Format::Json, false, |reporter| reporter.of(&forward("1:db:2")).tell(&rates));
    let expected = events(
        "1:db:2",
        &[r#"{"event":"session_rates",F,"session_id":"me-0b","member":1,"bytes_up_per_s":2,"bytes_down_per_s":3,
            "connections":4}"#],
    );
    assert_eq!(without_times(&stdout), expected);
}
