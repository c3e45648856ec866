//! Tokenizes folders of code or JSONL files ahead of training, and shows what became of them.
//!
//! `cargo run --release -p distillix --example tokenize -- TOKENIZER.json CACHE SOURCE…`

use anyhow::{Result, bail};
use distillix::smelter::data::{DataConfig, Dataset, SourceConfig};
use distillix::tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, cache, sources @ ..] = arguments.as_slice() else {
        bail!("usage: tokenize TOKENIZER.json CACHE SOURCE…");
    };
    let start = Instant::now();
    let tokenizer = Arc::new(Tokenizer::load(Path::new(tokenizer))?);
    println!("{tokenizer:?} loaded in {:.2} s", start.elapsed().as_secs_f64());

    let config = DataConfig {
        sources: sources.iter().map(SourceConfig::path).collect(),
        cache_dir: Some(cache.into()),
        ..DataConfig::default()
    };
    let data = Dataset::open(&config, tokenizer.clone(), 2048, 0, None, &|progress| {
        let percent = 100.0 * progress.done as f64 / progress.total.max(1) as f64;
        eprintln!("{}: {percent:.0}% after {:.1} s", progress.source, start.elapsed().as_secs_f64());
    })?;
    let step = data.step(0, 1, 32)?;
    println!("first batch after {:.2} s", start.elapsed().as_secs_f64());

    for report in data.reports() {
        println!("{}: {:?} rows, {:?}", report.name, report.rows, report.meta);
    }
    let batch = &step.micro_batches[0];
    let real = batch.ids.iter().filter(|id| **id != tokenizer.fim().pad as i32).count();
    println!(
        "a batch of {} × {}: {} trained tokens, {} bytes of text, {:.2}% padding",
        batch.rows,
        batch.cols,
        step.trained_tokens,
        step.trained_bytes,
        100.0 * (1.0 - real as f64 / batch.ids.len() as f64)
    );
    Ok(())
}
