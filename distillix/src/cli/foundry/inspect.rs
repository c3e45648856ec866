//! `distillix foundry inspect`.

use super::super::{Output, output::printable, progress::Progress};
use crate::foundry::highlight::Painter;
use crate::foundry::ingest::Source;
use crate::foundry::language::Language;
use crate::foundry::record::Record;
use crate::foundry::statistics::{Lengths, Sampler, Statistics};
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Shows random records of a set, and what it consists of.
///
/// Reads what `foundry clean` reads. Code is coloured on a terminal, unless NO_COLOR is set.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix foundry inspect train.jsonl
  distillix foundry inspect train.parquet --samples 20 --seed 7 | less -R
  distillix foundry inspect train.jsonl.zst --json | jq .languages")]
pub(in crate::cli) struct Args {
    /// Files and folders to look into.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How many records to show.
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
    /// Another seed draws other records.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// At most this many lines of each text; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 40)]
    lines: usize,
    /// When to colour code.
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// Print statistics and samples as one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    statistics: &'a Statistics,
    unreadable: u64,
    samples: Vec<&'a Record>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let source = Source::new(&args.files, &[])?;
    let (mut statistics, mut sampler) = (Statistics::default(), Sampler::new(args.samples, args.seed));
    let (mut unreadable, mut first) = (0, None);
    let (mut bar, read) = (Progress::new("reading", source.total()), source.bytes_read());
    source.read(&mut |raw| {
        bar.at(read.load(Ordering::Relaxed));
        match raw.into_record() {
            Ok(record) => {
                statistics.add(&record);
                sampler.add(&record);
            }
            Err(wrong) => {
                unreadable += 1;
                first.get_or_insert(wrong);
            }
        }
        Ok(())
    })?;
    drop(bar);
    let first = first.map(|wrong| format!("{}: {} {}", wrong.place, wrong.reason, wrong.detail));
    if statistics.records == 0 {
        bail!("there is no record in it{}", first.map_or(String::new(), |first| format!(": {first}")));
    }
    statistics.finish();
    let samples = sampler.into_records();
    let output = Output { json: args.json };
    if args.json {
        let samples = samples.iter().map(|(_, record)| record).collect();
        output.record(&Report { statistics: &statistics, unreadable, samples })?;
        return Ok(ExitCode::SUCCESS);
    }
    let colored = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    let mut show = Show { painter: colored.then(Painter::default), lines: args.lines };
    for (number, record) in &samples {
        for line in show.record(*number, record) {
            output.painted(&line)?;
        }
    }
    for line in summary(&statistics) {
        output.prose(&line)?;
    }
    if let Some(first) = first {
        output.prose(&format!("warning: {unreadable} entries are no records; the first: {first}"))?;
    }
    if statistics.invalid_fim_spans > 0 {
        let invalid = statistics.invalid_fim_spans;
        output.prose(&format!("warning: {invalid} of fim_spans are no ranges of the body's characters"))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Show {
    /// `None` without colours.
    painter: Option<Painter>,
    lines: usize,
}

impl Show {
    fn record(&mut self, number: u64, record: &Record) -> Vec<String> {
        let mut facts = vec![format!("── record {number}")];
        let named = [&record.language, &record.teacher, &record.model, &record.finish, &record.source];
        facts.push(record.id.clone());
        facts.extend(named.into_iter().flatten().filter(|fact| **fact != record.id).cloned());
        let mut out = vec![printable(&facts.join(" · ")).into_owned()];
        if !record.checks.is_empty() {
            let checks = record.checks.iter().map(|(name, said)| format!("{name}: {said}"));
            out.push(printable(&format!("   {}", checks.collect::<Vec<_>>().join(", "))).into_owned());
        }
        let language = record.language.as_deref().and_then(Language::from_name);
        for message in record.messages.iter().flatten() {
            out.push(format!("[{}]", printable(&message.role)));
            out.push(self.text(&message.content, None));
        }
        for (label, text, language) in [
            ("prompt", &record.prompt, None),
            ("response", &record.response, language),
            ("text", &record.text, language),
            ("tests", &record.tests, language),
        ] {
            if let Some(text) = text {
                out.push(format!("[{label}]"));
                out.push(self.text(text, language));
            }
        }
        out.push(String::new());
        out
    }

    fn text(&mut self, text: &str, language: Option<Language>) -> String {
        let text = printable(text);
        let painted = match (&mut self.painter, language) {
            (Some(painter), Some(language)) => painter.paint(language, &text),
            _ => text.into_owned(),
        };
        let count = painted.lines().count();
        if self.lines == 0 || count <= self.lines {
            return painted.trim_end().to_owned();
        }
        let shown: Vec<&str> = painted.lines().take(self.lines).collect();
        format!("{}\n… {} more lines", shown.join("\n"), count - self.lines)
    }
}

fn summary(statistics: &Statistics) -> Vec<String> {
    let Statistics { records, texts, answers, conversations, .. } = statistics;
    let counts = |map: &BTreeMap<String, u64>| {
        let mut counts: Vec<(&String, &u64)> = map.iter().collect();
        counts.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), name.as_str()));
        let shown = counts.iter().take(12).map(|(name, count)| format!("{name} {count}"));
        let rest = counts.len().saturating_sub(12);
        let rest = (rest > 0).then(|| format!("{rest} more"));
        shown.chain(rest).collect::<Vec<_>>().join(", ")
    };
    let lengths = |lengths: &Lengths| {
        let [low, middle, high] = lengths.percentiles;
        format!(
            "{:.2} M characters; 10% ≤ {low}, half ≤ {middle}, 90% ≤ {high}, longest {}",
            lengths.total as f64 / 1e6,
            lengths.max
        )
    };
    let mut out = vec![
        format!("records    {records}: {texts} texts, {answers} answers, {conversations} conversations"),
        format!("languages  {}", counts(&statistics.languages)),
    ];
    if !statistics.teachers.is_empty() {
        out.push(format!("teachers   {}", counts(&statistics.teachers)));
    }
    out.push(format!("bodies     {}", lengths(&statistics.body)));
    if statistics.prompt.total > 0 {
        out.push(format!("prompts    {}", lengths(&statistics.prompt)));
    }
    for (check, said) in &statistics.checks {
        out.push(format!("{check:<10} {}", counts(said)));
    }
    out.push(format!(
        "tests      {} records; fim_spans: {} in {} records",
        statistics.with_tests, statistics.fim_spans, statistics.with_fim_spans
    ));
    out
}
