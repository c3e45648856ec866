//! One of several answers: by the prompt's tests, else by a judge, else the one most like the others.

use super::engine::{Asked, Engine, Unanswered};
use super::strategy::Unit;
use super::tries::Tries;
use crate::foundry::config::Strategy;
use crate::foundry::prompts::Prompt;
use crate::foundry::store::Key;
use crate::foundry::teacher::{Message, Request, Sampling};
use crate::foundry::tokens::{hash, runs, tokens};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::fmt::Write;

/// What the tests say of an answer: `pass`, `fail`, `timeout`, `error` or [`UNVERIFIED`]; `None` where they cannot be run.
pub type Verdict = Option<&'static str>;

/// The verdict where running the tests did not work, which says nothing of the answer.
pub const UNVERIFIED: &str = "unverified";

/// Runs the tests of prompts on answers.
pub trait Tester: Send + Sync {
    /// Why no tests of `prompt` will be run though it has some that could be; `None` if that is not so.
    fn problem(&self, prompt: &Prompt) -> Option<String>;

    /// What the tests of `prompt` say of an answer.
    fn test(&self, prompt: &Prompt, answer: &str) -> BoxFuture<'static, anyhow::Result<Verdict>>;
}

/// Whether a strategy keeps one of several candidates.
pub fn chooses(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::BestOfN | Strategy::Consensus)
}

/// An answer that may be chosen.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) key: Key,
    text: String,
}

impl From<Asked> for Candidate {
    fn from(asked: Asked) -> Self {
        Candidate { key: asked.key, text: asked.text }
    }
}

/// What was chosen.
pub(super) enum Choice {
    Kept { index: usize, checks: Map<String, Value> },
    None(String),
}

pub(super) async fn choose(
    engine: &Engine,
    judge: Option<usize>,
    tester: &dyn Tester,
    unit: &Unit,
    candidates: &[Candidate],
) -> Result<Choice, Unanswered> {
    if unit.prompt.tests.is_some() {
        let mut verdicts = Vec::new();
        for candidate in candidates {
            verdicts.push(tester.test(&unit.prompt, &candidate.text).await.map_err(Unanswered::Store)?);
        }
        if verdicts.iter().flatten().any(|verdict| *verdict != UNVERIFIED) {
            return Ok(by_tests(engine.config.strategy, &verdicts, candidates));
        }
    }
    if let (Some(judge), true) = (judge, candidates.len() > 1)
        && let Some(index) = ask_judge(engine, judge, unit, candidates).await?
    {
        return Ok(Choice::Kept { index, checks: chosen(json!({"by": "judge", "of": candidates.len()})) });
    }
    Ok(by_likeness(engine.config.strategy, engine.config.agreement, candidates))
}

fn by_tests(strategy: Strategy, verdicts: &[Verdict], candidates: &[Candidate]) -> Choice {
    let passed: Vec<usize> = (0..verdicts.len()).filter(|i| verdicts[*i] == Some("pass")).collect();
    let needed = if strategy == Strategy::Consensus { candidates.len() / 2 + 1 } else { 1 };
    if passed.len() < needed {
        let counted =
            verdicts.iter().map(|verdict| verdict.unwrap_or("not run")).collect::<Vec<_>>().join(", ");
        return Choice::None(format!(
            "{} of {} answers pass the tests: {counted}",
            passed.len(),
            candidates.len()
        ));
    }
    let mut checks = chosen(json!({"by": "tests", "of": candidates.len(), "passed": passed.len()}));
    checks.insert("tests".to_owned(), Value::from("pass"));
    Choice::Kept { index: passed[0], checks }
}

