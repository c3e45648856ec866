//! `--threads`.

use anyhow::{Context, Result};
use std::num::NonZeroUsize;

/// Lets the program compute with so many threads; `None` for one a core. Results do not depend on it. To be called
/// before anything is computed.
pub(super) fn set(threads: Option<NonZeroUsize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
    pool.build_global().context("cannot start the threads")
}
