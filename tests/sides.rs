//! One model computed in several ways that differ in rounding alone: on a GPU, and on the CPU with sums in another order.
//!
//! The other order comes from a symmetry. Whoever renumbers the channels of the residual stream and of the gated layers,
//! in every weight at once, has the same model, in which every norm, product and gradient sums in another order.

use crate::check::cuda_device;
use autograd::{Gradients, Tape};
use nn::losses::CrossEntropy;
use nn::model::{Input, LinearKind, ModelConfig, Student};
use nn::ops::IGNORE;
use nn::params::Params;
use nn::ternary::QuantizedRows;
use std::sync::{Mutex, MutexGuard};
use tensor::{Device, Result, Stream, Tensor};

/// A device and an order of the channels.
pub struct Side {
    /// In words.
    pub name: String,
    /// Where it computes.
    pub device: Device,
    /// Decides the order; `None` for that of the reference.
    seed: Option<u64>,
}

/// One test at a time uses the GPU: while one captures its stream, the work of another would be captured too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Side {
    /// What the others are compared with: the CPU.
    pub fn reference() -> Side {
        Side { name: "cpu".to_owned(), device: Device::Cpu, seed: None }
    }

    /// The CPU with sums in another order.
    pub fn reordered(seed: u64) -> Side {
        Side { name: format!("cpu, order {seed}"), device: Device::Cpu, seed: Some(seed) }
    }

    /// The first GPU, and the right to use it, for a test of that name.
    ///
    /// # Panics
    /// Without one, if `DISTILLIX_REQUIRE_CUDA=1`.
    pub fn gpu(test: &str) -> Option<(Side, MutexGuard<'static, ()>)> {
        let device = cuda_device(test)?;
        let side = Side { name: "cuda".to_owned(), device, seed: None };
        Some((side, ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner())))
    }

    /// Whether its channels come in another order than those of the reference.
    pub fn is_reordered(&self) -> bool {
        self.seed.is_some()
    }

    /// The model that the reference makes of a config.
    pub fn student(&self, config: &ModelConfig, vocab: usize) -> Result<Student> {
        let first = Student::random(config.clone(), vocab, &Device::Cpu, 5)?;
        let mut student = Student::new(config.clone(), vocab, &self.device, |_, _, _| Ok(()))?;
        student.params_mut().load(|name| {
            let param = first.params().find(name);
            param.map(|p| self.renumbered(&p.parameter.value, axes(name), false)).transpose()
        })?;
        Ok(student)
    }

    /// Gradients of all parameters, numbered as in the reference.
    pub fn gradients(&self, params: &Params, grads: &Gradients) -> Result<Vec<(String, Vec<f32>)>> {
        let named = |p: &nn::params::Param| {
            let grad = grads.get(p.parameter.id).expect("every parameter gets a gradient");
            let grad = self.renumbered(&grad.to_device(&Device::Cpu)?, axes(&p.name), true)?;
            Ok((p.name.clone(), grad.to_vec()?))
        };
        params.iter().map(named).collect()
    }

    /// The codes that the products of the reference read in a forward pass, for this side to read.
    pub fn codes(&self, codes: &[QuantizedRows]) -> Result<Vec<QuantizedRows>> {
        // Of each block: q, k and v; o; gate and up; down.
        let axes = [Axis::Hidden, Axis::Fixed, Axis::Hidden, Axis::Mlp];
        let renumbered = |(rows, axis): (&QuantizedRows, &Axis)| {
            let leading = rows.codes().rank() - 1;
            let axes: Vec<Axis> = std::iter::repeat_n(Axis::Fixed, leading).chain([*axis]).collect();
            QuantizedRows::from_parts(self.renumbered(rows.codes(), &axes, false)?, rows.scales().clone())
        };
        codes.iter().zip(axes.iter().cycle()).map(renumbered).collect()
    }

    /// The tensor with the channels of its axes in this side's order, or back from it.
    fn renumbered(&self, x: &Tensor, axes: &[Axis], back: bool) -> Result<Tensor> {
        let Some(seed) = self.seed else { return Ok(x.clone()) };
        let mut x = x.clone();
        for (i, axis) in axes.iter().enumerate().filter(|(_, axis)| **axis != Axis::Fixed) {
            let stream = Stream { site: *axis as u32, ..Stream::new(seed) };
            let order = stream.permutation(x.dims()[i]);
            let mut ids = vec![0u32; order.len()];
            for (to, &from) in order.iter().enumerate() {
                let (at, id) = if back { (from, to) } else { (to, from) };
                ids[at] = id as u32;
            }
            x = x.index_select(i, &Tensor::from_slice(&ids, &[ids.len()], &Device::Cpu)?)?;
        }
        Ok(x)
    }
}

/// What the channels of an axis are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Fixed,
    Hidden,
    Mlp,
}

/// The axes of a parameter.
fn axes(name: &str) -> &'static [Axis] {
    use Axis::{Fixed, Hidden, Mlp};
    let name = name.strip_suffix(".weight").unwrap_or(name);
    match name.rsplit('.').next().unwrap_or(name) {
        "embed_tokens" | "lm_head" | "q_proj" | "k_proj" | "v_proj" => &[Fixed, Hidden],
        "o_proj" => &[Hidden, Fixed],
        "gate_proj" | "up_proj" => &[Mlp, Hidden],
        "down_proj" => &[Hidden, Mlp],
        "input_layernorm" | "post_attention_layernorm" | "norm" => &[Hidden],
        "ffn_sub_norm" => &[Mlp],
        "q_norm" | "k_norm" | "attn_sub_norm" => &[Fixed],
        other => panic!("the axes of {other} are not known"),
    }
}

