//! One optimizer step: forward, loss, backward, clipping, update. On a GPU the step is captured once and replayed, and
//! nothing waits for it: what it found is read later.

use super::config::Config;
use super::data::{Batch, Step};
use super::health::{self, LayerHealth};
use super::plan::{Plan, is_out_of_memory};
use anyhow::{Context, Result, ensure};
use autograd::{Gradients, Tape, Var};
use nn::losses::{CrossEntropy, Loss, RelationKl};
use nn::model::{Input, Student};
use nn::ops::{Add, Teacher};
use nn::optim::{Optimizer, PendingOutcome, Schedule, Skipped};
use nn::ternary::CodeReport;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tensor::cuda::{Arena, Cuda, Graph, Pending};
use tensor::{DType, Device, Tensor};

/// Steps that run eagerly before one is captured: they choose algorithms and take the memory.
const EAGER_STEPS: u32 = 2;
/// Steps that a GPU may be behind the host.
const MOST_AHEAD: usize = 3;

/// A student in training: everything that a step changes.
pub struct Trainer {
    config: Config,
    plan: Plan,
    student: Student,
    teacher: Option<Student>,
    optimizer: Optimizer,
    gradients: Gradients,
    schedule: Schedule,
    progress: Progress,
    /// The micro-batches of the step, in memory that stays.
    inputs: Vec<BatchTensors>,
    /// Loss and terms, summed over the micro-batches, f32.
    sums: Tensor,
    pending: VecDeque<PendingStep>,
    gpu: Option<OnGpu>,
    notes: Vec<String>,
}

/// How steps run on a GPU.
struct OnGpu {
    gpu: Cuda,
    /// Memory of the steps, which a captured one owns.
    arena: Arena,
    replay: Replay,
}

enum Replay {
    /// After so many eager steps.
    Eager(u32),
    Captured(Graph),
    /// Capturing failed or is of no use.
    Never,
}

/// A micro-batch on the device.
struct BatchTensors {
    input: Input,
    targets: Tensor,
}

/// A step that was given to the device, and what is to come of it.
struct PendingStep {
    report: StepReport,
    /// What the sums are multiplied by.
    scale: f64,
    /// `None` if the step had nothing to train on.
    found: Option<(PendingOutcome, CodeReport, Values)>,
}

enum Values {
    Known(Vec<f32>),
    Arriving(Pending),
}

/// How far a run is. With the weights and the optimizer's states, all that a step depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, skipped ones included; also the next step's number, which decides its data and learning rates.
    pub step: u64,
    /// Updates done: steps less the skipped ones.
    pub updates: u64,
    /// Steps skipped because the loss or a gradient was not finite.
    pub skipped: u64,
    /// Of those, the ones just now in a row.
    pub skipped_in_row: u64,
    /// Tokens read.
    pub tokens: u64,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// The loss that was minimised, before the update.
    pub loss: f64,
    /// Cross-entropy in nats a counted token, with smoothing.
    pub cross_entropy: f64,
    /// The teacher's term, unweighted.
    pub distillation: Option<f64>,
    /// The attention-relation term, weighted.
    pub relation: Option<f64>,
    /// Norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// Factor of the learning rates.
    pub lr_factor: f64,
    /// Tokens read.
    pub tokens: usize,
    /// Why there was no update.
    pub skipped: Option<String>,
    /// The ternary weights after it.
    pub layers: Vec<LayerHealth>,
}

