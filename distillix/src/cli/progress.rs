//! Progress of what takes more than a moment.

use super::output::stderr;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shorter work shows nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two lines where no terminal shows a bar.
const INTERVAL: Duration = Duration::from_secs(10);

/// A bar on a terminal, a line now and then elsewhere; on stderr.
pub(super) struct Progress {
    label: &'static str,
    total: Option<u64>,
    begin: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress of `label` up to `total`, if that is known.
    pub(super) fn new(label: &'static str, total: Option<u64>) -> Self {
        let now = Instant::now();
        Progress { label, total, begin: now, last_line: now, bar: None }
    }

    /// What it is the progress of.
    pub(super) fn label(&self) -> &'static str {
        self.label
    }

    /// Reports that `done` of the total is done.
    pub(super) fn at(&mut self, done: u64) {
        if self.begin.elapsed() < PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let (label, total) = (self.label, self.total);
            let bar = self.bar.get_or_insert_with(|| {
                let template = match total {
                    Some(_) => "{prefix} {bar:40} {percent}% {eta}",
                    None => "{prefix} {spinner} {human_pos}",
                };
                let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.with_prefix(label)
            });
            bar.set_position(done);
        } else if self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            let done = match self.total {
                Some(total) => format!("{}%", 100 * done / total.max(1)),
                None => done.to_string(),
            };
            stderr(&format!("{}: {done}", self.label));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
