//! A training run from its config to its model: start or resume, steps, validation, checkpoints.

use super::checkpoint::{self, Best, State};
use super::config::Config;
use super::data::builtin::{self, Curriculum};
use super::data::{Dataset, ExampleGenerator, Prefetch, Progress as DataProgress, SourceKind};
use super::evaluate::{Exam, greedy, shares, validate};
use super::health::Watch;
use super::inputs::Inputs;
use super::metrics::{Line, Metrics, Validation, Window};
use super::plan::{Plan, too_large};
use super::run_folder::{RunFolder, write_whole};
use super::teacher::{self, EMBEDDED, embedded_tokenizer};
use super::trainer::{StepReport, Trainer};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use nn::model::{ModelConfig, Student};
use nn::params::Role;
use nn::ternary::Ternary;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tensor::Device;

/// A vocabulary more times larger than its tokenizer is a mistake.
const MOST_PADDING: usize = 4;
/// Steps made ahead by the data thread.
const PREFETCH: usize = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that decides the run.
    pub config: Config,
    /// Its folder.
    pub out: PathBuf,
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// Start from this run's weights instead of random ones.
    pub init: Option<PathBuf>,
    /// Where to compute.
    pub device: Device,
    /// Most bytes of a GPU's memory that the process takes; `None` for what is free.
    pub memory_limit: Option<usize>,
    /// A plan to run by instead of choosing one.
    pub plan: Option<PathBuf>,
    /// Set from outside to end after the current step.
    pub stop: Arc<AtomicBool>,
}

