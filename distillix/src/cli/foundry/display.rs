//! How a run is shown: a bar on a terminal, a line now and then elsewhere, JSON lines for programs, a table at the end.

use super::Output;
use crate::foundry::derive::Derived;
use crate::foundry::generate::{Ended, Event, Progress, Summary};
use crate::foundry::store::Status;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two lines where no terminal shows a bar.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time between two JSON lines.
const RECORDS: Duration = Duration::from_secs(2);

pub(super) struct Display {
    output: Output,
    bar: Option<ProgressBar>,
    last_line: Instant,
    last_record: Instant,
    /// The last times and counts, for a rate that follows changes.
    history: Vec<(Duration, u64)>,
}

impl Display {
    pub(super) fn new(output: Output) -> Self {
        let now = Instant::now();
        Display { output, bar: None, last_line: now, last_record: now, history: Vec::new() }
    }

    /// That nobody can read it is no reason to end a run.
    fn say(&self, text: &str) {
        let print = || {
            let _ = self.output.prose(text);
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Names the store.
    pub(super) fn store(&self, path: &Path) {
        self.say(&format!("store: {}", path.display()));
    }

    pub(super) fn show(&mut self, event: Event) {
        match event {
            Event::Begin { prompts, copies, status } => {
                let copies = if copies > 0 { format!(" ({copies} copies left out)") } else { String::new() };
                let before = match status.done + status.failed {
                    0 => String::new(),
                    _ => format!("; {} answered and {} failed before", status.done, status.failed),
                };
                self.say(&format!("{prompts} prompts{copies}, {} answers wanted{before}", status.wanted));
                let _ = self.output.record(&json!({"event": "begin", "prompts": prompts, "status": status}));
                if std::io::stderr().is_terminal() {
                    let bar =
                        ProgressBar::with_draw_target(Some(status.wanted), ProgressDrawTarget::stderr());
                    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
                        bar.set_style(style);
                    }
                    bar.set_position(status.done + status.failed);
                    self.bar = Some(bar);
                }
            }
            Event::Warning(text) => {
                self.say(&format!("warning: {text}"));
                let _ = self.output.record(&json!({"event": "warning", "text": text}));
            }
            Event::Stopping => {
                self.say("stopping: waiting for the requests under way; Ctrl-C again ends at once");
            }
            Event::Progress(progress) => self.progress(&progress),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        self.history.push((progress.elapsed, progress.settled));
        // Half a minute of ticks.
        if self.history.len() > 150 {
            self.history.remove(0);
        }
        let line = self.line(progress);
        if let Some(bar) = &self.bar {
            bar.set_position(progress.done + progress.failed);
            bar.set_message(line);
        } else if self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            self.say(&format!("{}/{}  {line}", progress.done + progress.failed, progress.wanted));
        }
        if self.last_record.elapsed() >= RECORDS {
            self.last_record = Instant::now();
            let _ = self.output.record(&json!({
                "event": "progress", "wanted": progress.wanted, "done": progress.done, "failed": progress.failed,
                "seconds": progress.elapsed.as_secs_f64(), "rate": self.rate(), "spent": progress.spent,
            }));
        }
    }

    /// Samples a second of late.
    fn rate(&self) -> f64 {
        match (self.history.first(), self.history.last()) {
            (Some(first), Some(last)) if last.0 > first.0 => {
                (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let rate = self.rate();
        let left = progress.wanted.saturating_sub(progress.done + progress.failed);
        let left =
            if rate > 0.0 { format!("  {} left", duration(left as f64 / rate)) } else { String::new() };
        let teachers: Vec<String> = progress
            .teachers
            .iter()
            .map(|teacher| {
                let sent = teacher.answered + teacher.failed + teacher.retried;
                let share = if sent == 0 { 100.0 } else { 100.0 * teacher.answered as f64 / sent as f64 };
                let waits = teacher.waits.map_or(String::new(), |waits| format!(" ({waits})"));
                let name =
                    if progress.teachers.len() > 1 { format!("{} ", teacher.label) } else { String::new() };
                format!("{name}{share:.0}% ok{waits}")
            })
            .collect();
        let cost = if progress.spent.cost > 0.0 {
            format!("  cost {:.4}", progress.spent.cost)
        } else {
            String::new()
        };
        let failed =
            if progress.failed > 0 { format!("  {} failed", progress.failed) } else { String::new() };
        format!("{rate:.1}/s  {}{failed}{cost}{left}", teachers.join(", "))
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The end of a run that did nothing.
    pub(super) fn stopped_early(&self) -> Result<()> {
        self.output.record(&json!({"event": "end", "ended": "stopped"}))?;
        self.output.prose("stopped before the first request; the same command goes on")?;
        Ok(())
    }

    /// The table at the end.
    pub(super) fn summary(
        &self,
        summary: &Summary,
        path: &Path,
        derived: &Derived,
        only_clean: bool,
    ) -> Result<()> {
        let records = derived.records;
        let Summary { status, progress, ended } = summary;
        let ended_as = match ended {
            None => "done",
            Some(Ended::Stopped) => "stopped",
            Some(Ended::Budget(_)) => "budget",
            Some(Ended::Teacher(_)) => "teacher",
        };
        self.output.record(&json!({
            "event": "end", "ended": ended_as, "status": status, "left": status.left(), "seconds": progress.elapsed.as_secs_f64(),
            "output": path, "records": records, "clean": derived.report,
        }))?;
        let seconds = progress.elapsed.as_secs_f64();
        self.output.prose(&format!(
            "{} of {} answered, {} failed, {} left; {} settled in {} ({:.1}/s)",
            status.done,
            status.wanted,
            status.failed,
            status.left(),
            progress.settled,
            duration(seconds),
            progress.settled as f64 / seconds.max(1e-9)
        ))?;
        for teacher in progress.teachers.iter().filter(|teacher| teacher.breaker.0 > 0) {
            let (opened, closed) = teacher.breaker;
            self.output.prose(&format!(
                "{} was left alone {opened} times, and was well again {closed} times",
                teacher.label
            ))?;
        }
        table(self.output, status)?;
        cleaning(self.output, derived, only_clean)?;
        match ended {
            None => {}
            Some(Ended::Stopped) => self.output.prose("stopped; the same command goes on")?,
            Some(Ended::Budget(limit)) => self.output.prose(&format!(
                "the budget has no room for {} more ({limit}); the same command with a larger one goes on",
                status.left()
            ))?,
            Some(Ended::Teacher(why)) => self.output.prose(&format!("ended by a teacher: {why}"))?,
        }
        if status.failed > 0 {
            self.output.prose("failed prompts are tried again with --retry-failed")?;
        }
        if records > 0 {
            self.output.prose(&format!("{records} records in {}", path.display()))?;
        }
        Ok(())
    }
}

/// Money for people. What nobody knows the price of is not free.
fn cost(cost: f64) -> String {
    if cost > 0.0 { format!("{cost:.4}") } else { "-".to_owned() }
}

/// What was spent by teacher, and what failed by reason.
pub(super) fn table(output: Output, status: &Status) -> Result<()> {
    if !status.spending.is_empty() {
        output.prose(&format!(
            "\n  {:<44} {:>9} {:>9} {:>12} {:>12} {:>10}",
            "teacher", "requests", "answers", "tokens read", "written", "cost"
        ))?;
    }
    for row in &status.spending {
        let label = format!("{}#{}", row.teacher, row.model);
        let amount = row.amount;
        output.prose(&format!(
            "  {label:<44} {:>9} {:>9} {:>12} {:>12} {:>10}",
            amount.requests,
            row.answers,
            amount.input,
            amount.output,
            cost(amount.cost)
        ))?;
        if row.assumed > 0 {
            output.prose(&format!(
                "  {:<44} of these, {} requests count at their worst case",
                "", row.assumed
            ))?;
        }
    }
    if !status.reasons.is_empty() {
        output.prose(&format!("\n  {:<20} {:>9}  {}", "failed because", "samples", "for example"))?;
    }
    for reason in &status.reasons {
        output.prose(&format!("  {:<20} {:>9}  {}", reason.reason, reason.count, reason.example))?;
    }
    output.prose("")?;
    Ok(())
}

/// What the checks found.
pub(super) fn cleaning(output: Output, derived: &Derived, only_clean: bool) -> Result<()> {
    let report = &derived.report;
    let (left_out, why) = (
        report.records - report.kept,
        if only_clean { "left out" } else { "marked, not left out (--clean)" },
    );
    if left_out == 0 {
        return Ok(());
    }
    output.prose(&format!("  {:<20} {:>9}  {}", "does not pass", why, "for example"))?;
    for stage in report.stages.iter().filter(|stage| stage.dropped > 0) {
        let example = stage
            .examples
            .first()
            .map_or(String::new(), |example| format!("{}: {}", example.id, example.reason));
        output.prose(&format!("  {:<20} {:>9}  {example}", stage.stage, stage.dropped))?;
    }
    output.prose("")?;
    Ok(())
}

/// A time span for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
