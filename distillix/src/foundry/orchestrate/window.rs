//! How many requests a teacher has at a time: halved when it says that they are too many, one more when as many were
//! answered as it has (additive increase, multiplicative decrease: Chiu and Jain, 1989, as in TCP).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Lets so many in.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    size: usize,
    /// Answers since it last changed.
    answers: usize,
    /// Permits that exist beyond `size`, and vanish as they come back.
    surplus: usize,
    /// How often it was halved since the last answer, and when last.
    refusals: u32,
    halved: Option<Instant>,
}

/// A place in the window.
#[derive(Debug)]
pub(super) struct Place<'a> {
    window: &'a Window,
    /// `None` only while it is dropped.
    permit: Option<SemaphorePermit<'a>>,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        let state = State { size: most, answers: 0, surplus: 0, refusals: 0, halved: None };
        Window { most, permits: Semaphore::new(most), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(super) async fn enter(&self) -> Place<'_> {
        // Nobody closes the semaphore, so there always is a permit.
        Place { window: self, permit: self.permits.acquire().await.ok() }
    }

    /// Whether at most one place is taken.
    pub(super) fn at_most_one(&self) -> bool {
        let state = self.lock();
        state.size + state.surplus <= self.permits.available_permits() + 1
    }

    /// An answer came.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        state.refusals = 0;
        state.answers += 1;
        if state.answers >= state.size && state.size < self.most {
            state.size += 1;
            state.answers = 0;
            match state.surplus.checked_sub(1) {
                Some(surplus) => state.surplus = surplus,
                None => self.permits.add_permits(1),
            }
        }
    }

    /// A request that was sent at `sent` was one too many. Returns how often that was so since the last answer. Requests that were
    /// under way together count once.
    pub(super) fn refused(&self, sent: Instant) -> u32 {
        let mut state = self.lock();
        if state.halved.is_none_or(|halved| sent > halved) {
            let fewer = state.size - (state.size / 2).max(1);
            state.size -= fewer;
            state.answers = 0;
            state.surplus += fewer - self.permits.forget_permits(fewer);
            state.refusals += 1;
            state.halved = Some(Instant::now());
        }
        state.refusals.max(1)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        let Some(permit) = self.permit.take() else { return };
        if state.surplus > 0 {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many get in.
    fn room(window: &Window) -> usize {
        let mut places = Vec::new();
        while let Ok(permit) = window.permits.try_acquire() {
            places.push(Place { window, permit: Some(permit) });
        }
        places.len()
    }

    #[tokio::test]
    async fn it_halves_once_for_requests_of_one_time_and_grows_with_answers() {
        let window = Window::new(8);
        let mut places = Vec::new();
        for _ in 0..7 {
            places.push(window.enter().await);
        }
        let sent = Instant::now();
        assert_eq!([window.refused(sent), window.refused(sent)], [1, 1]);
        assert_eq!(room(&window), 0, "7 are out, 4 are allowed");
        for _ in 0..3 {
            window.answered();
        }
        places.truncate(4);
        assert_eq!(room(&window), 0);
        window.answered();
        assert_eq!(room(&window), 1, "one more for a round of answers");
        drop(places);
        assert_eq!(room(&window), 5);
        for times in 1..=4 {
            assert_eq!(window.refused(Instant::now()), times);
        }
        assert_eq!(room(&window), 1, "never none");
        assert!(window.at_most_one());
        for size in 1..8 {
            assert_eq!(room(&window), size);
            (0..size).for_each(|_| window.answered());
        }
        (0..20).for_each(|_| window.answered());
        assert_eq!(room(&window), 8, "never more than asked for");
        assert_eq!(window.refused(Instant::now()), 1);
    }
}
