//! One optimizer step: forward, loss, backward, clipping, update.

use super::config::Config;
use super::data::{Batch, Step};
use anyhow::{Context, Result, ensure};
use autograd::{Gradients, Tape, Var};
use nn::losses::{CrossEntropy, Loss, RelationKl};
use nn::model::{Input, Student};
use nn::ops::{Add, Teacher};
use nn::optim::{Optimizer, Schedule, grad_norm};
use serde::{Deserialize, Serialize};
use tensor::{Device, Tensor};

/// A student in training: everything that a step changes.
pub struct Trainer {
    config: Config,
    student: Student,
    teacher: Option<Student>,
    optimizer: Optimizer,
    gradients: Gradients,
    schedule: Schedule,
    progress: Progress,
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
}

impl Trainer {
    /// Starts from `student` with fresh optimizer states. `teacher` must have the student's tokens.
    pub fn new(config: Config, student: Student, teacher: Option<Student>) -> Result<Self> {
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
        let gradients = student.params().gradients()?;
        let optimizer = Optimizer::new(config.training.optimizer(), student.params())?;
        let schedule = config.training.schedule();
        Ok(Trainer {
            config,
            student,
            teacher,
            optimizer,
            gradients,
            schedule,
            progress: Progress::default(),
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

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The optimizer's states, by name.
    pub fn optimizer_state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.optimizer.state(self.student.params())
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
        Ok(())
    }

    /// Reads the step's micro-batches and updates the weights, unless the loss or a gradient is not finite: then
    /// data and schedule advance, but no weight and no optimizer state changes.
    pub fn step(&mut self, data: &Step) -> Result<StepReport> {
        let factor = self.schedule.factor(self.progress.step);
        let tokens: usize = data.micro_batches.iter().map(|batch| batch.rows * batch.cols).sum();
        let mut report = StepReport {
            step: self.progress.step + 1,
            loss: 0.0,
            cross_entropy: 0.0,
            distillation: None,
            relation: None,
            grad_norm: 0.0,
            lr_factor: factor,
            tokens,
            skipped: None,
        };
        self.gradients.clear();
        let counted = data.trained_tokens as f64;
        // Batches without a target say nothing; the step passes without an update.
        let used = data.micro_batches.iter().filter(|batch| batch.trained_tokens > 0);
        for batch in used {
            self.accumulate(batch, counted, data.micro_batches.len(), &mut report)?;
        }
        self.progress.step += 1;
        self.progress.tokens += tokens as u64;
        if data.trained_tokens == 0 {
            return Ok(report);
        }
        let norm = grad_norm(self.student.params(), &self.gradients)?;
        report.grad_norm = norm.norm;
        report.skipped = if report.loss.is_finite() {
            norm.non_finite.as_ref().map(|name| format!("the gradient of {name} is not finite"))
        } else {
            Some(format!("the loss is {}", report.loss))
        };
        if report.skipped.is_some() {
            self.progress.skipped += 1;
            self.progress.skipped_in_row += 1;
            return Ok(report);
        }
        let clip = norm.clip_factor(self.config.training.clip_norm);
        self.optimizer.step(self.student.params_mut(), &self.gradients, clip, factor)?;
        self.progress.updates += 1;
        self.progress.skipped_in_row = 0;
        Ok(report)
    }

    /// Adds one micro-batch's gradients.
    fn accumulate(
        &mut self,
        batch: &Batch,
        counted: f64,
        micro_batches: usize,
        report: &mut StepReport,
    ) -> Result<()> {
        let distillation = &self.config.distillation;
        let input = model_input(batch)?;
        let targets = Tensor::from_slice(&batch.targets, &[batch.rows * batch.cols], &Device::Cpu)?;
        let relation = distillation.relation.as_ref().filter(|_| self.teacher.is_some());
        let student_layer = relation.map(|r| r.layer.unwrap_or(self.student.config().layers - 1));
        let mut terms: Vec<(f64, Loss)> = Vec::with_capacity(2);
        let smoothed = CrossEntropy { label_smoothing: self.config.training.label_smoothing };
        let (teacher, teacher_relations) = match &self.teacher {
            Some(teacher) => {
                let layer = relation.map(|r| r.teacher_layer.unwrap_or(teacher.config().layers - 1));
                let (says, relations) = teacher.teach(&input, layer).context("the teacher's forward pass")?;
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
        let (hidden, relations) =
            student.hidden(&mut tape, &input, self.config.training.recompute, student_layer)?;
        let (mut loss, values) = student.loss(&mut tape, &hidden, targets, terms, counted, teacher)?;
        drop(hidden);
        let values = values.to_vec::<f32>()?;
        report.cross_entropy += f64::from(values[0]);
        if let Some(&value) = values.get(1) {
            *report.distillation.get_or_insert(0.0) += f64::from(value);
        }
        if let (Some(config), Some(student), Some(teacher)) = (relation, relations, teacher_relations) {
            let mut op = config.loss();
            // The mean over positions is a micro-batch's; the step's is the mean of those.
            op.weights = op.weights.map(|weight| weight / micro_batches as f64);
            let relation = relation_loss(&mut tape, op, &student, teacher)?;
            *report.relation.get_or_insert(0.0) += f64::from(relation.detach().item::<f32>()?);
            loss = tape.apply(Add, &[&loss, &relation])?;
        }
        report.loss += f64::from(loss.detach().item::<f32>()?);
        tape.backward(&loss, &mut self.gradients)?;
        Ok(())
    }
}

fn relation_loss(
    tape: &mut Tape<'_>,
    op: RelationKl,
    student: &[Var; 3],
    teacher: [Tensor; 3],
) -> Result<Var> {
    let teacher = teacher.map(|x| tape.constant(x));
    let inputs: Vec<&Var> = student.iter().chain(&teacher).collect();
    Ok(tape.apply(op, &inputs)?)
}

/// A batch's tokens as the model takes them: ids, and where each position's document begins.
pub fn model_input(batch: &Batch) -> Result<Input> {
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
    let dims = [batch.rows, batch.cols];
    Ok(Input {
        ids: Tensor::from_slice(&ids, &dims, &Device::Cpu)?,
        first_key: Some(Tensor::from_slice(&first_key, &dims, &Device::Cpu)?),
    })
}

/// What the model, as it is, says of a batch: `(cross-entropy summed over counted tokens, counted tokens, bytes)`.
pub fn validation_loss(model: &Student, batch: &Batch) -> Result<(f64, usize, u64)> {
    if batch.trained_tokens == 0 {
        return Ok((0.0, 0, 0));
    }
    let input = model_input(batch)?;
    let targets = Tensor::from_slice(&batch.targets, &[batch.rows * batch.cols], &Device::Cpu)?;
    let mut tape = Tape::inference();
    let (hidden, _) = model.hidden(&mut tape, &input, false, None)?;
    let terms = vec![(1.0, CrossEntropy::default().into())];
    let (loss, _) = model.loss(&mut tape, &hidden, targets, terms, 1.0, None::<Teacher>)?;
    Ok((f64::from(loss.detach().item::<f32>()?), batch.trained_tokens, batch.trained_bytes))
}
