//! `distillix foundry generate`.

use super::display::Display;
use super::{FoundryArgs, Output, beside, block_on, wrong};
use crate::cli::WrongUse;
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::foundry::config::FoundryConfig;
use crate::foundry::derive::{self, derive};
use crate::foundry::generate::{Ended, Event, Options, Summary, generate};
use crate::foundry::output::SetWriter;
use crate::foundry::prompts::{builtin, file};
use crate::foundry::sandbox;
use crate::foundry::tester::SandboxTester;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Asks teachers, and writes what they answer into a file to train on.
///
/// Every answer is kept in a store beside the output. Stopped in any way, the same command goes on without asking anything twice.
/// Ctrl-C waits for the requests under way, writes the output and exits with 130; a second one ends at once, and loses nothing
/// but them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix foundry generate --builtin 1000 --teacher openai:http://127.0.0.1:8091/v1#smollm2 --output train.jsonl
  distillix foundry generate --prompts prompts.jsonl --teacher opencode:http://127.0.0.1:4096#local/smollm2 --output train.jsonl
  distillix foundry generate --prompts p.jsonl --config teachers.json --strategy best_of_n --samples 4 --max-cost 5 --output train.parquet")]
pub(in crate::cli) struct Args {
    /// JSONL with a `prompt`, and where wanted `id`, `tests` and `language`, on each line (.gz and .zst too). Repeatable.
    #[arg(long, value_name = "FILE", required_unless_present = "builtin")]
    prompts: Vec<PathBuf>,
    /// N prompts of ours before those of files: tasks that we wrote, in nine languages, then variants of them and made-up ones.
    /// Without N, every task that we wrote.
    #[arg(long, value_name = "N", num_args = 0..=1)]
    builtin: Option<Option<usize>>,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Where answers are kept; OUTPUT with .foundry at its end if not given.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    foundry: FoundryArgs,
    /// one, round_robin, weighted, fallback, all, best_of_n or consensus.
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Answers a prompt, or candidates for best_of_n and consensus.
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// The teacher that chooses among the candidates of best_of_n and consensus where there are no tests; without one, the answer most
    /// like the others is kept, with consensus if most are like it.
    #[arg(long, value_name = "TEACHER")]
    judge: Option<String>,
    /// Requests at one time, for each teacher.
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// Never spend more, in the currency of the prices. Limits hold for all runs on one store together.
    #[arg(long, value_name = "AMOUNT")]
    max_cost: Option<f64>,
    /// Never use more tokens, read and written.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// Never send more requests.
    #[arg(long, value_name = "N")]
    max_requests: Option<u64>,
    /// Try again what has failed for good.
    #[arg(long)]
    retry_failed: bool,
    /// Go on with a store that was made with other settings; what the new ones need is asked again.
    #[arg(long)]
    allow_changes: bool,
    /// Write only answers that pass the checks, with their code alone. Without, every answer is written as it came, and its `checks`
    /// say what they found.
    #[arg(long)]
    clean: bool,
    /// Write the log-probabilities that foundry.top_logprobs asks for into the output too.
    #[arg(long)]
    with_logprobs: bool,
    /// Print JSON lines on stdout: begin, progress, end.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is paid for, the output can be written.
    drop(SetWriter::create(&args.output).map_err(wrong)?);
    let config = config(args)?;
    if config.teachers.is_empty() {
        return Err(
            WrongUse("name at least one --teacher, or a --config with foundry.teachers".into()).into()
        );
    }
    let clean = config.clean.clone();
    let store = args.store.clone().unwrap_or_else(|| beside(&args.output));
    let output = Output { json: args.json };
    let mut display = Display::new(output);
    let tester = Arc::new(SandboxTester::new(&clean, sandbox::Options::default()).map_err(wrong)?);
    let options = Options {
        config,
        store: store.clone(),
        retry_failed: args.retry_failed,
        allow_changes: args.allow_changes,
        tester: Arc::<SandboxTester>::clone(&tester),
        stop: signals::stop_flag()?,
    };
    let builtin = args.builtin.map(|count| count.unwrap_or(builtin::tasks().len()));
    let ours = builtin.map(|count| builtin::prompts(0).take(count)).into_iter().flatten().map(Ok);
    // A file that is not there is noticed before a server is asked for anything.
    let files = args.prompts.iter().map(|path| file::prompts(path)).collect::<Result<Vec<_>>>()?;
    let prompts = ours.chain(files.into_iter().flatten());
    let summary = block_on(generate(options, prompts, &mut |event| {
        if let Event::Begin { .. } = event {
            display.store(&store);
        }
        display.show(event);
    }));
    display.finish();
    let Some(summary) = summary? else {
        display.stopped_early()?;
        return Ok(ExitCode::from(signals::STOPPED));
    };
    if let Some(why) = tester.unverified() {
        display.show(Event::Warning(why));
    }
    let options = derive::Options { clean, only_clean: args.clean, with_logprobs: args.with_logprobs };
    let mut progress = Progress::new("checking answers", None);
    let derived = derive(&store, &args.output, &options, &mut |seen| progress.at(seen))?;
    progress.finish();
    display.summary(&summary, &args.output, &derived, args.clean)?;
    end(&summary, derived.records)
}

/// The exit code: a set that a limit ended is what was asked for; one that a signal ended is not whole, and one without a record
/// is none, so that nothing is trained on it.
fn end(summary: &Summary, records: u64) -> Result<ExitCode> {
    match &summary.ended {
        Some(Ended::Teacher(why)) => bail!("the teacher is of no use: {why}"),
        Some(Ended::Stopped) => Ok(ExitCode::from(signals::STOPPED)),
        _ if records == 0 && summary.status.done > 0 => {
            bail!("no answer passes the checks, so nothing was written: without --clean, `checks` says why")
        }
        _ if records == 0 && summary.status.failed > 0 => bail!("every prompt failed"),
        _ if records == 0 => bail!("there is no answer yet, so nothing was written"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn config(args: &Args) -> Result<FoundryConfig> {
    let mut config = args.foundry.config()?;
    if let Some(name) = &args.strategy {
        config.strategy = crate::smelter::config::read(serde_json::Value::from(name.as_str()))
            .map_err(|error| wrong(anyhow::anyhow!("--strategy: {error}")))?;
    }
    if let Some(concurrency) = args.concurrency {
        config.defaults.concurrency = concurrency;
    }
    config.samples = args.samples.unwrap_or(config.samples);
    config.judge = args.judge.clone().or(config.judge);
    config.max_cost = args.max_cost.or(config.max_cost);
    config.max_tokens = args.max_tokens.or(config.max_tokens);
    config.max_requests = args.max_requests.or(config.max_requests);
    config.validate().map_err(wrong)?;
    // A judge may be another server.
    args.foundry.check_key(&config.resolved_with_judge()?.0)?;
    Ok(config)
}
