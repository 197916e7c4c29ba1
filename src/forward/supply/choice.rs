//! Which session a new connection gets: the one that it will share with the least.
//!
//! One without connections comes first, then the quietest, then the one with the fewest connections. So a transfer and
//! somebody who types end up on different sessions when there is a choice, and so do two transfers.

use std::sync::Arc;

use super::{Tunnel, member::Member};
use crate::proto::Mode;

/// Bytes per second, both ways, below which a session is quiet: people and queries, not transfers.
const QUIET: u64 = 32 << 10;

/// The session with the least to share, and whether a new connection would have it for itself. Statistics are looked at
/// only if they decide.
pub(super) fn least_loaded<'a, T: Tunnel>(
    members: impl Iterator<Item = &'a Arc<Member<T>>>,
) -> Option<(&'a Arc<Member<T>>, bool)> {
    let mut members: Vec<_> = members.map(|member| (others(member), member)).collect();
    members.sort_by_key(|(others, member)| (*others > 0, member.slot));
    match members[..] {
        [] => None,
        [(0, member), ..] => Some((member, true)),
        [(_, member)] => Some((member, false)),
        _ => {
            let load = |(others, member): &(usize, &'a Arc<Member<T>>)| (activity(member), *others, member.slot);
            members.into_iter().min_by_key(load).map(|(_, member)| (member, false))
        }
    }
}

/// With whom a new connection would share a session. In basic mode it would also wait for those that linger.
fn others<T: Tunnel>(member: &Member<T>) -> usize {
    if member.tunnel.mode() == Mode::Basic { member.leases() } else { member.connections() }
}

/// How much a session carries, in steps of four times as much: what is less of a difference says nothing.
fn activity<T: Tunnel>(member: &Member<T>) -> u32 {
    let statistics = member.tunnel.statistics();
    let rate = statistics.bytes_up_per_s.saturating_add(statistics.bytes_down_per_s);
    (rate / QUIET).checked_ilog2().map_or(0, |doublings| doublings / 2 + 1)
}
