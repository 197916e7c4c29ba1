//! What a driver tells the owner of its session, outside the lock and in plain words.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_tungstenite::tungstenite;

use super::{Driver, Ended, Failure, Link};
use crate::{
    proto::Event,
    session::{Health, SessionEvent, shared::Status},
};

/// What is told outside the lock, in the order in which it happened.
pub(super) enum News {
    Event(Event),
    Lost(String),
    NotResumed(Failure),
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Driver<S> {
    /// What has happened, in that order.
    pub(super) fn tell_news(&mut self, news: News) {
        match news {
            News::Event(event) => self.tell(event),
            News::Lost(cause) => self.tell_loss(cause),
            News::NotResumed(failure) => self.tell_failure(failure),
        }
    }

    fn tell_loss(&mut self, cause: String) {
        tracing::debug!(session = %self.shared.id, cause, "websocket lost");
        // One that never said anything was an attempt that failed.
        if self.lost_at.is_some() {
            self.attempts = self.attempts.saturating_add(1);
        }
        let since = *self.lost_at.get_or_insert_with(Instant::now);
        self.set_health(Health::Reconnecting { since });
        let next = self.next_attempt();
        self.options.tell(SessionEvent::Reconnecting { attempt: self.attempts, cause, kind: None, next });
    }

    fn tell_failure(&self, Failure { cause, kind }: Failure) {
        tracing::debug!(session = %self.shared.id, attempt = self.attempts, cause, "not resumed");
        let next = self.next_attempt();
        self.options.tell(SessionEvent::Reconnecting { attempt: self.attempts, cause, kind, next });
    }

    fn next_attempt(&self) -> Option<Duration> {
        Some(self.resumes_at?.saturating_duration_since(Instant::now()))
    }

    fn set_health(&self, health: Health) {
        self.shared.health.send_if_modified(|present| {
            let changed = *present != health;
            *present = health;
            changed
        });
    }

    fn tell(&mut self, event: Event) {
        if !matches!(event, Event::Readable(_) | Event::Writable(_)) {
            tracing::debug!(session = %self.shared.id, ?event);
        }
        match event {
            Event::Ready { .. } => {
                self.options.tell(SessionEvent::Ready);
                self.shared.status.send_replace(Status::Ready);
            }
            Event::CustomerMessage(text) => self.options.tell(SessionEvent::CustomerMessage(text)),
            Event::DataKeyWanted { key_id, challenge } => {
                self.asking = Some(self.data_keys.ask(key_id, challenge));
                self.unpolled = true;
            }
            Event::Drained => self.shared.drained.notify_waiters(),
            Event::CanOpen => self.shared.can_open.notify_waiters(),
            Event::DestinationRefused(_) => self.options.tell(SessionEvent::DestinationRefused),
            Event::Paused(paused) => self.options.tell(SessionEvent::Paused(paused)),
            Event::Stalled(stalled) => {
                // While there is no websocket, that says more.
                if self.lost_at.is_none() {
                    self.set_health(if stalled { Health::Stalled } else { Health::Ready });
                }
                self.options.tell(SessionEvent::Stalled(stalled));
            }
            Event::Reconnect => {
                if let (Link::Down, Some(reconnect)) = (&self.link, &self.reconnect) {
                    self.link = Link::Dialling(reconnect());
                    self.unpolled = true;
                }
            }
            Event::Resumed => {
                self.attempts = 0;
                if let Some(since) = self.lost_at.take() {
                    let outage = since.elapsed();
                    tracing::debug!(session = %self.shared.id, ?outage, "resumed");
                    let stalled = self.shared.lock().proto.is_stalled();
                    self.set_health(if stalled { Health::Stalled } else { Health::Ready });
                    self.options.tell(SessionEvent::Resumed { outage });
                }
            }
            Event::Backpressure(behind) => self.options.tell(SessionEvent::Backpressure(behind)),
            Event::Unanswered(streams) => self.options.tell(SessionEvent::Unanswered(streams)),
            Event::SlowReader(_) => self.options.tell(SessionEvent::SlowReader),
            Event::Closed { reason, terminate } => self.ended = Some(Ended { reason, terminate }),
            Event::Readable(_) | Event::Writable(_) | Event::Unresponsive => {}
        }
    }
}

/// Why a websocket was lost, in words for people.
pub(super) fn loss(error: &tungstenite::Error) -> String {
    use tungstenite::{Error, error::ProtocolError};

    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => "it was cut".to_owned(),
        // That TLS had no orderly end either says nothing more.
        Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => "it was cut".to_owned(),
        Error::Io(error) => error.to_string(),
        Error::ConnectionClosed | Error::AlreadyClosed => "the gateway closed the websocket".to_owned(),
        Error::Protocol(error) => format!("the gateway broke the rules of websockets: {error}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tungstenite::{Error, error::ProtocolError};

    use super::*;

    #[test]
    fn losses_are_told_in_plain_words() {
        for (error, told) in [
            (Error::Protocol(ProtocolError::ResetWithoutClosingHandshake), "it was cut"),
            (Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "no close_notify")), "it was cut"),
            (Error::Io(io::Error::other("no route")), "no route"),
            (Error::AlreadyClosed, "the gateway closed the websocket"),
        ] {
            assert_eq!(loss(&error), told);
        }
    }
}
