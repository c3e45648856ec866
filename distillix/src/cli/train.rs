//! `distillix train`.

use super::progress::Progress;
use super::{Compute, Output, WrongUse, signals};
use crate::smelter::config::Config;
use crate::smelter::data::SourceConfig;
use crate::smelter::metrics::{Line, Validation};
use crate::smelter::plan::parse_bytes;
use crate::smelter::teacher::EMBEDDED;
use crate::smelter::train::{Event, Options, Outcome, train};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Trains a ternary model, by distillation where there is a teacher.
///
/// Without arguments: the preset `tiny` on the built-in curriculum of small Python functions, with the teacher inside
/// the program, in about two minutes on two cores. Ctrl-C ends after the current step, saves, and exits with 0; --resume
/// goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix train
  distillix train --preset 50m --data ~/code --tokenizer tokenizer.json --steps 2000
  distillix train --data train.jsonl --init runs/tiny --set training.muon_lr=0.01
  distillix train --resume --out runs/tiny --steps 4000")]
pub(super) struct Args {
    /// The config to start from: tiny, 50m, 125m, 300m.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A JSON file with the keys of the preset to change (`distillix config tiny` prints all).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Train on this: a JSONL file, a folder of them, or a folder of code. Repeatable.
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// A Hugging Face tokenizer.json.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A run folder to learn from, `embedded` for the one inside the program, or `none`.
    #[arg(long, value_name = "RUN")]
    teacher: Option<String>,
    /// Start from this run's weights, dense or ternary, with fresh optimizer and schedule; `embedded` for those of
    /// the teacher inside the program.
    #[arg(long, value_name = "RUN")]
    init: Option<PathBuf>,
    /// Optimizer steps in all.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Seed of weights and data.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder of the run; `runs/PRESET` if not given, with a number if that is taken.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Go on with the run in --out, exactly as if it had never stopped.
    #[arg(long, requires = "out")]
    resume: bool,
    /// Change one key of the config, as in training.muon_lr=0.01. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    compute: Compute,
    /// Most memory of the GPU that the process takes, as in 8GiB; micro-batches and recomputation are chosen to fit.
    /// Without it, what is free.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_limit: Option<usize>,
    /// Run by this plan, `plan.json` of another run's folder, instead of choosing micro-batches and algorithms.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Print a JSON line for each event on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let device = args.compute.open()?;
    if let Some(out) = args.out.as_ref().filter(|out| args.resume && !out.exists()) {
        return Err(WrongUse(format!("there is no run to resume: {} does not exist", out.display())).into());
    }
    let (config, name) = config(args)?;
    config.validate().map_err(WrongUse::from_error)?;
    let options = Options {
        config,
        out: args.out.clone().unwrap_or_else(|| free_folder(&name)),
        resume: args.resume,
        init: args.init.clone(),
        device,
        memory_limit: args.memory_limit,
        plan: args.plan.clone(),
        stop: Arc::new(AtomicBool::new(false)),
    };
    // Once steps are made, the first signal asks for an end after the step. Before, and the second time, it ends at once.
    let end_at_once = Arc::new(AtomicBool::new(true));
    signals::watch(&end_at_once, &[&end_at_once, &options.stop])?;
    let output = Output { json: args.json };
    output.prose(&format!("run folder: {}", options.out.display()))?;
    let mut display = Display::new(output);
    let outcome = train(&options, &mut |event| {
        if matches!(event, Event::Begin { .. }) {
            end_at_once.store(false, Ordering::Relaxed);
        }
        display.show(event);
    });
    display.finish();
    let outcome = outcome?;
    summary(output, &outcome, &options.out)?;
    Ok(ExitCode::SUCCESS)
}

/// The config that the arguments ask for, and a name for the run.
fn config(args: &Args) -> Result<(Config, String)> {
    let saved =
        args.out.as_ref().map(|out| out.join("config.json")).filter(|path| args.resume && path.exists());
    let mut config = match (&saved, &args.preset, &args.config) {
        (Some(saved), None, None) => Config::default().with_file(saved)?,
        _ => Config::preset(args.preset.as_deref().unwrap_or("tiny")).map_err(WrongUse::from_error)?,
    };
    if saved.is_none() && !args.data.is_empty() {
        // The preset's teacher knows the built-in curriculum, not this data.
        config.distillation.teacher = None;
    }
    // Where there is no run, loading it says so better.
    let init = args.init.as_ref().filter(|init| init.join("config.json").is_file());
    if let (None, Some(init), None, None) = (&saved, init, &args.preset, &args.config) {
        config.model = Config::default().with_file(&init.join("config.json")).context("--init")?.model;
    }
    if let Some(file) = &args.config {
        config = config.with_file(file)?;
    }
    if !args.data.is_empty() {
        config.data.sources = args.data.iter().map(SourceConfig::path).collect();
    }
    if let Some(path) = &args.tokenizer {
        config.data.tokenizer = Some(path.clone());
    }
    if let Some(teacher) = &args.teacher {
        config.distillation.teacher = Some(teacher.clone()).filter(|name| name != "none");
    }
    if let Some(steps) = args.steps {
        config.training.steps = steps;
    }
    if let Some(seed) = args.seed {
        config.training.seed = seed;
    }
    for setting in &args.settings {
        config = config.with_setting(setting).map_err(WrongUse::from_error)?;
    }
    if saved.is_none() && init.is_none() && !says_vocab_size(args)? {
        let teacher = config.distillation.teacher.as_ref().filter(|name| *name != EMBEDDED);
        let of_teacher = teacher.map(|run| Path::new(run).join("tokenizer.json"));
        // Where there is none, loading it says so better.
        let exists = |path: &PathBuf| path.is_file() || path.join("tokenizer.json").is_file();
        if let Some(tokenizer) = config.data.tokenizer.clone().or(of_teacher).filter(exists) {
            config.model.vocab_size = Tokenizer::load(&tokenizer)?.padded_len();
        }
    }
    Ok((config, args.preset.clone().unwrap_or_else(|| "tiny".to_owned())))
}

