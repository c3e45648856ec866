//! Prints the built-in curriculum as JSON lines, with what is needed to check it by running:
//! `builtin [train|heldout] [COUNT] [SEED] [--varied]`. `builtin completions COUNT RUN` adds to the held-out ones what the
//! model of a run folder (or `embedded`, the teacher) completes. `builtin tokenizer` prints the tokenizer trained anew,
//! `builtin baseline` the scores of the nearest-neighbour baseline.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use distillix::smelter::data::builtin::{
    Bodies, Check, Curriculum, Example, NearestNeighbour, Options, train_tokenizer,
};
use distillix::smelter::evaluate::Exam;
use distillix::smelter::teacher;
use tensor::Device;

fn line(example: &Example, check: &Check) -> serde_json::Value {
    serde_json::json!({
        "prompt": example.prompt,
        "response": example.response,
        "accepted": example.accepted,
        "form": example.form,
        "composed": example.composed,
        "reference": check.reference,
        "calls": check.calls,
    })
}

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let varied = words.iter().any(|w| w == "--varied");
    words.retain(|w| w != "--varied");
    let number = |i: usize, default: u64| match words.get(i) {
        Some(word) => word.parse().with_context(|| format!("{word:?} is not a number")),
        None => Ok(default),
    };
    let count = number(1, 20)?;
    let bodies = if varied { Bodies::Varied } else { Bodies::Deterministic };
    let seed = if words.first().is_some_and(|word| word == "completions") { 0 } else { number(2, 0)? };
    let curriculum = Curriculum::new(seed, Options { bodies });
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match words.first().map_or("train", String::as_str) {
        which @ ("train" | "heldout") => {
            for i in 0..count {
                let (example, check) = if which == "train" {
                    (curriculum.train_example(i), curriculum.train_check(i))
                } else {
                    (curriculum.heldout_example(i), curriculum.heldout_check(i))
                };
                writeln!(out, "{}", line(&example, &check))?;
            }
        }
        "completions" => {
            let run = words.get(2).context("which run? builtin completions COUNT RUN")?;
            let run = teacher::model(Path::new(run), &Device::Cpu)?;
            let exam = Exam::new(run.config.data.builtin, count as usize, &run.tokenizer)?;
            for (i, example) in exam.examples().iter().enumerate() {
                let mut line = line(example, &curriculum.heldout_check(i as u64));
                line["completion"] = exam.body(&run.student, &run.tokenizer, i)?.into();
                writeln!(out, "{line}")?;
            }
        }
        "tokenizer" => {
            let tokenizer = train_tokenizer().map_err(anyhow::Error::from_boxed)?;
            out.write_all(tokenizer.to_string(true).map_err(anyhow::Error::from_boxed)?.as_bytes())?;
            writeln!(out)?;
        }
        "baseline" => {
            let (single, seen, unseen) = curriculum.form_counts();
            writeln!(out, "{single} single forms, {seen} compositions, {unseen} held out")?;
            let neighbours = NearestNeighbour::new((0..20_000).map(|i| curriculum.train_example(i)));
            let heldout: Vec<_> = (0..count).map(|i| curriculum.heldout_example(i)).collect();
            writeln!(out, "{:?}", neighbours.score(&heldout))?;
        }
        other => bail!("unknown command {other:?}: use train, heldout, completions, tokenizer or baseline"),
    }
    Ok(())
}
