//! `distillix complete`.

use super::progress::Progress;
use super::{Compute, Output, WrongUse, output};
use crate::run::{Completion, Finish, Prompt, PromptText, RunModel, Sampling, Session};
use crate::smelter::data::Message;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Continues a text, fills in between two, or answers, with a trained model.
///
/// The completion goes to stdout as it is made. The prompt is PROMPT, or stdin where there is none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix complete --model runs/tiny 'def add(a, b):'
  distillix complete --model runs/tiny --temperature 0.8 --top-p 0.95 --seed 7 < start.py
  distillix complete --model runs/125m --prefix 'def f(x):' --suffix '    return y'
  distillix complete --model runs/125m --chat --json 'Write a function that adds two numbers.'")]
pub(super) struct Args {
    /// The folder of a run.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// The text to continue.
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prefix", "suffix"])]
    prompt: Option<String>,
    /// Fill in after this text.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prefix: Option<String>,
    /// Fill in before this text.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    suffix: Option<String>,
    /// The prompt is a message, which the model answers.
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    chat: bool,
    /// Instructions that come before the message.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Most tokens to make.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the likeliest token each time; higher is more varied.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Equal seeds make equal completions.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON line on stdout when done.
    #[arg(long)]
    json: bool,
    /// Say on stderr how fast it was.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    text: &'a str,
    ids: &'a [u32],
    finish: Finish,
    prompt_tokens: usize,
    dropped_prompt_tokens: usize,
    new_tokens: usize,
    read_seconds: f64,
    write_seconds: f64,
    tokens_per_second: f64,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let Args { temperature, top_p, top_k, seed, max_tokens, .. } = *args;
    let sampling = Sampling { temperature, top_p, top_k, seed };
    sampling.validate().map_err(|error| WrongUse(error.to_string()))?;
    let text = text(args)?;
    let model = RunModel::load(&args.model, &args.compute.open()?)?;
    let prompt = prompt(args, &text, &model)?;
    let capacity = prompt.ids.len().saturating_add(max_tokens);
    let mut session = Session::new(&model.student, &model.tokenizer, capacity)?;
    let mut progress = Progress::new("reading the prompt", Some(prompt.ids.len() as u64));
    let read = |done: usize| {
        progress.at(done as u64);
        if done == prompt.ids.len() {
            progress.finish();
        }
    };
    let mut stdout = std::io::stdout().lock();
    let mut show = |piece: &str| -> Result<bool> {
        if !args.json {
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
        Ok(true)
    };
    let completion = session.complete(&prompt, max_tokens, sampling, read, &mut show)?;
    if !args.json && stdout.is_terminal() && !completion.text.ends_with('\n') {
        writeln!(stdout)?;
    }
    drop(stdout);
    report(args, &prompt, &completion)?;
    Ok(ExitCode::SUCCESS)
}

/// The text to continue, or that around the hole (the second is what follows it).
fn text(args: &Args) -> Result<[String; 2]> {
    if args.prefix.is_some() || args.suffix.is_some() {
        return Ok([&args.prefix, &args.suffix].map(|part| part.clone().unwrap_or_default()));
    }
    if let Some(prompt) = &args.prompt {
        return Ok([prompt.clone(), String::new()]);
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        bail!(WrongUse(
            "there is no prompt: give PROMPT, or --prefix and --suffix, or a text on stdin".into()
        ));
    }
    let mut bytes = Vec::new();
    stdin.read_to_end(&mut bytes).context("cannot read stdin")?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        WrongUse(format!("the text on stdin is not valid UTF-8 at byte {at}"))
    })?;
    Ok([text, String::new()])
}

fn prompt(args: &Args, text: &[String; 2], model: &RunModel) -> Result<Prompt> {
    let [text, below] = text;
    let messages: Vec<Message> = [("system", args.system.as_ref()), ("user", Some(text))]
        .into_iter()
        .filter_map(|(role, content)| Some(Message { role: role.to_owned(), content: content?.clone() }))
        .collect();
    let fill_in = args.prefix.is_some() || args.suffix.is_some();
    let what = if fill_in {
        PromptText::Around { prefix: text, suffix: below }
    } else if args.chat {
        let template = model.template.as_ref().with_context(|| {
            format!("{} has no chat_template.jinja, so it cannot answer messages", args.model.display())
        })?;
        PromptText::Chat(&messages, template)
    } else {
        PromptText::Start(text)
    };
    let context = model.student.config().max_seq;
    let prompt = Prompt::new(what, &model.tokenizer, context, args.max_tokens)?;
    if fill_in && model.config.data.fim_rate == 0.0 {
        output::stderr(
            "note: the model was trained without fill-ins (data.fim_rate 0), so it hardly knows how",
        );
    }
    if prompt.dropped > 0 {
        output::stderr(&format!(
            "note: the prompt has {} tokens too many for the model's context of {context}; what is farthest from the \
             completion was left out",
            prompt.dropped
        ));
    }
    Ok(prompt)
}

fn report(args: &Args, prompt: &Prompt, completion: &Completion) -> Result<()> {
    if completion.finish == Finish::ContextFull {
        output::stderr("note: the completion ends here because the model's context is full");
    }
    if args.verbose {
        output::stderr(&format!(
            "{} tokens read in {:.2} s, {} written in {:.2} s: {:.1} tokens/s",
            prompt.ids.len(),
            completion.read_time.as_secs_f64(),
            completion.ids.len(),
            completion.write_time.as_secs_f64(),
            completion.tokens_per_second()
        ));
    }
    let record = Record {
        text: &completion.text,
        ids: &completion.ids,
        finish: completion.finish,
        prompt_tokens: prompt.ids.len(),
        dropped_prompt_tokens: prompt.dropped,
        new_tokens: completion.ids.len(),
        read_seconds: completion.read_time.as_secs_f64(),
        write_seconds: completion.write_time.as_secs_f64(),
        tokens_per_second: completion.tokens_per_second(),
    };
    Ok(Output { json: args.json }.record(&record)?)
}