/// The number that a judge names; `None` where it names none.
async fn ask_judge(
    engine: &Engine,
    judge: usize,
    unit: &Unit,
    candidates: &[Candidate],
) -> Result<Option<usize>, Unanswered> {
    let mut text = format!(
        "Below are a task and {} answers to it. Which answer is the best: correct first, then clear and complete? \
         Say only its number.\n\n# Task\n{}\n",
        candidates.len(),
        unit.prompt.prompt
    );
    for (i, candidate) in candidates.iter().enumerate() {
        let _ = write!(text, "\n# Answer {}\n{}\n", i + 1, candidate.text);
    }
    text.push_str("\nThe number of the best answer:");
    let sampling = Sampling { temperature: 0.0, top_logprobs: 0, ..engine.config.sampling(0) };
    let request = Request { messages: vec![Message::user(text)], sampling };
    match engine.ask(judge, &request, 0, &mut Tries::patient()).await {
        Ok(asked) => Ok(number(&asked.text).filter(|n| (1..=candidates.len()).contains(n)).map(|n| n - 1)),
        // A judge that fails leaves the choice to likeness.
        Err(Unanswered::Failed(_)) => Ok(None),
        Err(Unanswered::Dead(why)) => {
            engine.lose_judge(&why);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// The last number in a text: reasoning comes before its result.
fn number(text: &str) -> Option<usize> {
    text.split(|c: char| !c.is_ascii_digit()).rfind(|digits| !digits.is_empty())?.parse().ok()
}

fn by_likeness(strategy: Strategy, agreement: f64, candidates: &[Candidate]) -> Choice {
    let sets: Vec<HashSet<u64>> = candidates.iter().map(|candidate| triples(&candidate.text)).collect();
    let alike: Vec<Vec<f64>> = sets.iter().map(|a| sets.iter().map(|b| likeness(a, b)).collect()).collect();
    // Consensus counts those that agree, and then how much; the earliest of equals is taken.
    let rank = |i: usize| {
        let agree = alike[i].iter().filter(|x| **x >= agreement).count();
        (if strategy == Strategy::Consensus { agree } else { 0 }, alike[i].iter().sum::<f64>())
    };
    let Some(index) = (0..candidates.len()).reduce(|best, i| {
        let (a, b) = (rank(best), rank(i));
        if b.0 > a.0 || b.0 == a.0 && b.1 > a.1 { i } else { best }
    }) else {
        return Choice::None("there are no answers".to_owned());
    };
    let agree = alike[index].iter().filter(|x| **x >= agreement).count();
    if strategy == Strategy::Consensus && 2 * agree <= candidates.len() {
        return Choice::None(format!("at most {agree} of {} answers agree", candidates.len()));
    }
    Choice::Kept { index, checks: chosen(json!({"by": "agreement", "of": candidates.len(), "agree": agree})) }
}

/// How an answer was chosen, as a check.
fn chosen(how: Value) -> Map<String, Value> {
    Map::from_iter([("chosen".to_owned(), how)])
}

/// Hashes of all runs of three words or signs; of the whole text, if it is shorter.
fn triples(text: &str) -> HashSet<u64> {
    let words: Vec<u64> = tokens(text).map(|word| hash(word.as_bytes())).collect();
    runs(&words, words.len().clamp(1, 3)).collect()
}

/// Jaccard similarity.
fn likeness(a: &HashSet<u64>, b: &HashSet<u64>) -> f64 {
    let both = a.intersection(b).count() as f64;
    both / (a.len() as f64 + b.len() as f64 - both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(texts: &[&str]) -> Vec<Candidate> {
        let key = |text: &&str| Key::of("test", text).unwrap();
        texts.iter().map(|text| Candidate { key: key(text), text: (*text).to_owned() }).collect()
    }

    const TEXTS: [&str; 4] = [
        "I cannot say anything about that at all today",
        "def add(a, b):\n    return a + b\n",
        "def add(a, b):\n    # the sum\n    return a + b\n",
        "def add(a,b): return a+b",
    ];

    #[test]
    fn the_answer_most_like_the_others_is_kept() {
        let Choice::Kept { index, checks } = by_likeness(Strategy::BestOfN, 0.5, &candidates(&TEXTS)) else {
            panic!()
        };
        assert_eq!(index, 1);
        assert_eq!(checks["chosen"]["agree"], 3);
    }

    #[test]
    fn consensus_takes_a_majority() {
        assert!(matches!(
            by_likeness(Strategy::Consensus, 0.5, &candidates(&TEXTS)),
            Choice::Kept { index: 1, .. }
        ));
        let Choice::None(why) = by_likeness(Strategy::Consensus, 0.5, &candidates(&TEXTS[..2])) else {
            panic!()
        };
        assert_eq!(why, "at most 1 of 2 answers agree");
        let verdicts = [Some("fail"), Some("pass"), Some("pass")];
        let Choice::Kept { index: 1, .. } =
            by_tests(Strategy::Consensus, &verdicts, &candidates(&TEXTS[..3]))
        else {
            panic!()
        };
        let Choice::None(why) = by_tests(Strategy::Consensus, &verdicts[..2], &candidates(&TEXTS[..2]))
        else {
            panic!()
        };
        assert_eq!(why, "1 of 2 answers pass the tests: fail, pass");
        assert!(matches!(
            by_tests(Strategy::BestOfN, &verdicts[..2], &candidates(&TEXTS[..2])),
            Choice::Kept { index: 1, .. }
        ));
    }

    #[test]
    fn judges_say_numbers() {
        assert_eq!(number("3"), Some(3));
        assert_eq!(number("Answer 1 is wrong, so 2."), Some(2));
        assert_eq!(number("none"), None);
    }
}
