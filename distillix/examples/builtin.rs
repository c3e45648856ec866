//! Prints the built-in curriculum as JSON lines, with what is needed to check it by running:
//! `builtin [train|heldout] [COUNT] [SEED] [--varied]`. `builtin tokenizer` prints the tokenizer trained anew,
//! `builtin baseline` the scores of the nearest-neighbour baseline.

use std::io::Write;

use anyhow::{Context, Result, bail};
use distillix::smelter::data::builtin::{Bodies, Curriculum, NearestNeighbour, Options, train_tokenizer};

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
    let curriculum = Curriculum::new(number(2, 0)?, Options { bodies });
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match words.first().map_or("train", String::as_str) {
        which @ ("train" | "heldout") => {
            for i in 0..count {
                let (example, check) = if which == "train" {
                    (curriculum.train_example(i), curriculum.train_check(i))
                } else {
                    (curriculum.heldout_example(i), curriculum.heldout_check(i))
                };
                let line = serde_json::json!({
                    "prompt": example.prompt,
                    "response": example.response,
                    "accepted": example.accepted,
                    "form": example.form,
                    "composed": example.composed,
                    "reference": check.reference,
                    "calls": check.calls,
                });
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
        other => bail!("unknown command {other:?}: use train, heldout, tokenizer or baseline"),
    }
    Ok(())
}