/// Whether the arguments give `model.vocab_size` themselves; else it follows from the tokenizer.
fn says_vocab_size(args: &Args) -> Result<bool> {
    let set = args.settings.iter().any(|setting| setting.trim_start().starts_with("model.vocab_size"));
    let Some(file) = &args.config else { return Ok(set) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    Ok(set || json.pointer("/model/vocab_size").is_some())
}

/// `runs/NAME`, or the first `runs/NAME-2`, `-3`, … that holds no run.
fn free_folder(name: &str) -> PathBuf {
    let runs = Path::new("runs");
    let numbered = (2..).map(|n| runs.join(format!("{name}-{n}")));
    std::iter::once(runs.join(name))
        .chain(numbered)
        .find(|path| !path.join("config.json").exists())
        .unwrap_or_else(|| runs.join(name))
}

/// Shows events: a bar on a terminal, a line now and then elsewhere, JSON lines for programs.
struct Display {
    output: Output,
    data: Option<Progress>,
    bar: Option<ProgressBar>,
    begin: Instant,
    last_line: Instant,
    first_step: u64,
    steps: u64,
    loss: Option<f64>,
    speed: Option<f64>,
    tokens_per_step: usize,
}

/// Time between two lines where no terminal shows a bar.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Record<'a> {
    Plan {
        plan: &'a str,
    },
    Begin {
        step: u64,
        steps: u64,
        parameters: usize,
        tokens_per_step: usize,
    },
    Metrics(&'a Line),
    Validation {
        step: u64,
        #[serde(flatten)]
        result: &'a Validation,
    },
    Sample {
        step: u64,
        prompt: &'a str,
        completion: &'a str,
    },
    Warning {
        text: &'a str,
    },
    LeftOut {
        text: &'a str,
    },
    Checkpoint {
        path: String,
    },
    End {
        step: u64,
        finished: bool,
        skipped: u64,
        before: Option<Validation>,
        after: Option<Validation>,
        teacher: Option<Validation>,
        baseline: Option<f64>,
    },
}

impl Display {
    fn new(output: Output) -> Self {
        let now = Instant::now();
        Display {
            output,
            data: None,
            bar: None,
            begin: now,
            last_line: now,
            first_step: 0,
            steps: 0,
            loss: None,
            speed: None,
            tokens_per_step: 0,
        }
    }

    /// Prints a line above the bar. That nobody can read it is no reason to end a run.
    fn say(&self, text: &str) {
        let print = || {
            let _ = self.output.prose(text);
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn record(&self, record: &Record<'_>) {
        let _ = self.output.record(record);
    }

    fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Planned(plan) => {
                self.record(&Record::Plan { plan });
                self.say(plan);
            }
            Event::LeftOut(text) => {
                self.record(&Record::LeftOut { text });
                self.say(text);
            }
            Event::Data(progress) => {
                let (stage, total) = (progress.stage, progress.total);
                if self.data.as_ref().is_some_and(|shown| shown.label() != stage) {
                    self.data = None;
                }
                self.data.get_or_insert_with(|| Progress::new(stage, Some(total))).at(progress.done);
                if progress.done >= total {
                    self.data = None;
                }
            }
            Event::Begin { step, steps, parameters, tokens_per_step } => {
                self.data = None;
                self.record(&Record::Begin { step, steps, parameters, tokens_per_step });
                let from = if step > 0 { format!(", from step {step}") } else { String::new() };
                self.say(&format!(
                    "{parameters} parameters, {steps} steps of {tokens_per_step} tokens{from}"
                ));
                (self.first_step, self.steps, self.tokens_per_step) = (step, steps, tokens_per_step);
                self.begin = Instant::now();
                self.last_line = self.begin;
                if std::io::stderr().is_terminal() {
                    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
                    let template = "{bar:30} {pos}/{len}  {msg}  {eta} left";
                    if let Ok(style) = ProgressStyle::with_template(template) {
                        bar.set_style(style);
                    }
                    bar.set_position(step);
                    bar.reset_eta();
                    self.bar = Some(bar);
                }
            }
            Event::Step(report) => {
                if report.skipped.is_none() {
                    // A running mean, so that the figure can be read.
                    self.loss = Some(self.loss.map_or(report.loss, |loss| 0.95 * loss + 0.05 * report.loss));
                }
                let elapsed = self.begin.elapsed().as_secs_f64();
                let done = report.step - self.first_step;
                let speed = (done as usize * self.tokens_per_step) as f64 / elapsed.max(1e-9);
                self.speed = Some(speed);
                if let Some(bar) = &self.bar {
                    bar.set_position(report.step);
                    bar.set_message(self.status());
                } else if self.last_line.elapsed() >= INTERVAL {
                    self.last_line = Instant::now();
                    let left = elapsed / done as f64 * (self.steps - report.step) as f64;
                    self.say(&format!(
                        "step {}/{}  {}  {left:.0} s left",
                        report.step,
                        self.steps,
                        self.status()
                    ));
                }
            }
            Event::Metrics(line) => self.record(&Record::Metrics(line)),
            Event::Validated(step, result) => {
                self.record(&Record::Validation { step, result });
                self.say(&format!("step {step}: validation: {}", figures(result)));
            }
            Event::Sample { step, prompt, completion } => {
                self.record(&Record::Sample { step, prompt, completion });
                self.say(&format!("step {step}: sample:\n{prompt}⟨{completion}⟩"));
            }
            Event::Warning(text) => {
                self.record(&Record::Warning { text });
                self.say(&format!("warning: {text}"));
            }
            Event::Saved(path) => self.record(&Record::Checkpoint { path: path.display().to_string() }),
            Event::Working(what) => self.say(&format!("{what} …")),
        }
    }

    fn status(&self) -> String {
        let loss = self.loss.map_or("-".to_owned(), |loss| format!("{loss:.3}"));
        format!("loss {loss}  {:.0} tokens/s", self.speed.unwrap_or(0.0))
    }

    fn finish(&mut self) {
        self.data = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn figures(v: &Validation) -> String {
    let exact = v.exact_match.map_or(String::new(), |share| format!(", exact match {:.1}%", 100.0 * share));
    let exact = exact
        + &v.exact_match_unseen
            .map_or(String::new(), |share| format!(" ({:.1}% of unseen compositions)", 100.0 * share));
    format!("{:.3} bits per byte, loss {:.3}{exact}", v.bits_per_byte, v.loss)
}

fn summary(output: Output, outcome: &Outcome, out: &Path) -> Result<()> {
    let folder = out.display();
    let Outcome { step, skipped, before, after, teacher, baseline, .. } = outcome.clone();
    let finished = outcome.is_finished();
    output.record(&Record::End { step, finished, skipped, before, after, teacher, baseline })?;
    if !finished {
        output.prose(&format!("stopped after step {step} of {}; go on with:", outcome.steps))?;
        output.prose(&format!("  distillix train --resume --out {folder}"))?;
        return Ok(());
    }
    if outcome.first == step {
        output.prose(&format!("all {step} steps were done before; more are made with:"))?;
        output.prose(&format!("  distillix train --resume --out {folder} --steps {}", 2 * step))?;
    }
    let row = |name: &str, v: &Validation| {
        let exact = v.exact_match.map_or("-".to_owned(), |share| format!("{:.1}%", 100.0 * share));
        output.prose(&format!("  {name:<18} {:>14.3} {exact:>14}", v.bits_per_byte))
    };
    if after.is_some() || teacher.is_some() {
        output.prose(&format!("\n  {:<18} {:>14} {:>14}", "held-out", "bits per byte", "exact match"))?;
        for (name, v) in [("before training", &before), ("after training", &after), ("teacher", &teacher)] {
            if let Some(v) = v {
                row(name, v)?;
            }
        }
    }
    if let Some(share) = baseline {
        let share = format!("{:.1}%", 100.0 * share);
        output.prose(&format!("  {:<18} {:>14} {share:>14}", "nearest neighbour", "-"))?;
        output.prose(&format!(
            "\nExact match: greedy bodies of {} held-out functions; half of them combine steps in a way never trained on.",
            outcome.functions
        ))?;
    }
    if skipped > 0 {
        output.prose(&format!("{skipped} steps were skipped because of numbers that are not finite"))?;
    }
    for (prompt, completion) in &outcome.completions {
        output.prose(&format!("\n{prompt}{completion}"))?;
    }
    output.prose("\nNext:")?;
    if let Some((prompt, _)) = outcome.completions.first() {
        let quoted = prompt.trim_end().replace('\'', r"'\''").replace('\n', "\\n");
        output.prose(&format!("  distillix complete --model {folder} $'{quoted}\\n'"))?;
    } else {
        output.prose(&format!("  distillix complete --model {folder} 'def '"))?;
    }
    output.prose(&format!("  distillix inspect --model {folder}"))?;
    output.prose(&format!("  distillix train --init {folder} --data YOUR.jsonl --teacher none"))?;
    Ok(())
}