/// What happens during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// How the steps will run was settled; in words.
    Planned(&'a str),
    /// Text is being tokenized.
    Data(&'a DataProgress),
    /// Text of a source was left out; in words.
    LeftOut(&'a str),
    /// The model stands and steps begin.
    Begin {
        /// Steps done before.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Trained elements.
        parameters: usize,
        /// Tokens a step.
        tokens_per_step: usize,
    },
    /// A step was made.
    Step(&'a StepReport),
    /// A line was written to `metrics.jsonl`.
    Metrics(&'a Line),
    /// The model was validated.
    Validated(u64, &'a Validation),
    /// The model completed a held-out prompt.
    Sample {
        /// Steps done.
        step: u64,
        /// What it was given.
        prompt: &'a str,
        /// What it wrote.
        completion: &'a str,
    },
    /// Something is not well.
    Warning(&'a str),
    /// A checkpoint was saved.
    Saved(&'a std::path::Path),
    /// Something that takes a moment begins.
    Working(&'a str),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Steps done before this call.
    pub first: u64,
    /// Steps in all.
    pub steps: u64,
    /// Steps skipped.
    pub skipped: u64,
    /// Validation before the first step; `None` when resumed or nothing is held out.
    pub before: Option<Validation>,
    /// Validation of the result.
    pub after: Option<Validation>,
    /// Validation of the teacher.
    pub teacher: Option<Validation>,
    /// Exact match of the nearest training neighbour, for built-in data.
    pub baseline: Option<f64>,
    /// Held-out functions that the exact match is the share of.
    pub functions: usize,
    /// Prompts and completions of the result.
    pub completions: Vec<(String, String)>,
}

impl Outcome {
    /// Whether all steps are done.
    pub fn is_finished(&self) -> bool {
        self.step >= self.steps
    }
}

/// Runs, and leaves the model in the run folder. Where a finished run is resumed, nothing is done.
pub fn train(options: &Options, on_event: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Outcome> {
    // Before a folder is made for it.
    options.config.validate()?;
    let run = RunFolder::lock(&options.out)?;
    let config = settle(&run, options)?;
    let mut session = Session::open(&run, config, options, on_event)?;
    let outcome = session.run(&run, options, on_event);
    outcome.map_err(|error| session.trainer.plan().advise(error))
}

/// The config that counts: the given one, checked against that of a run that is resumed.
fn settle(run: &RunFolder, options: &Options) -> Result<Config> {
    let mut config = options.config.clone();
    let saved = run.saved_config()?;
    if let (Some(_), false) = (&saved, options.resume) {
        bail!("{} already holds a run: go on with --resume, or choose another --out", run.path().display());
    }
    if let Some(saved) = &saved {
        // A longer run keeps the fall of its learning rates unless another was asked for.
        config.training.decay_steps = config.training.decay_steps.or(saved.training.decay_steps);
        let differences = forbidden_differences(saved, &config)?;
        ensure!(
            differences.is_empty(),
            "the run in {} was started with another config: {}. Only a larger training.steps, training.decay_steps and \
             the cadences may change",
            run.path().display(),
            differences.join("; ")
        );
    }
    let training = &mut config.training;
    training.decay_steps = training.decay_steps.or(Some(training.steps));
    Ok(config)
}

/// Differences that a resumed run may not have.
fn forbidden_differences(saved: &Config, now: &Config) -> Result<Vec<String>> {
    let mut allowed = saved.clone();
    let (a, b) = (&mut allowed.training, &now.training);
    a.steps = a.steps.max(b.steps);
    a.decay_steps = b.decay_steps;
    a.checkpoint_every = b.checkpoint_every;
    a.keep_checkpoints = b.keep_checkpoints;
    a.eval_every = b.eval_every;
    a.eval_batches = b.eval_batches;
    a.eval_functions = b.eval_functions;
    a.sample_every = b.sample_every;
    a.log_every = b.log_every;
    // How data was made is no part of a run.
    allowed.foundry = now.foundry.clone();
    allowed.differences(now)
}

/// A run in memory.
struct Session {
    config: Config,
    tokenizer: Arc<Tokenizer>,
    dataset: Arc<Dataset>,
    exam: Option<Exam>,
    trainer: Trainer,
    state: State,
    metrics: Metrics,
}

impl Session {
    fn open(
        run: &RunFolder,
        config: Config,
        options: &Options,
        on_event: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<Self> {
        let device = &options.device;
        let training = &config.training;
        let resuming = run.config().exists();
        if !resuming {
            checkpoint::begin(run)?;
        }
        let plans = {
            let mut warn = |text: &str| on_event(Event::Warning(text));
            Plan::choices(
                options.plan.as_deref(),
                &run.plan(),
                &config,
                device,
                options.memory_limit,
                &mut warn,
            )?
        };
        let plan = plans.first().context("there is no plan for this device")?.clone();
        plan.apply(device)?;
        let init = options
            .init
            .as_deref()
            .filter(|_| !resuming)
            .map(|path| teacher::model(path, device).context("--init"))
            .transpose()?;
        let teacher = teacher::load(&config.distillation, device)?;
        let given = teacher.as_ref().filter(|_| config.distillation.teacher.as_deref() != Some(EMBEDDED));
        let tokenizer = match (&config.data.tokenizer, init.as_ref().or(given)) {
            _ if resuming => Tokenizer::load(&run.tokenizer())?,
            (Some(path), _) => Tokenizer::load(path)?,
            (None, Some(model)) => Tokenizer::from_bytes(model.tokenizer.file(), None)?,
            (None, None) => embedded_tokenizer()?,
        };
        ensure!(
            config.model.vocab_size <= MOST_PADDING * tokenizer.len(),
            "the tokenizer has {} tokens, model.vocab_size is {}: give the tokenizer meant for it with \
             --tokenizer tokenizer.json, or set model.vocab_size to {}",
            tokenizer.len(),
            config.model.vocab_size,
            tokenizer.padded_len()
        );
        let tokenizer = Arc::new(tokenizer);
        let vocab = config.model.vocab_size;
        ensure!(
            tokenizer.len() <= vocab,
            "the tokenizer has {} tokens, model.vocab_size is {vocab}: set it to {}",
            tokenizer.len(),
            tokenizer.padded_len()
        );
        for (model, what) in [(&init, "--init"), (&teacher, "the teacher")] {
            if let Some(model) = model {
                ensure!(
                    model.tokenizer.hash() == tokenizer.hash(),
                    "{what} has another tokenizer than this run: token ids would not mean the same"
                );
            }
        }
        if let (Some(init), Some(path)) = (&init, &options.init) {
            // The same weights can be used in full precision or as ternary ones.
            let model = ModelConfig { linear: config.model.linear, ..init.config.model.clone() };
            let differences = Config { model, ..config.clone() }.differences(&config)?;
            ensure!(
                differences.is_empty(),
                "--init has another `model` section than this run ({}); take it over with --config {}/config.json",
                differences.join("; "),
                path.display()
            );
        }
        let generator: Arc<dyn ExampleGenerator> = Arc::new(Builtin::new(training.seed, config.data.builtin));
        let dataset = {
            let events = std::sync::Mutex::new(&mut *on_event);
            let on_progress = |progress: &DataProgress| {
                if let Ok(mut on_event) = events.lock() {
                    on_event(Event::Data(progress));
                }
            };
            Dataset::open(
                &config.data,
                Arc::clone(&tokenizer),
                training.seq_len,
                training.seed,
                Some(generator),
                &on_progress,
            )?
        };
        for source in dataset.reports() {
            if let Some(left_out) = source.left_out() {
                on_event(Event::LeftOut(&left_out));
            }
        }
        let inputs = Inputs::of(&config.distillation, dataset.reports())?;
        if resuming {
            inputs.check(run)?;
        }
        let student = Student::random(config.model.clone(), tokenizer.len(), device, training.seed);
        let mut student = student.map_err(|error| too_large(error.into()))?;
        let from_teacher = teacher.as_ref().filter(|_| config.distillation.init);
        if let Some(init) = &init {
            start_from(&mut student, &init.student)?;
        } else if let Some(teacher) = from_teacher
            && start_from(&mut student, &teacher.student)? == 0
        {
            on_event(Event::Warning(
                "no weight of the teacher has the dimensions of the student's, which starts from random ones",
            ));
        }
        let is_builtin = config.data.sources.iter().any(|s| s.resolved_kind() == SourceKind::Builtin);
        let functions = training.eval_functions;
        let exam = (is_builtin && functions > 0)
            .then(|| Exam::new(config.data.builtin, functions, &tokenizer))
            .transpose()?;
        let trainer = Trainer::new(config.clone(), plan, student, teacher.map(|t| t.student));
        let mut trainer = trainer.map_err(too_large)?;
        if *device != Device::Cpu {
            trainer.settle(plans, |plan| dataset.step(0, plan.micro_batches(&config), plan.micro_batch))?;
        }
        on_event(Event::Planned(&trainer.plan().describe(&config)));
        let warn = |text: String| on_event(Event::Warning(&text));
        let mut state = State::default();
        if resuming {
            state = checkpoint::resume(run, &mut trainer, warn)?.unwrap_or_default();
        } else {
            std::fs::create_dir_all(run.checkpoints())?;
            tokenizer.save(run.path())?;
            if options.init.is_some() {
                // A run that is resumed before its first step starts over from these weights.
                checkpoint::save(run, &config, &trainer, &state)?;
            }
        }
        write_whole(&run.plan(), serde_json::to_string_pretty(&trainer.plan())?.as_bytes())?;
        if !resuming {
            inputs.save(run)?;
        }
        write_whole(&run.chat_template(), config.data.template.as_bytes())?;
        // Last, so that a folder with a config has everything else.
        write_whole(&run.config(), config.to_json()?.as_bytes())?;
        let metrics = Metrics::open(&run.metrics(), state.progress.step)?;
        Ok(Session { config, tokenizer, dataset: Arc::new(dataset), exam, trainer, state, metrics })
    }

    fn run(
        &mut self,
        run: &RunFolder,
        options: &Options,
        on_event: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<Outcome> {
        let training = self.config.training.clone();
        let first = self.trainer.progress().step;
        let mut outcome = Outcome {
            step: first,
            first,
            steps: training.steps,
            skipped: self.trainer.progress().skipped,
            before: None,
            after: None,
            teacher: None,
            baseline: None,
            functions: self.exam.as_ref().map_or(0, |exam| exam.examples().len()),
            completions: Vec::new(),
        };
        if outcome.is_finished() {
            return Ok(outcome);
        }
        on_event(Event::Begin {
            step: first,
            steps: training.steps,
            parameters: self.trainer.student().params().numel(),
            tokens_per_step: training.tokens_per_step(),
        });
        let schedule = training.schedule();
        if schedule.factor(first) == 0.0 {
            on_event(Event::Warning(&format!(
                "the learning rates have been 0 since step {}, nothing will change: set training.decay_steps to a later one",
                schedule.horizon
            )));
        }
        if first == 0 {
            on_event(Event::Working("validating before the first step"));
            outcome.before = self.validate(self.trainer.student())?;
        } else if std::mem::take(&mut self.state.validation_due) {
            self.evaluate(first, on_event)?;
        }
        let plan = self.trainer.plan();
        let mut data = Prefetch::start(
            Arc::clone(&self.dataset),
            first..training.steps,
            plan.micro_batches(&self.config),
            plan.micro_batch,
            PREFETCH,
        )?;
        let mut watch = Watch::new(training.health.clone(), training.warmup_steps);
        let mut window = Window::default();
        let mut since = Instant::now();
        while self.trainer.progress().step < training.steps {
            let Some(step) = data.next() else { break };
            self.trainer.step(&step?)?;
            let step = self.trainer.given();
            let last = step == training.steps;
            let stopping = options.stop.load(Ordering::Relaxed) && !last;
            let due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
            let pause = last
                || stopping
                || [training.eval_every, training.sample_every, training.checkpoint_every]
                    .into_iter()
                    .any(|every| due(step, every));
            let reports = self.trainer.reports(pause)?;
            for note in self.trainer.notes() {
                on_event(Event::Warning(&note));
            }
            for mut report in reports {
                window.push(&report);
                on_event(Event::Step(&report));
                let step = report.step;
                if let Some(reason) = &report.skipped {
                    self.warn(step, &format!("step {step} was skipped: {reason}"), on_event)?;
                }
                let hopeless = self.trainer.progress().skipped_in_row >= training.max_bad_steps;
                let layers = std::mem::take(&mut report.layers);
                for warning in watch.check(step, &layers) {
                    self.warn(step, &warning, on_event)?;
                }
                if due(step, training.log_every) || step == training.steps || hopeless {
                    let skipped = self.trainer.progress().skipped;
                    if let Some(line) = window.line(since.elapsed().as_secs_f64(), skipped, layers) {
                        self.metrics.write(&line)?;
                        on_event(Event::Metrics(&line));
                    }
                    since = Instant::now();
                }
                if let (Some(reason), true) = (&report.skipped, hopeless) {
                    // What the device did since changed no weight, or this step would not be hopeless.
                    self.trainer.reports(true)?;
                    self.save(run, on_event)?;
                    bail!(
                        "stopped at step {step}: {} steps in a row were skipped, the last because {reason}. The weights \
                         are those before them; look at the data, or go on with lower learning rates by --init {}",
                        training.max_bad_steps,
                        run.path().display()
                    );
                }
            }
            if last {
                outcome.after = self.evaluate(step, on_event)?;
            } else if due(step, training.eval_every) {
                self.state.validation_due = stopping;
                if !stopping {
                    self.evaluate(step, on_event)?;
                }
            }
            if due(step, training.sample_every) && !stopping {
                self.sample(step, on_event)?;
            }
            if due(step, training.checkpoint_every) || last || stopping {
                self.save(run, on_event)?;
            }
            if stopping {
                break;
            }
        }
        outcome.step = self.trainer.progress().step;
        outcome.skipped = self.trainer.progress().skipped;
        if outcome.is_finished() {
            self.compare(&mut outcome, on_event)?;
        }
        Ok(outcome)
    }

    /// Sets the result beside the teacher and the nearest neighbour.
    fn compare(&self, outcome: &mut Outcome, on_event: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<()> {
        let others = [
            self.trainer.teacher().map(|_| "the teacher"),
            self.exam.as_ref().map(|_| "the nearest neighbour"),
        ];
        let others: Vec<&str> = others.into_iter().flatten().collect();
        if !others.is_empty() {
            on_event(Event::Working(&format!("comparing with {}", others.join(" and "))));
        }
        outcome.teacher = self.trainer.teacher().map(|teacher| self.validate(teacher)).transpose()?.flatten();
        if let Some(exam) = &self.exam {
            let data = &self.config.data;
            outcome.baseline =
                Some(exam.baseline(data.builtin, self.config.training.seed, BASELINE_EXAMPLES));
            for i in [0, 1, 3].into_iter().filter(|&i| i < exam.examples().len()) {
                let body = exam.body(self.trainer.student(), &self.tokenizer, i)?;
                outcome.completions.push((exam.examples()[i].prompt.clone(), body));
            }
        }
        Ok(())
    }

    fn warn(&mut self, step: u64, text: &str, on_event: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<()> {
        self.metrics.write(&Line { step, warning: Some(text.to_owned()), ..Line::default() })?;
        on_event(Event::Warning(text));
        Ok(())
    }

    fn validate(&self, model: &Student) -> Result<Option<Validation>> {
        self.trainer.between_steps(|| self.validate_now(model))
    }

    fn validate_now(&self, model: &Student) -> Result<Option<Validation>> {
        let rows = self.trainer.plan().micro_batch;
        let mut found = validate(model, &self.dataset, rows, self.config.training.eval_batches)?;
        if let (Some(found), Some(exam)) = (&mut found, &self.exam) {
            let (all, unseen) = shares(&exam.grade(model, &self.tokenizer)?);
            (found.exact_match, found.exact_match_unseen) = (Some(all), unseen);
        }
        Ok(found)
    }

    fn evaluate(
        &mut self,
        step: u64,
        on_event: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<Option<Validation>> {
        let Some(found) = self.validate(self.trainer.student())? else { return Ok(None) };
        self.metrics.write(&Line { step, validation: Some(found), ..Line::default() })?;
        on_event(Event::Validated(step, &found));
        // Only a step with a checkpoint can be the best one that is kept.
        let training = &self.config.training;
        let saved = step.is_multiple_of(training.checkpoint_every) || step == training.steps;
        if saved && self.state.best.is_none_or(|best| found.loss < best.loss) {
            self.state.best = Some(Best { step, loss: found.loss });
        }
        Ok(Some(found))
    }

    fn save(&mut self, run: &RunFolder, on_event: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<()> {
        self.state.progress = self.trainer.progress();
        self.metrics.sync()?;
        // With the algorithms chosen since, so that a resumed run takes the same.
        write_whole(&run.plan(), serde_json::to_string_pretty(&self.trainer.plan())?.as_bytes())?;
        let path = checkpoint::save(run, &self.config, &self.trainer, &self.state)?;
        on_event(Event::Saved(&path));
        Ok(())
    }

    /// Completes the beginning of a held-out text.
    fn sample(&self, step: u64, on_event: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<()> {
        const PROMPT: usize = 48;
        const NEW: usize = 64;
        let model = self.trainer.student();
        if let Some(exam) = &self.exam {
            let i = step as usize % exam.examples().len();
            let body = exam.body(model, &self.tokenizer, i)?;
            on_event(Event::Sample { step, prompt: &exam.examples()[i].prompt, completion: &body });
        } else if self.dataset.validation_rows() > 0 {
            let row = step as usize % self.dataset.validation_rows();
            let batch = self.dataset.validation_batch(row, 1)?;
            let document = batch.docs.iter().take_while(|&&doc| doc == batch.docs[0]).count();
            let prompt: Vec<u32> = batch.ids[..document.min(PROMPT)].iter().map(|&id| id as u32).collect();
            let text = self.tokenizer.decode_document(&prompt);
            let completion = greedy(model, &self.tokenizer, &prompt, NEW)?;
            on_event(Event::Sample { step, prompt: &text, completion: &completion });
        }
        Ok(())
    }
}

/// Takes over the weights that have the same name and dimensions in both; returns how many matrices.
fn start_from(student: &mut Student, other: &Student) -> tensor::Result<usize> {
    let mut taken = 0;
    for param in student.params_mut().iter_mut() {
        let value = &mut param.parameter.value;
        let Some(from) = other.params().find(&param.name) else { continue };
        if from.parameter.value.dims() == value.dims() {
            value.copy_from(&from.parameter.value)?;
            if let Some(ternary) = &mut param.ternary {
                *ternary = Ternary::new(value)?;
            }
            taken += usize::from(param.role != Role::Norm);
        }
    }
    Ok(taken)
}

/// Training examples that the nearest-neighbour baseline chooses from.
const BASELINE_EXAMPLES: u64 = 20_000;

/// The curriculum as a source: the run's seed draws the training examples, never the held-out ones.
struct Builtin {
    train: Curriculum,
    heldout: Curriculum,
}

impl Builtin {
    fn new(seed: u64, options: builtin::Options) -> Self {
        Builtin { train: Curriculum::new(seed, options), heldout: Curriculum::new(0, options) }
    }
}

impl ExampleGenerator for Builtin {
    fn example(&self, split: super::data::Split, index: u64) -> super::data::Example {
        let example = match split {
            super::data::Split::Train => self.train.train_example(index),
            super::data::Split::Validation => self.heldout.heldout_example(index),
        };
        super::data::Example { prompt: example.prompt, response: example.response }
    }
}
