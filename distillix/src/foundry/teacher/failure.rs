//! Why a teacher did not answer.

use super::{Usage, printable};
use std::fmt;
use std::time::Duration;

/// A request that brought no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What kind of failure it is, which decides what to do.
    pub kind: FailureKind,
    /// One line for people.
    pub message: String,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
    /// What the request may have cost all the same.
    pub spent: Spent,
    /// The teacher will ask in another way the next time, which can be at once.
    pub again: bool,
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Spent {
    /// The server refused it before any work.
    Nothing,
    /// The server may have worked: the worst case is assumed.
    #[default]
    Unknown,
    /// The server counted.
    Known(Usage, Option<f64>),
}

impl Spent {
    /// Tokens, where the server counted.
    pub(super) fn usage(self) -> Option<Usage> {
        if let Spent::Known(usage, _) = self { Some(usage) } else { None }
    }

    /// Money, where the server said how much.
    pub(super) fn cost(self) -> Option<f64> {
        if let Spent::Known(_, cost) = self { cost } else { None }
    }
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Too many requests.
    RateLimited,
    /// The server has a fault of its own.
    ServerError,
    /// No whole answer in time.
    Timeout,
    /// No connection, or one that was cut.
    Connection,
    /// What came is not what the protocol says.
    BadAnswer,
    /// More bytes than the longest answer can have.
    TooLarge,
    /// An answer without text.
    Empty,
    /// An answer with control characters.
    ControlCharacters,
    /// The server does not take this request.
    Rejected,
    /// The server does not take our credentials, or wants payment.
    Unauthorized,
    /// The server has no such model or no such address.
    NotFound,
    /// The candidates do not agree with each other.
    NoAgreement,
}

impl FailureKind {
    const ALL: [FailureKind; 12] = [
        FailureKind::RateLimited,
        FailureKind::ServerError,
        FailureKind::Timeout,
        FailureKind::Connection,
        FailureKind::BadAnswer,
        FailureKind::TooLarge,
        FailureKind::Empty,
        FailureKind::ControlCharacters,
        FailureKind::Rejected,
        FailureKind::Unauthorized,
        FailureKind::NotFound,
        FailureKind::NoAgreement,
    ];

    /// Its name in the store and in tables.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::RateLimited => "rate_limited",
            FailureKind::ServerError => "server_error",
            FailureKind::Timeout => "timeout",
            FailureKind::Connection => "connection",
            FailureKind::BadAnswer => "bad_answer",
            FailureKind::TooLarge => "too_large",
            FailureKind::Empty => "empty",
            FailureKind::ControlCharacters => "control_characters",
            FailureKind::Rejected => "rejected",
            FailureKind::Unauthorized => "unauthorized",
            FailureKind::NotFound => "not_found",
            FailureKind::NoAgreement => "no_agreement",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How often such a request is sent again, if what may pass is retried `retries` times. An answer that is no use as a
    /// text has been paid for, and is likely to come again. A refusal for asking too often says nothing of the request, and is
    /// not counted.
    pub fn retries(self, retries: u32) -> u32 {
        match self {
            FailureKind::RateLimited => u32::MAX,
            FailureKind::ServerError
            | FailureKind::Timeout
            | FailureKind::Connection
            | FailureKind::BadAnswer => retries,
            FailureKind::TooLarge | FailureKind::Empty | FailureKind::ControlCharacters => retries.min(2),
            FailureKind::Rejected
            | FailureKind::Unauthorized
            | FailureKind::NotFound
            | FailureKind::NoAgreement => 0,
        }
    }

    /// Whether it speaks against the server's health.
    pub fn is_outage(self) -> bool {
        matches!(
            self,
            FailureKind::ServerError
                | FailureKind::Timeout
                | FailureKind::Connection
                | FailureKind::BadAnswer
        )
    }

    /// Whether every other request to this teacher would fail in the same way, as long as it has not answered any.
    pub fn is_fatal(self) -> bool {
        matches!(self, FailureKind::Unauthorized | FailureKind::NotFound)
    }
}

impl Failure {
    /// A failure that may have cost something.
    pub fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        Failure {
            kind,
            message: printable(message.as_ref()),
            retry_after: None,
            spent: Spent::Unknown,
            again: false,
        }
    }

    /// The same, with what it cost.
    pub fn spent(self, spent: Spent) -> Self {
        Failure { spent, ..self }
    }

    /// The failure that an HTTP status stands for. A refusal costs nothing; a server that failed may have worked before.
    pub fn of_status(status: u16, message: &str) -> Self {
        let kind = match status {
            429 => FailureKind::RateLimited,
            // A 403 may be about this one prompt.
            401 | 402 => FailureKind::Unauthorized,
            404 | 405 | 410 => FailureKind::NotFound,
            408 => FailureKind::Timeout,
            409 | 425 | 500.. => FailureKind::ServerError,
            300..=399 => FailureKind::NotFound,
            _ => FailureKind::Rejected,
        };
        let spent = match status {
            300..=405 | 410 | 413 | 422 | 429 => Spent::Nothing,
            _ => Spent::Unknown,
        };
        Failure::new(kind, format!("HTTP {status}: {message}")).spent(spent)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_kinds() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::named(kind.name()), Some(kind));
        }
        assert_eq!(FailureKind::named("other"), None);
    }

    #[test]
    fn statuses_say_what_to_do() {
        let kind = |status| Failure::of_status(status, "").kind;
        assert!(kind(429) == FailureKind::RateLimited && !kind(429).is_outage());
        assert!(kind(503).retries(5) == 5 && kind(503).is_outage());
        assert!(kind(401).is_fatal() && kind(404).is_fatal() && kind(301).is_fatal());
        for status in [400, 403, 413, 422] {
            assert!(kind(status).retries(5) == 0 && !kind(status).is_fatal());
        }
        for (status, spent) in
            [(400, Spent::Nothing), (429, Spent::Nothing), (408, Spent::Unknown), (502, Spent::Unknown)]
        {
            assert_eq!(Failure::of_status(status, "").spent, spent);
        }
    }

    #[test]
    fn messages_are_one_printable_line() {
        let failure = Failure::new(FailureKind::ServerError, format!("a\u{1b}[31m\n b{}", "ü".repeat(400)));
        assert!(failure.message.starts_with("a [31m b"));
        assert!(failure.message.len() < 260 && failure.message.ends_with('…'));
    }
}
