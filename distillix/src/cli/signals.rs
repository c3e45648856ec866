//! Ctrl-C, and what a system sends to end a program.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The exit code of work that a signal ended in good order before it was whole, as shells give it for Ctrl-C.
pub(super) const STOPPED: u8 = 128 + SIGINT as u8;

/// Sets `flags` at a signal. One that comes while `armed` is set ends the program at once.
pub(super) fn watch(armed: &Arc<AtomicBool>, flags: &[&Arc<AtomicBool>]) -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        let mut registered = register_conditional_shutdown(signal, 128 + signal, Arc::clone(armed));
        for flag in flags {
            registered = registered.and_then(|_| register(signal, Arc::clone(flag)));
        }
        registered.context("cannot watch for signals")?;
    }
    Ok(())
}

/// A flag that the first signal sets; the second ends the program.
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    watch(&stop, &[&stop])?;
    Ok(stop)
}