impl Trainer {
    /// Starts from `student` with fresh optimizer states. `teacher` must have the student's tokens.
    pub fn new(
        config: Config,
        plan: Plan,
        mut student: Student,
        mut teacher: Option<Student>,
    ) -> Result<Self> {
        if let Some(teacher) = &teacher {
            ensure!(
                teacher.vocab() == student.vocab(),
                "the teacher has {} tokens, the student {}: they need the same tokenizer",
                teacher.vocab(),
                student.vocab()
            );
            ensure!(
                teacher.config().max_seq >= config.training.seq_len,
                "the teacher's context is {} tokens, training.seq_len is {}",
                teacher.config().max_seq,
                config.training.seq_len
            );
            if let Some(relation) = &config.distillation.relation {
                for model in [&student, teacher] {
                    let c = model.config();
                    for width in [c.heads * c.head_dim, c.kv_heads * c.head_dim] {
                        ensure!(
                            width.is_multiple_of(relation.heads),
                            "distillation.relation.heads is {}, it must divide {width} (heads · head_dim)",
                            relation.heads
                        );
                    }
                }
                let layers = teacher.config().layers;
                ensure!(
                    relation.teacher_layer.is_none_or(|layer| layer < layers),
                    "distillation.relation.teacher_layer is beyond the teacher's {layers} layers"
                );
            }
        }
        let compute = plan.precision.dtype();
        for model in std::iter::once(&mut student).chain(&mut teacher) {
            model.set_compute(compute)?;
        }
        let gradients = student.params().gradients()?;
        let mut optimizer = Optimizer::new(config.training.optimizer(), student.params())?;
        optimizer.set_newton_schulz(compute);
        let schedule = config.training.schedule();
        let relation = config.distillation.relation.is_some() && teacher.is_some();
        let terms = 2 + usize::from(teacher.is_some()) + usize::from(relation);
        let sums = Tensor::zeros(&[terms], DType::F32, &student.device())?;
        let gpu = match student.device() {
            Device::Cuda(gpu) => {
                // The relation term is a mean over positions: its weight would change with the step's counted tokens.
                let replay = if relation { Replay::Never } else { Replay::Eager(0) };
                Some(OnGpu { gpu, arena: gpu.arena(), replay })
            }
            _ => None,
        };
        Ok(Trainer {
            config,
            plan,
            student,
            teacher,
            optimizer,
            gradients,
            schedule,
            progress: Progress::default(),
            inputs: Vec::new(),
            sums,
            pending: VecDeque::new(),
            gpu,
            notes: Vec::new(),
        })
    }

    /// The student.
    pub fn student(&self) -> &Student {
        &self.student
    }

    /// The teacher, if there is one.
    pub fn teacher(&self) -> Option<&Student> {
        self.teacher.as_ref()
    }

    /// What was settled at the start, with the algorithms chosen since.
    pub fn plan(&self) -> Plan {
        let products = self.gpu.as_ref().map(|on| on.gpu.blas_choices()).unwrap_or_default();
        Plan { products, ..self.plan.clone() }
    }

