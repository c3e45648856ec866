//! `distillix tokenizer`.

use super::progress::Progress;
use super::{Output, WrongUse};
use crate::smelter::run_folder::write_whole;
use crate::tokenizer::{Tokenizer, train_on_files};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes tokenizers, and shows how they cut text.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Train(TrainArgs),
    Inspect(InspectArgs),
    Encode(EncodeArgs),
}

/// Trains a byte-level BPE tokenizer.
///
/// Reads JSONL files (.jsonl, .jsonl.gz, .jsonl.zst), folders of code, and any other file as text.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  distillix tokenizer train --data src notes.txt corpus.jsonl.zst --vocab-size 8192 --out tokenizer.json")]
pub(super) struct TrainArgs {
    /// Files and folders to learn from.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Number of tokens, at least 262.
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// The file to write, in Hugging Face's tokenizer.json format.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

/// Shows what a tokenizer is: its size, its control tokens, and how much text a token stands for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix tokenizer inspect runs/tiny
  distillix tokenizer inspect tokenizer.json --text src/main.rs")]
pub(super) struct InspectArgs {
    /// A tokenizer.json, or a folder that holds one.
    #[arg(value_name = "TOKENIZER")]
    tokenizer: PathBuf,
    /// Count the tokens of this text file.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

/// Shows how a text is cut into tokens: a line a token, with its id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix tokenizer encode runs/tiny 'def f(x):'
  distillix tokenizer encode runs/tiny --json < main.py | jq '.ids | length'")]
pub(super) struct EncodeArgs {
    /// A tokenizer.json, or a folder that holds one.
    #[arg(value_name = "TOKENIZER")]
    tokenizer: PathBuf,
    /// The text, or stdin where there is none.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Print one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Train(args) => train(args)?,
        Command::Inspect(args) => inspect(args)?,
        Command::Encode(args) => encode(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn train(args: &TrainArgs) -> Result<()> {
    let sizes = args.data.iter().map(|path| {
        let meta = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(if meta.is_dir() { None } else { Some(meta.len()) })
    });
    // A folder's size is not known before it is read.
    let total: Option<u64> = sizes.sum::<Result<Option<u64>>>()?;
    let mut progress = Progress::new("reading", total);
    let (json, tokens) = train_on_files(&args.data, args.vocab_size, |read| progress.at(read))?;
    write_whole(&args.out, &json)?;
    let output = Output { json: args.json };
    output.prose(&format!("{}: {tokens} tokens", args.out.display()))?;
    if tokens < args.vocab_size {
        output.prose(
            "note: that is fewer than asked for, because no pair of tokens is left that comes twice",
        )?;
    }
    #[derive(Serialize)]
    struct Record<'a> {
        out: &'a Path,
        tokens: usize,
    }
    Ok(output.record(&Record { out: &args.out, tokens })?)
}

fn inspect(args: &InspectArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let fim = tokenizer.fim();
    let named = |id: u32| format!("{} {id}", tokenizer.name(id));
    let fim_is_added = (fim.pad.max(fim.middle) as usize) >= tokenizer.own_len();
    let counted = match &args.text {
        None => None,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some((text.len(), tokenizer.encode_document(&text)?.len()))
        }
    };
    let output = Output { json: args.json };
    if args.json {
        #[derive(Serialize)]
        struct Record {
            tokens: usize,
            model_vocab_size: usize,
            bos: u32,
            eos: u32,
            fim: [u32; 4],
            fim_is_added: bool,
            hash: String,
            text_bytes: Option<usize>,
            text_tokens: Option<usize>,
        }
        return Ok(output.record(&Record {
            tokens: tokenizer.len(),
            model_vocab_size: tokenizer.padded_len(),
            bos: tokenizer.bos(),
            eos: tokenizer.eos(),
            fim: [fim.prefix, fim.suffix, fim.middle, fim.pad],
            fim_is_added,
            hash: tokenizer.hash().to_hex().to_string(),
            text_bytes: counted.map(|c| c.0),
            text_tokens: counted.map(|c| c.1),
        })?);
    }
    let lengths = tokenizer.byte_lengths();
    let longest = (0..).zip(&lengths).max_by_key(|(_, bytes)| **bytes).map_or(0, |(id, _)| id);
    output.prose(&format!(
        "tokens     {}, in {} rows of a model",
        tokenizer.len(),
        tokenizer.padded_len()
    ))?;
    output.prose(&format!("document   {} … {}", named(tokenizer.bos()), named(tokenizer.eos())))?;
    let added = if fim_is_added { " (not in the file; added)" } else { "" };
    let fim = [fim.prefix, fim.suffix, fim.middle, fim.pad].map(named).join(", ");
    output.prose(&format!("fill-in    {fim}{added}"))?;
    output.prose(&format!("longest    {:?}", tokenizer.name(longest)))?;
    output.prose(&format!("hash       {}", tokenizer.hash().to_hex()))?;
    if let Some((bytes, tokens)) = counted {
        let ratio = bytes as f64 / tokens.max(1) as f64;
        output.prose(&format!("text       {bytes} bytes in {tokens} tokens: {ratio:.2} bytes a token"))?;
    }
    Ok(())
}

fn encode(args: &EncodeArgs) -> Result<()> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None if std::io::stdin().is_terminal() => {
            bail!(WrongUse("there is no text: give TEXT, or a text on stdin".into()))
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read a text from stdin")?;
            text
        }
    };
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let ids = tokenizer.encode_document(&text)?;
    let output = Output { json: args.json };
    if args.json {
        #[derive(Serialize)]
        struct Record<'a> {
            ids: &'a [u32],
            tokens: Vec<String>,
        }
        let tokens = ids.iter().map(|id| tokenizer.name(*id)).collect();
        return Ok(output.record(&Record { ids: &ids, tokens })?);
    }
    for (at, id) in ids.iter().enumerate() {
        output.prose(&format!("{id:>6}  {:?}", tokenizer.decode_completion(&ids[..at], &[*id])))?;
    }
    Ok(())
}
