//! Who answers a prompt.

use super::choose::{self, Candidate, Choice, Tester};
use super::engine::{Asked, Engine, Unanswered};
use super::tries::Tries;
use crate::foundry::config::{FoundryConfig, Strategy};
use crate::foundry::prompts::Prompt;
use crate::foundry::store::{Key, Outcome, Stored};
use crate::foundry::teacher::{Failure, FailureKind, Message, Request};
use futures::future::join_all;
use serde_json::{Map, Value};
use std::time::Duration;

/// One sample of one prompt.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The prompt.
    pub prompt: Prompt,
    /// Which of its samples.
    pub sample: u32,
}

/// Between two looks for a teacher that answers again.
const PAUSE: Duration = Duration::from_millis(250);

/// The number of outcomes that a prompt has: what is settled, stored and output by itself.
pub fn outcomes_a_prompt(config: &FoundryConfig) -> u32 {
    if choose::chooses(config.strategy) { 1 } else { config.samples }
}

/// Brings one sample of a prompt to its end, and runs the prompt's tests on what is kept. `teachers` is how
/// many of the engine's gates answer; the judge's may follow.
///
/// # Errors
/// When the run has to end, or cannot go on with this sample. A prompt that failed is an [`Outcome`].
pub async fn solve(
    engine: &Engine,
    teachers: usize,
    judge: Option<usize>,
    tester: &dyn Tester,
    unit: &Unit,
) -> Result<Outcome, Unanswered> {
    let mut outcome = answers(engine, teachers, judge, tester, unit).await?;
    // Where tests chose, they have been run.
    if unit.prompt.tests.is_some() && outcome.checks.iter().all(|checks| !checks.contains_key("tests")) {
        outcome.checks.resize_with(outcome.answers.len(), Map::new);
        for (key, checks) in outcome.answers.iter().zip(&mut outcome.checks) {
            let Some(Stored::Answer { text, .. }) = engine.store.find(*key).map_err(Unanswered::Store)?
            else {
                continue;
            };
            if let Some(verdict) = tester.test(&unit.prompt, &text).await.map_err(Unanswered::Store)? {
                checks.insert("tests".to_owned(), Value::from(verdict));
            }
        }
    }
    Ok(outcome)
}

async fn answers(
    engine: &Engine,
    teachers: usize,
    judge: Option<usize>,
    tester: &dyn Tester,
    unit: &Unit,
) -> Result<Outcome, Unanswered> {
    let config = &engine.config;
    let request = |sample| Request {
        messages: config
            .system
            .iter()
            .map(Message::system)
            .chain([Message::user(&unit.prompt.prompt)])
            .collect(),
        sampling: config.sampling(sample),
    };
    // The prompt's text says whose turn is first, not its place: equal prompts ask the same teachers, in whatever order they come.
    let first = Key::of("turn", &request(0).messages).map_err(Unanswered::Store)?.number();
    let turn = |sample: u32| (first.wrapping_add(u64::from(sample)) % teachers as u64) as usize;
    let one = |gate| answer_of(engine, gate, request(unit.sample), unit.sample);
    match config.strategy {
        Strategy::One => one(0).await,
        Strategy::RoundRobin => {
            let gate = earlier(engine, teachers, &request(unit.sample), unit.sample)?;
            one(gate.unwrap_or(turn(unit.sample))).await
        }
        Strategy::Weighted => {
            let request = request(unit.sample);
            let gate = match earlier(engine, teachers, &request, unit.sample)? {
                Some(gate) => gate,
                None => weighted(engine, teachers, &request, unit.sample)?,
            };
            one(gate).await
        }
        Strategy::Fallback => fallback(engine, teachers, &request(unit.sample), unit.sample).await,
        Strategy::All => {
            let all = (0..teachers).map(|gate| asked(engine, gate, request(unit.sample), unit.sample));
            let (kept, failures) = split(join_all(all).await)?;
            Ok(outcome(kept.into_iter().map(|asked| asked.key).collect(), failures))
        }
        Strategy::BestOfN => {
            let all = (0..config.samples).map(|i| asked(engine, turn(i), request(i), i));
            let (candidates, failures) = split(join_all(all).await)?;
            chosen(engine, judge, tester, unit, candidates, failures).await
        }
        Strategy::Consensus => {
            let all = (0..teachers)
                .flat_map(|gate| (0..config.samples).map(move |i| (gate, i)))
                .map(|(gate, i)| asked(engine, gate, request(i), i));
            let (candidates, failures) = split(join_all(all).await)?;
            chosen(engine, judge, tester, unit, candidates, failures).await
        }
    }
}

/// The future of an owned request.
async fn asked(engine: &Engine, gate: usize, request: Request, sample: u32) -> Result<Asked, Unanswered> {
    engine.ask(gate, &request, sample, &mut Tries::patient()).await
}

