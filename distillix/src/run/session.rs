//! Generating text, token by token.

use super::{Prompt, Sampler, Sampling};
use crate::tokenizer::{DecodeStream, Tokenizer};
use anyhow::{Context, Result, bail, ensure};
use nn::model::{KvCache, Student};
use std::time::{Duration, Instant};
use tensor::Tensor;

/// Tokens of a prompt that are read at once: bounds the memory, and the time between two reports of progress.
const READ_AT_ONCE: usize = 256;

/// A model with the memory to generate: keys and values of the tokens read so far.
pub struct Session<'a> {
    student: &'a Student,
    tokenizer: &'a Tokenizer,
    cache: KvCache,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    End,
    /// It has as many tokens as asked for.
    MaxTokens,
    /// The model's context is full.
    ContextFull,
    /// The caller stopped it.
    Stopped,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text that the new tokens add to the prompt.
    pub text: String,
    /// The new tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Time for reading the prompt.
    pub read_time: Duration,
    /// Time for the new tokens.
    pub write_time: Duration,
}

impl Completion {
    /// New tokens a second, the reading of the prompt not counted.
    pub fn tokens_per_second(&self) -> f64 {
        self.ids.len() as f64 / self.write_time.as_secs_f64().max(1e-9)
    }
}

impl<'a> Session<'a> {
    /// A session that holds up to `capacity` tokens, though no more than the model's context.
    pub fn new(student: &'a Student, tokenizer: &'a Tokenizer, capacity: usize) -> Result<Self> {
        let capacity = capacity.clamp(1, student.config().max_seq);
        let cache = student.kv_cache(capacity)?;
        Ok(Session { student, tokenizer, cache })
    }

    /// Reads a prompt, forgetting what was read before, and returns an iterator of up to `max_tokens` new tokens.
    /// `on_read` is told how many tokens of the prompt are read.
    ///
    /// # Errors
    /// If the prompt is empty or does not fit, or the sampling is out of range.
    pub fn start<'s>(
        &'s mut self,
        prompt: &Prompt,
        max_tokens: usize,
        sampling: Sampling,
        mut on_read: impl FnMut(usize),
    ) -> Result<Generation<'s, 'a>> {
        ensure!(!prompt.ids.is_empty(), "the prompt has no token");
        ensure!(
            prompt.ids.len() <= self.cache.capacity(),
            "the prompt has {} tokens, more than the session's {}",
            prompt.ids.len(),
            self.cache.capacity()
        );
        let fim = self.tokenizer.fim();
        let mut suppressed = vec![self.tokenizer.bos(), fim.prefix, fim.suffix, fim.middle, fim.pad];
        suppressed.retain(|id| !prompt.stops.contains(id));
        let sampler = Sampler::new(sampling, suppressed)?;
        self.cache.truncate(0);
        let mut logits = None;
        for ids in prompt.ids.chunks(READ_AT_ONCE) {
            logits = Some(self.read(ids)?);
            on_read(self.cache.len());
        }
        let logits = logits.context("the prompt has no token")?;
        let stops = prompt.stops.clone();
        Ok(Generation {
            session: self,
            sampler,
            stops,
            logits,
            unread: None,
            written: 0,
            max_tokens,
            finish: None,
        })
    }

    /// The completion of a prompt. `on_text` gets its text as it comes, whole characters at a time, and returns
    /// whether to go on.
    ///
    /// # Errors
    /// As [`Session::start`].
    pub fn complete(
        &mut self,
        prompt: &Prompt,
        max_tokens: usize,
        sampling: Sampling,
        on_read: impl FnMut(usize),
        mut on_text: impl FnMut(&str) -> Result<bool>,
    ) -> Result<Completion> {
        let begin = Instant::now();
        let mut stream = DecodeStream::new(self.tokenizer, &prompt.ids);
        let mut generation = self.start(prompt, max_tokens, sampling, on_read)?;
        let read_time = begin.elapsed();
        let begin = Instant::now();
        let (mut text, mut ids, mut stopped) = (String::new(), Vec::new(), false);
        while let Some(id) = generation.next().transpose()? {
            ids.push(id);
            let piece = stream.push(id);
            if !piece.is_empty() {
                text.push_str(&piece);
                if !on_text(&piece)? {
                    stopped = true;
                    break;
                }
            }
        }
        let finish = generation.finish.filter(|_| !stopped).unwrap_or(Finish::Stopped);
        let write_time = begin.elapsed();
        let rest = stream.finish();
        if !rest.is_empty() && !stopped {
            text.push_str(&rest);
            on_text(&rest)?;
        }
        Ok(Completion { text, ids, finish, read_time, write_time })
    }

    /// Reads tokens; the logits after the last.
    fn read(&mut self, ids: &[u32]) -> Result<Tensor> {
        // A GPU could not refuse it.
        let rows = self.student.config().vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            bail!("the model has no token {id}, only {rows}");
        }
        let ids = Tensor::from_slice(ids, &[1, ids.len()], &self.student.device())?;
        Ok(self.student.decode(&ids, &mut self.cache)?)
    }
}