/// A model, and rows of tokens to compute it on.
pub struct Shape {
    /// In words.
    pub name: &'static str,
    /// Dimensions and switches.
    pub model: ModelConfig,
    /// Tokens that are used.
    pub vocab: usize,
    /// Rows of a pass.
    pub rows: usize,
    /// Tokens of a row.
    pub cols: usize,
}

/// The preset `tiny`, and a model of heads of 64 in which nothing else is a power of two.
pub fn shapes(linear: LinearKind) -> [Shape; 2] {
    let tiny = distillix::smelter::config::Config::preset("tiny").expect("a preset").model;
    let odd = ModelConfig {
        vocab_size: 192,
        hidden: 91,
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 64,
        mlp: 131,
        max_seq: 80,
        sub_norm: true,
        tie_embeddings: false,
        linear,
        ..ModelConfig::default()
    };
    [
        Shape { name: "tiny", vocab: 1000, rows: 4, cols: 40, model: ModelConfig { linear, ..tiny } },
        Shape { name: "odd", vocab: 173, rows: 6, cols: 37, model: odd },
    ]
}

/// Rows of a batch.
pub struct Rows {
    /// Token of each position.
    pub ids: Vec<u32>,
    /// The next, or [`IGNORE`].
    pub targets: Vec<i32>,
    /// Document of each position within its row.
    pub docs: Vec<i32>,
}

impl Shape {
    /// Something to learn: mostly a fixed successor of each token, in two documents a row.
    pub fn rows(&self, seed: u64) -> Rows {
        let (stream, vocab) = (Stream::new(seed), self.vocab as u64);
        let mut rows = Rows { ids: Vec::new(), targets: Vec::new(), docs: Vec::new() };
        for i in 0..self.rows * self.cols {
            let (column, cut) = (i % self.cols, self.cols / 2 + i / self.cols);
            let fresh = column == 0 || stream.below(2 * i as u64, 5) == 0;
            let id = match rows.ids.last() {
                Some(&last) if !fresh => (7 * u64::from(last) + 3) % vocab % 50,
                _ => stream.below(2 * i as u64 + 1, vocab),
            };
            if column > 0 {
                rows.targets.push(if column == cut { IGNORE } else { id as i32 });
            }
            if column == self.cols - 1 {
                rows.targets.push(IGNORE);
            }
            rows.ids.push(id as u32);
            rows.docs.push(i32::from(column >= cut));
        }
        rows
    }

    /// Logits, loss and gradients of the first rows.
    pub fn pass(&self, side: &Side, student: &Student) -> Result<Pass> {
        let rows = self.rows(1);
        let (dims, n) = ([self.rows, self.cols], rows.ids.len());
        let first_key = (0..n).map(|i| match rows.docs[i] {
            0 => 0,
            _ => (self.cols / 2 + i / self.cols) as u32,
        });
        let input = Input {
            ids: Tensor::from_slice(&rows.ids, &dims, &side.device)?,
            first_key: Some(Tensor::from_slice(&first_key.collect::<Vec<u32>>(), &dims, &side.device)?),
        };
        let counted = rows.targets.iter().filter(|&&target| target != IGNORE).count() as f64;
        let targets = Tensor::from_slice(&rows.targets, &[n], &side.device)?;
        let mut grads = student.params().gradients()?;
        let mut tape = Tape::new();
        let (hidden, _) = student.hidden(&mut tape, &input, false, None)?;
        let terms = vec![(1.0, CrossEntropy { label_smoothing: 0.1 }.into())];
        let (loss, _) = student.loss(&mut tape, &hidden, targets, terms, counted, None)?;
        let logits = student.logits(&input)?;
        tape.backward(&loss, &mut grads)?;
        Ok(Pass {
            loss: loss.detach().to_device(&Device::Cpu)?.item()?,
            logits: logits.to_device(&Device::Cpu)?.to_vec()?,
            grads: side.gradients(student.params(), &grads)?,
        })
    }
}

/// What a pass gave, numbered as in the reference.
pub struct Pass {
    /// Mean over the counted targets.
    pub loss: f32,
    /// `[positions, tokens]`.
    pub logits: Vec<f32>,
    /// Of each parameter, by name.
    pub grads: Vec<(String, Vec<f32>)>,
}

impl Pass {
    /// How far it is from another: the relative L2 error of the logits and of each gradient, and the relative error of
    /// the loss.
    pub fn errors(&self, want: &Pass) -> Vec<(String, f64)> {
        let mut errors = vec![
            ("logits".to_owned(), distance(&self.logits, &want.logits)),
            ("loss".to_owned(), distance(&[self.loss], &[want.loss])),
        ];
        for ((name, got), (other, want)) in self.grads.iter().zip(&want.grads) {
            assert_eq!(name, other);
            errors.push((format!("gradient of {name}"), distance(got, want)));
        }
        errors
    }
}

/// Relative L2 error; infinite if something is no number.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let difference = square(&mut got.iter().zip(want).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    let error = (difference / square(&mut want.iter().map(|&b| f64::from(b)))).sqrt();
    if error.is_nan() { f64::INFINITY } else { error }
}
