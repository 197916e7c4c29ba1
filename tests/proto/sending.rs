//! How much is sent, how fast, and what it makes others wait: on links with a bandwidth, in virtual time.

use std::time::Duration;

use crate::{
    link::{Link, Path},
    peer::ms,
};

/// What came of an upload with a byte going to and fro beside it: bytes a second, and the median and the 99th percentile of the
/// byte's round trips in milliseconds, alone and beside the upload.
#[derive(Debug)]
struct Beside {
    rate: f64,
    idle: (f64, f64),
    busy: (f64, f64),
}

/// The upload is measured after two seconds, when the path is known.
fn beside_an_upload(path: Path, message_rate: u32) -> Beside {
    let mut link = Link::ready(path, |config| config.max_message_rate = message_rate);
    link.ping();
    let start = link.now;
    link.run(ms(1000));
    let idle = link.latency(start);
    link.upload();
    link.run(ms(2000));
    let start = link.now;
    let rate = link.throughput(ms(15_000));
    Beside { rate, idle, busy: link.latency(start) }
}

/// With headers of messages and frames, 2 to 12 % of a link are not the user's.
fn payload_share(bandwidth: u64) -> f64 {
    let message = (bandwidth as f64 * 0.003).clamp(1024.0, 32_768.0);
    bandwidth as f64 * message / (message + 120.0 + 8.0)
}

/// A late client sends late by itself; what is asked for is that it does not lose the link, nor flood it.
const HICCUPS: [(Duration, Duration); 3] = [(ms(8), ms(50)), (ms(5), ms(12)), (ms(20), ms(200))];

#[test]
fn a_link_is_used_and_what_is_beside_an_upload_does_not_wait() {
    for (round_trip, bandwidth) in [(20, 2_500_000), (40, 2_500_000), (40, 2_000_000), (80, 500_000), (300, 2_500_000)]
    {
        for message_rate in [0, 900] {
            let seen = beside_an_upload(Path::new(round_trip, bandwidth), message_rate);
            let what = format!("{round_trip} ms, {bandwidth} B/s, {message_rate} messages: {seen:?}");
            // Over 300 ms the first seconds are part of the start.
            let used = if round_trip < 300 { 0.95 } else { 0.9 };
            assert!(seen.rate >= used * payload_share(bandwidth), "{what}");
            assert!(seen.busy.0 <= 1.25 * seen.idle.0, "{what}");
            assert!(seen.busy.1 <= 2.0 * seen.idle.0, "{what}");
        }
    }
}

#[test]
fn a_client_that_is_late_again_and_again_loses_little_of_the_link() {
    for (lasts, every) in HICCUPS {
        for (round_trip, bandwidth) in [(1, 100_000_000), (20, 2_500_000), (40, 2_500_000)] {
            let path = Path { hiccups: Some((lasts, every)), ..Path::new(round_trip, bandwidth) };
            let seen = beside_an_upload(path, 0);
            let what = format!("{lasts:?} of {every:?}, {round_trip} ms, {bandwidth} B/s: {seen:?}");
            assert!(seen.rate >= 0.93 * payload_share(bandwidth), "{what}");
            // What comes in lumps is given room for, up to 25 ms.
            assert!(seen.busy.0 <= 1.25 * round_trip as f64 + 25.0, "{what}");
        }
    }
}

#[test]
fn without_a_round_trip_the_path_is_full() {
    let seen = beside_an_upload(Path { round_trip: Duration::from_micros(50), ..Path::new(0, 100_000_000) }, 0);
    assert!(seen.rate >= 0.98 * payload_share(100_000_000), "{seen:?}");
    assert!(seen.busy.1 <= 5.0, "{seen:?}");
}

#[test]
fn over_a_long_way_the_bounds_are_reached_within_a_second() {
    let path = Path::new(80, 1_000_000_000);
    let bound = (4 << 20) as f64 / 0.08;
    let mut link = Link::ready(path, |config| config.max_message_rate = 0);
    link.upload();
    link.run(ms(1000));
    let rate = link.throughput(ms(1000));
    assert!(rate >= 0.95 * bound, "{rate} of {bound}");

    let mut link = Link::ready(path, |_| {});
    link.upload();
    link.run(ms(1000));
    let rate = link.throughput(ms(1000));
    let bound = 900.0 * (32 << 10) as f64;
    assert!(rate >= 0.98 * bound && rate <= bound, "{rate} of {bound}");
}

/// The agent's own buffers are filled first, at the speed of the link; then its socket is before whatever comes.
#[test]
fn a_slow_destination_is_not_given_more_than_the_agents_buffers_hold() {
    for message_rate in [0, 900] {
        let path = Path { destination: Some(2_000_000), ..Path::new(40, 1_000_000_000) };
        let mut link = Link::ready(path, |config| config.max_message_rate = message_rate);
        link.ping();
        link.run(ms(1000));
        link.upload();
        link.run(ms(4000));
        let start = link.now;
        let rate = link.throughput(ms(20_000));
        let (median, most) = link.latency(start);
        assert!((1_990_000.0..2_010_000.0).contains(&rate), "{rate}");
        assert!(median <= 160.0 && most <= 200.0, "{median} {most}");
        assert!(link.session.occupancy().unacked_bytes <= 160_000, "{:?}", link.session.occupancy());
    }
}

