//! Snapshots made by hand, for tests.

use std::time::{Duration, UNIX_EPOCH};

use crate::{
    cli::{
        board::{ForwardSnapshot, Snapshot},
        clock::Timestamp,
    },
    forward::{ConnectionStatus, ForwardState, ForwardStatus, LocalAddress, Peer, SessionStatus, Totals},
    proto::Statistics,
    session::{Health, SessionId},
};

/// `db`, which is ready, and `cache`, which is not.
pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        uptime: Duration::from_millis(3_723_500),
        started_at: Timestamp::of(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        forwards: vec![db(), cache()],
    }
}

fn tcp(text: &str) -> LocalAddress {
    LocalAddress::Tcp(text.parse().expect("an address"))
}

fn db() -> ForwardSnapshot {
    let session = SessionId("alice-0123456789abcdef0".into());
    let statistics = Statistics {
        bytes_up: 4000,
        bytes_down: 5000,
        bytes_up_per_s: 1000,
        bytes_down_per_s: 20_000,
        retransmissions: 6,
        ..Statistics::default()
    };
    let ready = SessionStatus {
        session: session.clone(),
        member: 0,
        health: Health::Ready,
        serves: true,
        connections: 1,
        age: Duration::from_secs(3600),
        rtt: Some(Duration::from_micros(23_500)),
        statistics,
    };
    let stalled = SessionStatus {
        session: SessionId("alice-0fedcba9876543210".into()),
        member: 1,
        health: Health::Stalled,
        serves: false,
        connections: 0,
        age: Duration::from_secs(60),
        rtt: None,
        statistics: Statistics::default(),
    };
    let connection = |id, port: u16, millis, session, bytes_up, bytes_down| ConnectionStatus {
        id,
        peer: Peer::Tcp(([127, 0, 0, 1], port).into()),
        age: Duration::from_millis(millis),
        session,
        bytes_up,
        bytes_down,
    };
    ForwardSnapshot {
        name: "db".into(),
        destination: "db.internal:3306".into(),
        target: "name:bastion".into(),
        status: ForwardStatus {
            state: ForwardState::Ready,
            addresses: vec![tcp("127.0.0.1:13306"), tcp("[::1]:13306")],
            sessions: vec![ready, stalled],
            connections: vec![
                connection(3, 50_000, 61_000, Some(session), 4000, 5000),
                connection(7, 50_001, 20, None, 0, 0),
            ],
            totals: Totals {
                connections: 7,
                // More than a float can tell apart.
                bytes_up: 9_007_199_254_740_993,
                bytes_down: 5000,
                refused: 1,
                unserved: 2,
                limited: 8,
                sessions: 3,
                start_failures: 4,
                replacements: 1,
                resumptions: 5,
                retransmissions: 6,
            },
        },
    }
}

fn cache() -> ForwardSnapshot {
    ForwardSnapshot {
        name: "cache\n\"\\</script>".into(),
        destination: "redis.internal:6379".into(),
        target: "ecs:prod/worker".into(),
        status: ForwardStatus {
            state: ForwardState::Reconnecting { since: Duration::from_millis(2500) },
            addresses: vec![LocalAddress::Unix("/run/user/1000/cache".into())],
            ..ForwardStatus::default()
        },
    }
}
