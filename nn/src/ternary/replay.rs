//! The codes of one pass, given to another.
//!
//! Where sums are rounded in another order, an activation near the middle between two codes gets the other one, and
//! what follows is off by far more than any rounding. Two devices, or two orders of summation, are therefore compared
//! with the codes of the one replayed on the other: all that is left to differ is what the numerics promise.

use super::QuantizedRows;
use std::cell::RefCell;
use std::collections::VecDeque;
use tensor::{Error, Result};

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Off) };
}

/// What happens to the activations that this thread quantizes for its products.
enum Mode {
    Off,
    Record(Vec<QuantizedRows>),
    Replay(VecDeque<QuantizedRows>),
}

/// What `f` gives, and the codes of the activations that its products read, in order. `f` computes on this thread, and
/// no block of it twice.
pub fn record<T>(f: impl FnOnce() -> T) -> (T, Vec<QuantizedRows>) {
    let (result, mode) = within(Mode::Record(Vec::new()), f);
    match mode {
        Mode::Record(codes) => (result, codes),
        _ => (result, Vec::new()),
    }
}

/// What `f` gives if its products read `codes`, wherever those lie, instead of the codes of their own activations.
///
/// # Errors
/// That of `f`, or if its products read other shapes, or more or fewer of them.
pub fn replay<T>(codes: Vec<QuantizedRows>, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, mode) = within(Mode::Replay(codes.into()), f);
    let result = result?;
    match mode {
        Mode::Replay(left) if !left.is_empty() => {
            Err(Error::argument("replay", format!("the codes of {} products were not read", left.len())))
        }
        _ => Ok(result),
    }
}

/// Runs `f` in a mode; also what became of the mode.
fn within<T>(mode: Mode, f: impl FnOnce() -> T) -> (T, Mode) {
    /// Goes back to the mode before, also if `f` panics.
    struct Back(Mode);
    impl Drop for Back {
        fn drop(&mut self) {
            MODE.set(std::mem::replace(&mut self.0, Mode::Off));
        }
    }
    let _back = Back(MODE.replace(mode));
    let result = f();
    (result, MODE.replace(Mode::Off))
}

/// What products read whose own activations are `rows`.
pub(crate) fn chosen(rows: QuantizedRows) -> Result<QuantizedRows> {
    MODE.with_borrow_mut(|mode| match mode {
        Mode::Off => Ok(rows),
        Mode::Record(codes) => {
            codes.push(rows.clone());
            Ok(rows)
        }
        Mode::Replay(codes) => {
            let Some(given) = codes.pop_front() else {
                return Err(Error::argument("replay", "there are codes for fewer products"));
            };
            let (dims, device) = (rows.codes().dims(), rows.codes().device());
            if given.codes().dims() != dims {
                let message = format!("codes {:?} for activations {dims:?}", given.codes().dims());
                return Err(Error::shape("replay", message));
            }
            QuantizedRows::from_parts(given.codes().to_device(&device)?, given.scales().to_device(&device)?)
        }
    })
}