/// A kernel's socket takes nothing until a third of it is free: with the agent's buffers full, whatever comes waits for
/// that. So they must not stay full.
#[test]
fn a_destination_that_takes_in_lumps_does_not_hold_up_what_is_beside() {
    for message_rate in [0, 900] {
        let path = Path { destination: Some(2_000_000), lump: 800_000, ..Path::new(40, 1_000_000_000) };
        let mut link = Link::ready(path, |config| config.max_message_rate = message_rate);
        link.ping();
        link.run(ms(1000));
        link.upload();
        link.run(ms(6000));
        let start = link.now;
        let rate = link.throughput(ms(60_000));
        let (median, most) = link.latency(start);
        assert!((1_900_000.0..2_100_000.0).contains(&rate), "{rate}");
        assert!(median <= 50.0 && most <= 50.0, "{median} {most}");
    }
}

/// It is the network that stands still again and again, and its pace that changes: nothing is to be gained by sending less.
#[test]
fn a_way_that_stumbles_loses_nothing_to_a_ceiling() {
    for (lasts, every) in [(ms(400), ms(1100)), (ms(150), ms(1200)), (ms(300), ms(4000)), (ms(250), ms(12_000))] {
        let path = Path { hiccups: Some((lasts, every)), ..Path::new(40, 10_000_000) };
        let mut link = Link::ready(path, |_| {});
        link.upload();
        link.run(ms(3000));
        let awake = 1.0 - lasts.as_secs_f64() / every.as_secs_f64();
        let rate = link.throughput(ms(180_000));
        assert!(rate >= 0.96 * awake * 10_000_000.0, "{lasts:?} of {every:?}: {rate}");
    }
}

/// What is seldom sent is not taken for the destination's pace.
#[test]
fn a_trickle_over_a_way_that_stands_still_now_and_then_sets_no_ceiling() {
    let path = Path { hiccups: Some((ms(300), ms(1500))), ..Path::new(40, 10_000_000) };
    let mut link = Link::ready(path, |_| {});
    link.ping();
    link.run(ms(20_000));
    link.set_hiccups(None);
    link.upload();
    link.run(ms(1500));
    let rate = link.throughput(ms(3000));
    assert!(rate >= 0.9 * 10_000_000.0, "{rate}");
}

#[test]
fn a_link_that_becomes_slower_or_faster_is_followed() {
    let mut link = Link::ready(Path::new(40, 8_000_000), |_| {});
    link.ping();
    link.upload();
    link.run(ms(3000));
    link.set_bandwidth(1_000_000);
    link.run(ms(3000));
    let start = link.now;
    assert!(link.throughput(ms(3000)) >= 0.9 * 1_000_000.0);
    assert!(link.latency(start).0 <= 60.0, "{:?}", link.latency(start));
    link.set_bandwidth(8_000_000);
    link.run(ms(2000));
    assert!(link.throughput(ms(3000)) >= 0.9 * 8_000_000.0);
}

/// Somebody else fills the queue of the link: that is not a reason to fall silent.
#[test]
fn a_way_that_becomes_longer_is_followed() {
    let mut link = Link::ready(Path::new(20, 5_000_000), |_| {});
    link.upload();
    link.run(ms(3000));
    link.set_round_trip(ms(200));
    link.run(ms(6000));
    let rate = link.throughput(ms(3000));
    assert!(rate >= 0.85 * 5_000_000.0, "{rate}");
}

/// No more than a token is waited for, and usually not that.
#[test]
fn a_lone_byte_does_not_wait() {
    for message_rate in [0, 1, 900] {
        let mut link = Link::ready(Path::new(40, 100_000_000), |config| config.max_message_rate = message_rate);
        // The shield and the keepalive take no tokens.
        link.ping();
        link.run(ms(41));
        assert_eq!(link.pings.len(), 1, "{message_rate}");
        assert!(link.pings[0].1 < ms(41));
    }
}

#[test]
fn no_message_is_larger_than_the_way_takes_in_a_few_milliseconds() {
    for bandwidth in [100_000, 1_000_000, 2_500_000, 5_000_000] {
        let mut link = Link::ready(Path::new(40, bandwidth), |_| {});
        link.upload();
        link.run(ms(3000));
        let start = link.now;
        link.run(ms(3000));
        let sizes = link.sizes.iter().filter(|(at, _)| *at >= start).map(|(_, size)| *size);
        let largest = sizes.max().expect("it goes on");
        let most = (bandwidth as f64 * 0.0032) as usize;
        assert!(largest <= most.max(1024) + 120, "{bandwidth}: {largest}");
        assert!(largest >= most / 2, "{bandwidth}: {largest}");
    }
}