    /// How far the run is, as of the last report.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The optimizer's states, by name.
    pub fn optimizer_state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.optimizer.state(self.student.params())
    }

    /// Steps given so far, reported or not.
    pub fn given(&self) -> u64 {
        self.progress.step + self.pending.len() as u64
    }

    /// Runs `f`, which keeps no tensor, in the memory of the steps.
    pub fn between_steps<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.gpu {
            Some(on) => on.gpu.within(on.arena, f),
            None => f(),
        }
    }

    /// What there is to say of how the steps run, once each.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Continues from saved weights, optimizer states and progress.
    pub fn restore(
        &mut self,
        progress: Progress,
        weights: impl FnMut(&str) -> tensor::Result<Option<Tensor>>,
        states: impl FnMut(&str) -> tensor::Result<Option<Tensor>>,
    ) -> Result<()> {
        self.student.params_mut().load(weights)?;
        self.optimizer.load(self.student.params(), progress.updates, states)?;
        self.progress = progress;
        self.pending.clear();
        Ok(())
    }

    /// Takes the first of `plans` of which a step fits the device's memory, by running one micro-batch of `step_of` it
    /// without an update; returns that step.
    ///
    /// # Errors
    /// If none fits.
    pub fn settle(
        &mut self,
        plans: impl IntoIterator<Item = Plan>,
        step_of: impl Fn(&Plan) -> Result<Step>,
    ) -> Result<Step> {
        let mut why = None;
        for plan in plans {
            let step = step_of(&plan)?;
            self.plan = plan;
            match self.try_step(&step) {
                Ok(()) => return Ok(step),
                Err(error) if is_out_of_memory(&error) => why = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(self.plan.advise(why.context("no plan was tried")?))
    }

    fn try_step(&mut self, data: &Step) -> Result<()> {
        self.inputs.clear();
        let denominator = self.nominal(data);
        let done = self.load(data).and_then(|()| {
            self.gradients.clear();
            match &self.gpu {
                Some(on) => {
                    let (gpu, arena) = (on.gpu, on.arena);
                    gpu.within(arena, || self.accumulate(0, denominator))
                }
                None => self.accumulate(0, denominator),
            }?;
            Ok(())
        });
        self.gradients.clear();
        if let (Err(_), Some(on)) = (&done, &self.gpu) {
            self.inputs.clear();
            on.gpu.trim_memory()?;
        }
        done
    }

    /// Reads the step's micro-batches and updates the weights, unless the loss or a gradient is not finite: then
    /// data and schedule advance, but no weight and no optimizer state changes. [`Trainer::reports`] tells what it did.
    pub fn step(&mut self, data: &Step) -> Result<()> {
        let number = self.given();
        let factor = self.schedule.factor(number);
        let tokens: usize = data.micro_batches.iter().map(|batch| batch.rows * batch.cols).sum();
        let report = StepReport {
            step: number + 1,
            loss: 0.0,
            cross_entropy: 0.0,
            distillation: None,
            relation: None,
            grad_norm: 0.0,
            lr_factor: factor,
            tokens,
            skipped: None,
            layers: Vec::new(),
        };
        let counted = data.trained_tokens as f64;
        if data.trained_tokens == 0 {
            // Nothing to learn from: the step passes without an update.
            self.pending.push_back(PendingStep { report, scale: 1.0, found: None });
            return Ok(());
        }
        self.load(data)?;
        // A captured step divides by the same number every time, and scales what differs.
        let denominator = if self.can_replay() { self.nominal(data) } else { counted };
        let scale = denominator / counted;
        self.optimizer.set_factors(factor, scale as f32)?;
        self.launch(denominator)?;
        let outcome = self.optimizer.outcome()?;
        let codes = self.student.params().code_report()?;
        let sums = match &self.gpu {
            Some(on) => Values::Arriving(on.gpu.read_later(&self.sums)?),
            None => Values::Known(self.sums.to_vec::<f32>()?),
        };
        self.pending.push_back(PendingStep { report, scale, found: Some((outcome, codes, sums)) });
        Ok(())
    }

    /// What steps did, in order: those that are known, or `all`, waiting for the device.
    pub fn reports(&mut self, all: bool) -> Result<Vec<StepReport>> {
        let mut reports = Vec::new();
        while let Some(next) = self.pending.front() {
            let known = match &next.found {
                Some((.., Values::Arriving(values))) => values.has_arrived()?,
                _ => true,
            };
            if !known && !all && self.pending.len() <= MOST_AHEAD {
                break;
            }
            if let Some(next) = self.pending.pop_front() {
                reports.push(self.complete(next)?);
            }
        }
        Ok(reports)
    }

    fn complete(&mut self, pending: PendingStep) -> Result<StepReport> {
        let PendingStep { mut report, scale, found } = pending;
        self.progress.step += 1;
        self.progress.tokens += report.tokens as u64;
        let params = self.student.params();
        let Some((outcome, codes, sums)) = found else {
            report.layers = health::layers(params, params.code_report()?)?;
            return Ok(report);
        };
        let sums = match sums {
            Values::Known(values) => values,
            Values::Arriving(values) => values.get::<f32>()?,
        };
        let mut sums = sums.into_iter().map(|sum| f64::from(sum) * scale);
        report.loss = sums.next().unwrap_or_default();
        report.cross_entropy = sums.next().unwrap_or_default();
        if self.teacher.is_some() {
            report.distillation = sums.next();
        }
        report.relation = sums.next();
        let outcome = outcome.get(params)?;
        report.grad_norm = outcome.norm;
        report.skipped = outcome.skipped.map(|skipped| match skipped {
            Skipped::Gradient(name) => format!("the gradient of {name} is not finite"),
            Skipped::Loss => format!("the loss is {}", report.loss),
        });
        report.layers = health::layers(params, codes)?;
        if report.skipped.is_some() {
            self.progress.skipped += 1;
            self.progress.skipped_in_row += 1;
        } else {
            self.progress.updates += 1;
            self.progress.skipped_in_row = 0;
        }
        Ok(report)
    }

    fn can_replay(&self) -> bool {
        self.gpu.as_ref().is_some_and(|on| !matches!(on.replay, Replay::Never))
    }

    /// What losses are divided by where the counted tokens must not decide it.
    fn nominal(&self, data: &Step) -> f64 {
        data.micro_batches.iter().map(|batch| batch.rows * batch.cols).sum::<usize>() as f64
    }

    /// Brings the step's micro-batches to the device, into the memory of the last ones.
    fn load(&mut self, data: &Step) -> Result<()> {
        // Batches without a target say nothing; a captured step has them all the same.
        let fixed = self.can_replay();
        let used = data.micro_batches.iter().filter(|batch| fixed || batch.trained_tokens > 0);
        let device = self.student.device();
        let used: Vec<&Batch> = used.collect();
        used.iter().try_for_each(|batch| batch.check_tokens(self.student.vocab()))?;
        let same = used.len() == self.inputs.len()
            && used
                .iter()
                .zip(&self.inputs)
                .all(|(batch, to)| to.input.ids.dims() == [batch.rows, batch.cols]);
        if !same {
            ensure!(
                !self.gpu.as_ref().is_some_and(|on| matches!(on.replay, Replay::Captured(_))),
                "a step of {} micro-batches of other dimensions than the captured step",
                used.len()
            );
            self.inputs =
                used.into_iter().map(|batch| BatchTensors::new(batch, &device)).collect::<Result<_>>()?;
            return Ok(());
        }
        used.into_iter().zip(&mut self.inputs).try_for_each(|(batch, to)| to.fill(batch))
    }

    /// Runs the loaded step: eagerly, or on a GPU by replaying what was captured.
    fn launch(&mut self, denominator: f64) -> Result<()> {
        let Some(OnGpu { gpu, arena, replay }) = &mut self.gpu else {
            return Ok(self.run(denominator)?);
        };
        let (gpu, arena) = (*gpu, *arena);
        match replay {
            Replay::Captured(graph) => return Ok(graph.launch()?),
            Replay::Eager(runs) if *runs == EAGER_STEPS => {
                let replay = match gpu.capture(arena, || self.run(denominator)) {
                    Ok((graph, ())) => {
                        graph.launch()?;
                        Replay::Captured(graph)
                    }
                    Err(error) => {
                        self.notes.push(format!("steps are not replayed but launched one by one: {error}"));
                        gpu.within(arena, || self.run(denominator))?;
                        Replay::Never
                    }
                };
                if let Some(on) = &mut self.gpu {
                    on.replay = replay;
                }
                return Ok(());
            }
            Replay::Eager(runs) => *runs += 1,
            Replay::Never => {}
        }
        gpu.within(arena, || self.run(denominator)).context("a training step")
    }

    /// The work of a step.
    fn run(&mut self, denominator: f64) -> tensor::Result<()> {
        self.gradients.clear();
        for i in 0..self.inputs.len() {
            self.accumulate(i, denominator)?;
        }
        let loss = self.sums.narrow(0, 0, 1)?;
        let clip = self.config.training.clip_norm;
        self.optimizer.update(self.student.params_mut(), &self.gradients, Some(&loss), clip)
    }

    /// Adds the gradients and losses of micro-batch `i`.
    fn accumulate(&mut self, i: usize, denominator: f64) -> tensor::Result<()> {
        let distillation = &self.config.distillation;
        let BatchTensors { input, targets } = &self.inputs[i];
        let relation = distillation.relation.as_ref().filter(|_| self.teacher.is_some());
        let student_layer = relation.map(|r| r.layer.unwrap_or(self.student.config().layers - 1));
        let mut terms: Vec<(f64, Loss)> = Vec::with_capacity(2);
        let smoothed = CrossEntropy { label_smoothing: self.config.training.label_smoothing };
        let (teacher, teacher_relations) = match &self.teacher {
            Some(teacher) => {
                let layer = relation.map(|r| r.teacher_layer.unwrap_or(teacher.config().layers - 1));
                let (says, relations) = teacher.teach(input, layer)?;
                terms.push((1.0 - distillation.alpha, smoothed.into()));
                terms.push((distillation.alpha, distillation.loss));
                (Some(says), relations)
            }
            None => {
                terms.push((1.0, smoothed.into()));
                (None, None)
            }
        };
        let student = &self.student;
        let mut tape = Tape::new();
        let (hidden, relations) = student.hidden(&mut tape, input, self.plan.recompute, student_layer)?;
        let (mut loss, values) =
            student.loss(&mut tape, &hidden, targets.clone(), terms, denominator, teacher)?;
        drop(hidden);
        let mut sums = vec![values];
        if let (Some(config), Some(student), Some(teacher)) = (relation, relations, teacher_relations) {
            let mut op = config.loss();
            // The mean over positions is a micro-batch's; the step's is the mean of those.
            op.weights = op.weights.map(|weight| weight / self.plan.micro_batches(&self.config) as f64);
            let relation = relation_loss(&mut tape, op, &student, teacher)?;
            sums.push(relation.detach().reshape(&[1])?);
            loss = tape.apply(Add, &[&loss, &relation])?;
        }
        sums.insert(0, loss.detach().reshape(&[1])?);
        let sums = Tensor::cat(&sums.iter().collect::<Vec<_>>(), 0)?.to_dtype(DType::F32)?;
        if i == 0 { self.sums.copy_from(&sums) } else { self.sums.add_assign(&sums) }?;
        tape.backward(&loss, &mut self.gradients)?;
        Ok(())
    }
}

impl BatchTensors {
    fn new(batch: &Batch, device: &Device) -> Result<Self> {
        let (input, targets) = batch_tensors(batch, device)?;
        Ok(BatchTensors { input, targets })
    }

    /// Overwrites the tensors.
    fn fill(&mut self, batch: &Batch) -> Result<()> {
        let (ids, first_key) = ids_and_starts(batch);
        self.input.ids.copy_from_slice(&ids)?;
        if let Some(first) = &mut self.input.first_key {
            first.copy_from_slice(&first_key)?;
        }
        Ok(self.targets.copy_from_slice(&batch.targets)?)
    }
}

fn relation_loss(
    tape: &mut Tape<'_>,
    op: RelationKl,
    student: &[Var; 3],
    teacher: [Tensor; 3],
) -> tensor::Result<Var> {
    let teacher = teacher.map(|x| tape.constant(x));
    let inputs: Vec<&Var> = student.iter().chain(&teacher).collect();
    tape.apply(op, &inputs)
}

/// A batch's token ids, and where each position's document begins.
fn ids_and_starts(batch: &Batch) -> (Vec<u32>, Vec<u32>) {
    let ids: Vec<u32> = batch.ids.iter().map(|&id| id as u32).collect();
    let mut first_key = Vec::with_capacity(ids.len());
    for docs in batch.docs.chunks_exact(batch.cols.max(1)) {
        let mut start = 0;
        for (position, doc) in docs.iter().enumerate() {
            if position > 0 && *doc != docs[position - 1] {
                start = position;
            }
            first_key.push(start as u32);
        }
    }
    (ids, first_key)
}

/// A batch as the model takes it on `device`: its input, and its targets `[rows·cols]`.
fn batch_tensors(batch: &Batch, device: &Device) -> Result<(Input, Tensor)> {
    let (ids, first_key) = ids_and_starts(batch);
    let dims = [batch.rows, batch.cols];
    let input = Input {
        ids: Tensor::from_slice(&ids, &dims, device)?,
        first_key: Some(Tensor::from_slice(&first_key, &dims, device)?),
    };
    Ok((input, Tensor::from_slice(&batch.targets, &[batch.rows * batch.cols], device)?))
}

/// What the model, as it is, says of a batch: `(cross-entropy summed over counted tokens, counted tokens, bytes)`.
pub fn validation_loss(model: &Student, batch: &Batch) -> Result<(f64, usize, u64)> {
    if batch.trained_tokens == 0 {
        return Ok((0.0, 0, 0));
    }
    batch.check_tokens(model.vocab())?;
    let (input, targets) = batch_tensors(batch, &model.device())?;
    let mut tape = Tape::inference();
    let (hidden, _) = model.hidden(&mut tape, &input, false, None)?;
    let terms = vec![(1.0, CrossEntropy::default().into())];
    let (loss, _) = model.loss(&mut tape, &hidden, targets, terms, 1.0, None::<Teacher>)?;
    Ok((f64::from(loss.detach().item::<f32>()?), batch.trained_tokens, batch.trained_bytes))
}
