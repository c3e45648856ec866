//! Files through a pipeline, as a stream.

use super::report::StageReport;
use super::{Outcome, Pipeline, Report};
use crate::foundry::ingest::{Raw, Source, Unreadable};
use crate::foundry::output::SetWriter;
use crate::foundry::record::Record;
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// A batch holds about this many bytes, and at most this many records. Three are held at a time.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_RECORDS: usize = 8192;

/// What to clean, and where it goes.
#[derive(Clone, Debug)]
pub struct Job {
    /// Files and folders.
    pub inputs: Vec<PathBuf>,
    /// The file to write.
    pub output: PathBuf,
    /// A file for what is dropped, each record with why in its `checks`.
    pub dropped: Option<PathBuf>,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Bytes of all files, where that is known.
    pub total: Option<u64>,
    /// Records that were judged.
    pub records: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Cleaned {
    /// What the stages did; the first is the reading.
    pub report: Report,
    /// Bytes of the output. It is not written if no record is left.
    pub bytes: u64,
    /// Where the records so far are, if the work was stopped before its end.
    pub stopped: Option<PathBuf>,
}

/// Cleans what a job names. Once `stop` is set, the batch at hand is finished, and its output is closed and kept aside.
///
/// # Errors
/// When something cannot be read or written, or no record is found. The output is then as it was before.
pub fn clean_files(
    job: &Job,
    pipeline: &mut Pipeline,
    stop: &AtomicBool,
    mut on_progress: impl FnMut(Progress),
) -> Result<Cleaned> {
    job.check()?;
    let source = Source::new(&job.inputs, &job.written())?;
    let mut output = SetWriter::create(&job.output)?;
    let mut dropped = job.dropped.as_deref().map(SetWriter::create).transpose()?;
    let mut reading = StageReport::new("read");
    let (total, counter) = (source.total(), source.bytes_read());
    let (sender, batches) = sync_channel::<Vec<Raw>>(1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&source, stop, |batch| sender.send(batch).is_ok()));
        let work = || -> Result<()> {
            // Taken into the closure, so that leaving it ends the reader too.
            for batch in batches {
                let read: Vec<Result<Record, Unreadable>> =
                    batch.into_par_iter().map(Raw::into_record).collect();
                reading.seen += read.len() as u64;
                let (good, bad): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
                for wrong in bad.into_iter().filter_map(Result::err) {
                    reading.count_unreadable(wrong);
                }
                let outcomes = pipeline.clean(good.into_iter().filter_map(Result::ok).collect());
                pipeline.check_stages()?;
                for outcome in outcomes {
                    match outcome {
                        Outcome::Kept(record) => output.write(&record)?,
                        Outcome::Dropped(outcome) => {
                            if let Some(file) = &mut dropped {
                                let mut record = outcome.record;
                                let why = json!({"stage": outcome.stage, "reason": outcome.reason, "detail": outcome.detail});
                                record.checks.insert("dropped".to_owned(), why);
                                file.write(&record)?;
                            }
                        }
                    }
                }
                on_progress(Progress {
                    bytes: counter.load(Ordering::Relaxed),
                    total,
                    records: reading.seen,
                });
            }
            Ok(())
        };
        let work = work();
        let read = reader.join().unwrap_or_else(|_| bail!("the thread that reads the input broke down"));
        // That nobody takes what was read is the consequence of an error here.
        work.and(read)
    })?;
    let mut report = pipeline.report();
    if report.records == 0 && !stop.load(Ordering::Relaxed) {
        let first = reading
            .examples
            .first()
            .map(|example| format!("; the first: {} at {} {}", example.reason, example.id, example.detail));
        bail!("no record was found, {} could not be read{}", reading.dropped, first.unwrap_or_default());
    }
    report.records += reading.dropped;
    report.stages.insert(0, reading);
    if stop.load(Ordering::Relaxed) {
        let stopped = Some(output.keep_aside()?);
        dropped.map(SetWriter::keep_aside).transpose()?;
        return Ok(Cleaned { report, bytes: 0, stopped });
    }
    dropped.map(SetWriter::finish).transpose()?;
    if report.kept == 0 {
        // An empty set is worth less than the one that may have been there.
        return Ok(Cleaned { report, bytes: 0, stopped: None });
    }
    let bytes = output.finish().context("the cleaned set is lost")?;
    Ok(Cleaned { report, bytes, stopped: None })
}

impl Job {
    fn written(&self) -> Vec<&Path> {
        [&self.output].into_iter().chain(&self.dropped).map(PathBuf::as_path).collect()
    }

    /// Checks that each file it writes is another than those it reads and writes.
    ///
    /// # Errors
    /// Names the file that is not.
    pub fn check(&self) -> Result<()> {
        for path in self.written() {
            ensure!(
                !self.inputs.iter().any(|input| is_same(input, path)),
                "{} is read: what is dropped would be lost, so write another file",
                path.display()
            );
        }
        ensure!(
            !self.dropped.as_ref().is_some_and(|dropped| is_same(dropped, &self.output)),
            "what is kept and what is dropped cannot both go to {}",
            self.output.display()
        );
        Ok(())
    }
}

/// Whether two paths, however they are written, lead to one file, which need not be there yet.
fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let to_be =
            || Some(std::path::absolute(path).ok()?.parent()?.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(to_be)
    };
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Reads in batches until the end, until `stop` is set, or until `send` says that nobody takes more.
fn read(source: &Source, stop: &AtomicBool, mut send: impl FnMut(Vec<Raw>) -> bool) -> Result<()> {
    #[derive(Debug, thiserror::Error)]
    #[error("stopped")]
    struct Stopped;
    let (mut batch, mut held) = (Vec::new(), 0);
    let read = source.read(&mut |raw| {
        held += raw.len();
        batch.push(raw);
        if held >= BATCH_BYTES || batch.len() >= BATCH_RECORDS {
            held = 0;
            if stop.load(Ordering::Relaxed) || !send(std::mem::take(&mut batch)) {
                return Err(Stopped.into());
            }
        }
        Ok(())
    });
    match read {
        Err(error) if error.is::<Stopped>() => return Ok(()),
        other => other?,
    }
    send(batch);
    Ok(())
}