async fn answer_of(
    engine: &Engine,
    gate: usize,
    request: Request,
    sample: u32,
) -> Result<Outcome, Unanswered> {
    let (kept, failures) = split([engine.ask(gate, &request, sample, &mut Tries::patient()).await])?;
    Ok(outcome(kept.into_iter().map(|asked| asked.key).collect(), failures))
}

fn outcome(answers: Vec<Key>, failures: Vec<Failure>) -> Outcome {
    let missing = failures.len() as u32;
    let failure = if answers.is_empty() { failures.into_iter().next() } else { None };
    Outcome { missing: if failure.is_none() { missing } else { 0 }, answers, failure, checks: Vec::new() }
}

/// Answers and failures apart. Whatever else ends the sample.
fn split(
    results: impl IntoIterator<Item = Result<Asked, Unanswered>>,
) -> Result<(Vec<Asked>, Vec<Failure>), Unanswered> {
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(asked) => answers.push(asked),
            Err(Unanswered::Failed(failure)) => failures.push(failure),
            Err(other) => return Err(other),
        }
    }
    Ok((answers, failures))
}

/// The teacher that was asked this in an earlier run: what was chosen then is chosen again, though there may be other teachers or
/// weights now.
fn earlier(
    engine: &Engine,
    teachers: usize,
    request: &Request,
    sample: u32,
) -> Result<Option<usize>, Unanswered> {
    for gate in 0..teachers {
        let key = engine.key(gate, request, sample).map_err(Unanswered::Store)?;
        if engine.store.find(key).map_err(Unanswered::Store)?.is_some() {
            return Ok(Some(gate));
        }
    }
    Ok(None)
}

/// A teacher drawn by the weights, with the content of the request as the random number.
fn weighted(engine: &Engine, teachers: usize, request: &Request, sample: u32) -> Result<usize, Unanswered> {
    let key = engine.key(0, request, sample).map_err(Unanswered::Store)?;
    let weights: Vec<f64> = engine.gates[..teachers].iter().map(|gate| gate.config.weight).collect();
    let mut left = (key.number() >> 11) as f64 / (1u64 << 53) as f64 * weights.iter().sum::<f64>();
    for (gate, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return Ok(gate);
        }
    }
    Ok(teachers - 1)
}

/// The first teacher that answers. One that is left alone for now, or has failed twice, is passed over until the others have been
/// asked.
async fn fallback(
    engine: &Engine,
    teachers: usize,
    request: &Request,
    sample: u32,
) -> Result<Outcome, Unanswered> {
    // An answer that is there already is taken, even from a later teacher.
    for gate in 0..teachers {
        let key = engine.key(gate, request, sample).map_err(Unanswered::Store)?;
        if let Some(Stored::Answer { .. }) = engine.store.find(key).map_err(Unanswered::Store)? {
            return Ok(outcome(vec![key], Vec::new()));
        }
    }
    let mut tries: Vec<Tries> = (0..teachers).map(|_| Tries::impatient()).collect();
    loop {
        let (mut failure, mut busy, mut dead, mut exhausted) = (None, false, None, None);
        for (gate, tries) in tries.iter_mut().enumerate() {
            match engine.ask(gate, request, sample, tries).await {
                Ok(asked) => return Ok(outcome(vec![asked.key], Vec::new())),
                Err(Unanswered::Failed(why)) => failure = Some(why),
                Err(Unanswered::Busy) => busy = true,
                Err(Unanswered::Dead(why)) => dead = Some(why),
                // Another may cost less.
                Err(Unanswered::Exhausted(limit)) => exhausted = Some(limit),
                Err(other) => return Err(other),
            }
        }
        match (busy, exhausted, failure) {
            (true, ..) => {}
            (false, Some(limit), _) => return Err(Unanswered::Exhausted(limit)),
            (false, None, Some(failure)) => return Ok(outcome(Vec::new(), vec![failure])),
            (false, None, None) => return Err(Unanswered::Dead(dead.unwrap_or_default())),
        }
        if engine.is_stopped() {
            return Err(Unanswered::Stopped);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One of several candidates.
async fn chosen(
    engine: &Engine,
    judge: Option<usize>,
    tester: &dyn Tester,
    unit: &Unit,
    candidates: Vec<Asked>,
    failures: Vec<Failure>,
) -> Result<Outcome, Unanswered> {
    if candidates.is_empty() {
        return Ok(outcome(Vec::new(), failures));
    }
    let candidates: Vec<Candidate> = candidates.into_iter().map(Candidate::from).collect();
    let choice = choose::choose(engine, judge, tester, unit, &candidates).await?;
    let missing = failures.len() as u32;
    Ok(match choice {
        Choice::Kept { index, checks } => {
            Outcome { answers: vec![candidates[index].key], missing, failure: None, checks: vec![checks] }
        }
        Choice::None(why) => {
            let failure = Failure::new(FailureKind::NoAgreement, why);
            Outcome { answers: Vec::new(), missing: 0, failure: Some(failure), checks: Vec::new() }
        }
    })
}
