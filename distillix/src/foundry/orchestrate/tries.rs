//! How often a request is sent again.

use super::gate::REFUSALS;
use crate::foundry::teacher::{Failure, FailureKind};

/// The tries of one request at one teacher.
#[derive(Debug)]
pub(super) struct Tries {
    /// Whether a teacher that is left alone is waited for.
    pub(super) patient: bool,
    /// Failures by the server's fault, and those of other kinds: the one says nothing of the other.
    outages: u32,
    others: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It failed for good.
    Fail,
    /// Send it again, after the wait that follows so many tries.
    Retry(u32),
    /// Send it again as soon as the teacher takes requests.
    Again,
}

impl Tries {
    pub(super) fn patient() -> Self {
        Tries { patient: true, outages: 0, others: 0 }
    }

    pub(super) fn impatient() -> Self {
        Tries { patient: false, ..Tries::patient() }
    }

    /// Whether no failure but outages has been counted yet.
    pub(super) fn is_first(&self) -> bool {
        self.others == 0
    }

    /// Counts a failure, and decides. `is_probe`: the request tried a server that was left alone. `is_teachers`: it may be the
    /// teacher's fault, whatever the request.
    pub(super) fn next(
        &mut self,
        failure: &Failure,
        is_probe: bool,
        is_teachers: bool,
        retries: u32,
    ) -> Next {
        let is_outage = failure.kind.is_outage();
        // That a server has enough to do, or is not well yet, is no fault of the request that happened to try it.
        if failure.again || failure.kind == FailureKind::RateLimited || is_probe && is_outage {
            return Next::Again;
        }
        let count = if is_outage { &mut self.outages } else { &mut self.others };
        *count += 1;
        let most = if is_teachers { REFUSALS - 1 } else { failure.kind.retries(retries) };
        if *count > most { Next::Fail } else { Next::Retry(*count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_apart_and_being_asked_to_wait_is_not_counted() {
        let mut tries = Tries::patient();
        let mut next = |kind| tries.next(&Failure::new(kind, ""), false, false, 8);
        for n in 1..=5 {
            assert_eq!(next(FailureKind::ServerError), Next::Retry(n));
            assert_eq!(next(FailureKind::RateLimited), Next::Again);
        }
        assert_eq!(next(FailureKind::Empty), Next::Retry(1));
        assert_eq!(next(FailureKind::Empty), Next::Retry(2));
        assert_eq!(next(FailureKind::Timeout), Next::Retry(6));
        assert_eq!(next(FailureKind::Empty), Next::Fail);
        let mut tries = Tries::patient();
        let rejected = Failure::new(FailureKind::Rejected, "");
        for n in 1..REFUSALS {
            assert_eq!(tries.next(&rejected, false, true, 8), Next::Retry(n));
        }
        assert_eq!(tries.next(&rejected, false, true, 8), Next::Fail);
        let mut tries = Tries::patient();
        assert_eq!(tries.next(&rejected, false, true, 8), Next::Retry(1));
        assert_eq!(tries.next(&rejected, false, false, 8), Next::Fail);
        let ill = Failure::new(FailureKind::Timeout, "");
        assert_eq!(Tries::patient().next(&ill, true, false, 0), Next::Again);
    }
}