/// New tokens, one at a time. A token that ends the completion is not among them.
pub struct Generation<'s, 'a> {
    session: &'s mut Session<'a>,
    sampler: Sampler,
    stops: Vec<u32>,
    logits: Tensor,
    /// The last token, which the model has not read yet.
    unread: Option<u32>,
    written: usize,
    max_tokens: usize,
    finish: Option<Finish>,
}

impl Generation<'_, '_> {
    /// Why there are no more tokens; `None` while there may be.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The next token, or why there is none.
    fn step(&mut self) -> Result<Result<u32, Finish>> {
        if self.written == self.max_tokens {
            return Ok(Err(Finish::MaxTokens));
        }
        if let Some(id) = self.unread.take() {
            if self.session.cache.len() == self.session.cache.capacity() {
                return Ok(Err(Finish::ContextFull));
            }
            self.logits = self.session.read(&[id])?;
        }
        let id = self.sampler.choose(&self.logits.to_vec::<f32>()?, self.written as u64)?;
        if self.stops.contains(&id) {
            return Ok(Err(Finish::End));
        }
        self.written += 1;
        self.unread = Some(id);
        Ok(Ok(id))
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finish.is_some() {
            return None;
        }
        match self.step() {
            Ok(Ok(id)) => Some(Ok(id)),
            Ok(Err(finish)) => {
                self.finish = Some(finish);
                None
            }
            Err(error) => {
                self.finish = Some(Finish::Stopped);
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::PromptText;
    use crate::smelter::data::builtin;
    use nn::model::{Input, LinearKind, ModelConfig};
    use tensor::Device;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(builtin::TOKENIZER_JSON, None).unwrap()
    }

    fn model(tokenizer: &Tokenizer, linear: LinearKind, max_seq: usize) -> Student {
        let config = ModelConfig {
            vocab_size: tokenizer.padded_len() + 64,
            hidden: 48,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            mlp: 96,
            max_seq,
            init_std: 0.2,
            linear,
            ..ModelConfig::default()
        };
        Student::random(config, tokenizer.len(), &Device::Cpu, 3).unwrap()
    }

    fn prompt(tokenizer: &Tokenizer, student: &Student) -> Prompt {
        let text = PromptText::Start("def add(a, b):\n    \"\"\"Add.\"\"\"\n");
        Prompt::new(text, tokenizer, student.config().max_seq, 40).unwrap()
    }

    fn run(session: &mut Session, prompt: &Prompt, sampling: Sampling) -> Completion {
        session.complete(prompt, 40, sampling, |_| {}, |_| Ok(true)).unwrap()
    }

    #[test]
    fn cached_decoding_equals_reading_everything_again() {
        let tokenizer = tokenizer();
        for linear in [LinearKind::Ternary, LinearKind::Dense] {
            let student = model(&tokenizer, linear, 128);
            let prompt = prompt(&tokenizer, &student);
            let mut session = Session::new(&student, &tokenizer, 128).unwrap();
            let cached = run(&mut session, &prompt, Sampling::default());
            let mut ids = prompt.ids.clone();
            let fim = tokenizer.fim();
            let suppressed = vec![tokenizer.bos(), fim.prefix, fim.suffix, fim.middle, fim.pad];
            let mut sampler = Sampler::new(Sampling::default(), suppressed).unwrap();
            for (i, cached) in cached.ids.iter().enumerate() {
                let input = Tensor::from_slice(&ids, &[1, ids.len()], &Device::Cpu).unwrap();
                let logits = student.logits(&Input { ids: input, first_key: None }).unwrap();
                let last = logits.narrow(0, ids.len() - 1, 1).unwrap().contiguous().unwrap();
                let next = sampler.choose(last.as_slice::<f32>().unwrap(), i as u64).unwrap();
                assert_eq!(next, *cached, "token {i} with {linear:?} weights");
                ids.push(next);
            }
            assert!(cached.ids.len() > 10, "{}", cached.ids.len());
        }
    }

    #[test]
    fn seeds_reproduce_and_the_stream_is_the_text() {
        let tokenizer = tokenizer();
        let student = model(&tokenizer, LinearKind::Ternary, 128);
        let prompt = prompt(&tokenizer, &student);
        let mut session = Session::new(&student, &tokenizer, 128).unwrap();
        let sampling = |seed| Sampling { temperature: 1.0, top_p: 0.95, top_k: 0, seed };
        let mut streamed = String::new();
        let first = session
            .complete(
                &prompt,
                40,
                sampling(1),
                |_| {},
                |piece| {
                    streamed.push_str(piece);
                    Ok(true)
                },
            )
            .unwrap();
        assert_eq!(streamed, first.text);
        assert_eq!(first.text, tokenizer.decode_completion(&prompt.ids, &first.ids));
        assert_eq!(run(&mut session, &prompt, sampling(1)).ids, first.ids);
        assert_ne!(run(&mut session, &prompt, sampling(2)).ids, first.ids);
        assert!(first.ids.iter().all(|id| (*id as usize) < tokenizer.len()));
    }

    #[test]
    fn it_ends_for_one_reason() {
        let tokenizer = tokenizer();
        let student = model(&tokenizer, LinearKind::Ternary, 128);
        let prompt = prompt(&tokenizer, &student);
        let mut session = Session::new(&student, &tokenizer, prompt.ids.len() + 3).unwrap();
        let full = run(&mut session, &prompt, Sampling::default());
        assert_eq!((full.finish, full.ids.len()), (Finish::ContextFull, 4));
        let few = session.complete(&prompt, 2, Sampling::default(), |_| {}, |_| Ok(true)).unwrap();
        assert_eq!((few.finish, &few.ids[..]), (Finish::MaxTokens, &full.ids[..2]));
        let none = session.complete(&prompt, 0, Sampling::default(), |_| {}, |_| Ok(true)).unwrap();
        assert_eq!((none.finish, none.text.as_str()), (Finish::MaxTokens, ""));
        let mut ended = prompt.clone();
        ended.stops.push(full.ids[2]);
        let ended = run(&mut session, &ended, Sampling::default());
        assert_eq!((ended.finish, ended.ids.len() <= 2), (Finish::End, true));
        let stopped = session.complete(&prompt, 40, Sampling::default(), |_| {}, |_| Ok(false)).unwrap();
        assert_eq!(stopped.finish, Finish::Stopped);
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_an_error() {
        let tokenizer = tokenizer();
        let student = model(&tokenizer, LinearKind::Dense, 128);
        let prompt = prompt(&tokenizer, &student);
        let mut session = Session::new(&student, &tokenizer, 3).unwrap();
        assert!(session.start(&prompt, 4, Sampling::default(), |_| {}).is_err());
    }
}
