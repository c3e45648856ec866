//! `distillix foundry prompts`.

use super::{Output, WrongUse};
use crate::foundry::ingest::Source;
use crate::foundry::language::Language;
use crate::foundry::prompts::code::{self, Kind};
use crate::foundry::prompts::{Prompt, builtin, evolve, file};
use crate::foundry::record::Record;
use crate::smelter::data::jsonl;
use crate::smelter::run_folder::write_whole;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::HashSet;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes prompts: our own, from code, or from answers of a teacher that was asked for tasks.
///
/// The output is JSONL for `foundry generate --prompts`.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("source").required(true),
    after_help = "Examples:
  distillix foundry prompts --builtin 1000 --output prompts.jsonl
  distillix foundry prompts --code src --kind document --kind fix --output prompts.jsonl

New tasks by a teacher take three steps:
  distillix foundry prompts --evolve prompts.jsonl --count 500 --output questions.jsonl
  distillix foundry generate --prompts questions.jsonl --teacher … --output answers.jsonl
  distillix foundry prompts --answers answers.jsonl --output more.jsonl"
)]
pub(in crate::cli) struct Args {
    /// N prompts of ours: first the tasks we wrote, then variants of them and made-up ones.
    #[arg(long, value_name = "N", group = "source")]
    builtin: Option<usize>,
    /// Files, folders and archives of code whose functions are asked about.
    #[arg(long, value_name = "PATH", num_args = 1.., group = "source")]
    code: Vec<PathBuf>,
    /// What to ask about them. Repeatable. [default: all]
    #[arg(long, value_name = "KIND", requires = "code")]
    kind: Vec<Kind>,
    /// Prompts to make questions of that ask a teacher for harder, other and new tasks.
    #[arg(long, value_name = "FILE", group = "source", requires = "count")]
    evolve: Option<PathBuf>,
    /// Number of questions.
    #[arg(long, value_name = "N", requires = "evolve")]
    count: Option<usize>,
    /// Answers to such questions, to take the tasks from.
    #[arg(long, value_name = "FILE", group = "source")]
    answers: Option<PathBuf>,
    /// What is drawn depends on it alone.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let prompts = if let Some(count) = args.builtin {
        builtin::prompts(args.seed).take(count).collect()
    } else if let (Some(path), Some(count)) = (&args.evolve, args.count) {
        let seeds = file::prompts(path)?.collect::<Result<Vec<_>>>()?;
        evolve::questions(&seeds, count, args.seed)
    } else if let Some(path) = &args.answers {
        of_answers(path)?
    } else if !args.code.is_empty() {
        of_code(args)?
    } else {
        bail!(WrongUse("say where prompts come from: --builtin, --code, --evolve or --answers".into()));
    };
    ensure!(!prompts.is_empty(), "there is nothing to make prompts of");
    let mut text = Vec::new();
    for prompt in &prompts {
        serde_json::to_writer(&mut text, prompt)?;
        text.push(b'\n');
    }
    write_whole(&args.output, &text)?;
    let output = Output { json: args.json };
    output.prose(&format!("{}: {} prompts", args.output.display(), prompts.len()))?;
    #[derive(Serialize)]
    struct Summary<'a> {
        output: &'a Path,
        prompts: usize,
    }
    output.record(&Summary { output: &args.output, prompts: prompts.len() })?;
    Ok(ExitCode::SUCCESS)
}

/// Prompts about the functions of whatever `foundry clean` reads; what is no code in a language of ours is left out.
fn of_code(args: &Args) -> Result<Vec<Prompt>> {
    let kinds = if args.kind.is_empty() { Kind::ALL.to_vec() } else { args.kind.clone() };
    let mut prompts = Vec::new();
    Source::new(&args.code, &[])?.read(&mut |raw| {
        if let Ok(Record { text: Some(text), language: Some(language), source: Some(source), .. }) =
            raw.into_record()
            && let Some(language) = Language::from_name(&language)
        {
            prompts.extend(code::prompts(language, &text, &source, &kinds, args.seed));
        }
        Ok(())
    })?;
    Ok(prompts)
}

fn of_answers(path: &Path) -> Result<Vec<Prompt>> {
    let mut seen = HashSet::new();
    let mut prompts = Vec::new();
    for (number, line) in jsonl::open(path)?.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            let record: Record = serde_json::from_str(&line).with_context(place)?;
            prompts.extend(evolve::read(&record, &mut seen));
        }
    }
    Ok(prompts)
}
