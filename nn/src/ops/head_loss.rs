//! Output head, softmax and losses in one op, a chunk of rows at a time.

mod cuda;

pub(crate) use cuda::{scaled, term_words};

use super::SoftCap;
use super::linear::{rows_of, rows_of_mut};
use super::soft_cap::{slope, soft_cap};
use crate::losses::{Loss, RowLoss, RowTarget, Scratch};
use autograd::{GradSink, Grads, Op, Outputs, SimpleOp};
use rayon::prelude::*;
use smallvec::smallvec;
use tensor::cpu::gemm::{MatMut, MatRef, gemm};
use tensor::cpu::lanes;
use tensor::cpu::simd::dispatch;
use tensor::{DType, Device, Element, Error, Float, Result, Tensor, with_float};

/// Target of a position that does not count.
pub const IGNORE: i32 = -100;

/// Largest chunk of logits in memory, in bytes.
const CHUNK_BYTES: usize = 16 << 20;

/// What a teacher says of every position.
#[derive(Clone, Debug)]
pub enum Teacher {
    /// Its final hidden states, from which its logits are computed chunk by chunk.
    Hidden {
        /// `[N, Ht]`, after the final norm.
        hidden: Tensor,
        /// Its output head `[Vt, Ht]`.
        table: Tensor,
        /// Bound of its logits; 0 for none.
        softcap: f64,
        /// Rows of the head that are tokens; equal to the student's for every loss but ULD.
        vocab: usize,
    },
    /// Its stored likeliest tokens.
    TopK {
        /// u32 `[N, k]`.
        ids: Tensor,
        /// Log-probabilities at the loss's temperature `[N, k]`.
        log_probs: Tensor,
    },
}

/// `Σᵢ wᵢ·lossᵢ(cap·tanh(x·Eᵀ/cap))`, summed over the rows whose target counts and divided by `denominator`.
///
/// Inputs: hidden states x `[N, H]` after the final norm, output head E `[V, H]` (the embedding, when tied). Outputs:
/// the loss, a scalar, and the unweighted terms `[terms]`, through which no gradient flows; in f32 on a GPU. Logits are
/// never whole in memory.
///
/// On the CPU rows that do not count are never computed, and a target or teacher's token beyond the vocabulary is an error;
/// on a GPU, which cannot refuse it without being waited for, it gives a loss of NaN.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// Losses and their weights.
    pub terms: Vec<(f64, Loss)>,
    /// Next tokens, i32 `[N]`; [`IGNORE`] where a row does not count.
    pub targets: Tensor,
    /// What the sum is divided by: the counted tokens of the whole optimizer step.
    pub denominator: f64,
    /// Bound of the logits; 0 for none.
    pub softcap: f64,
    /// Rows of E that are tokens; the rest takes no part.
    pub vocab: usize,
    /// For the terms that compare with a teacher.
    pub teacher: Option<Teacher>,
}

impl Op for HeadLoss {
    const NAME: &'static str = "head_loss";
    /// Gradients with respect to x and E, computed in the same pass as the loss.
    type Saved = (Tensor, Tensor);

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)> {
        let (x, table) = (inputs[0].contiguous()?, inputs[1].contiguous()?);
        let ([n, h], [rows, width]) = (x.dims_n(Self::NAME)?, table.dims_n(Self::NAME)?);
        if h != width || self.vocab > rows || self.vocab == 0 {
            let message = format!("x {:?} with a head {:?} of {} tokens", x.dims(), table.dims(), self.vocab);
            return Err(Error::shape(Self::NAME, message));
        }
        super::expect_dims(Self::NAME, "targets", &self.targets, &[n])?;
        if let Device::Cuda(gpu) = x.device() {
            return self.forward_cuda(gpu, &x, &table, keep);
        }
        let targets = self.targets.as_slice::<i32>()?;
        let mut counted = Vec::with_capacity(n);
        for (row, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != IGNORE) {
            if target < 0 || target as usize >= self.vocab {
                let message = format!("target {target} of row {row} in a vocabulary of {}", self.vocab);
                return Err(Error::argument(Self::NAME, message));
            }
            counted.push(row);
        }
        with_float!(Self::NAME, x.dtype(), T => {
            let mut grads = match keep {
                true => Some((
                    Tensor::zeros(x.dims(), T::DTYPE, &x.device())?,
                    Tensor::empty(table.dims(), T::DTYPE, &x.device())?,
                )),
                false => None,
            };
            let sums = self.run::<T>(&x, &table, targets, &counted, grads.as_mut())?;
            let total: f64 = self.terms.iter().zip(&sums).map(|((weight, _), sum)| weight * sum).sum();
            let terms: Vec<T> = sums.iter().map(|&sum| T::from_f64(sum)).collect();
            let loss = Tensor::scalar(T::from_f64(total), &x.device())?;
            Ok((smallvec![loss, Tensor::from_slice(&terms, &[terms.len()], &x.device())?], grads))
        })
    }

    fn backward(
        &self,
        (dx, de): Self::Saved,
        mut dy: Grads,
        sinks: &mut [Option<GradSink<'_>>],
    ) -> Result<()> {
        let Some(dy) = dy[0].take() else { return Ok(()) };
        if let Device::Cuda(gpu) = dy.device() {
            return cuda::backward(gpu, [dx, de], &dy, sinks);
        }
        let scale = with_float!(Self::NAME, dy.dtype(), T => Ok(dy.item::<T>()?.to_f64()))?;
        for (sink, grad) in sinks.iter_mut().zip([dx, de]) {
            if let Some(sink) = sink {
                sink.give(if scale == 1.0 { grad } else { grad.mul_scalar(scale)? })?;
            }
        }
        Ok(())
    }
}

impl HeadLoss {
    /// The sum of each term over the counted rows, divided by the denominator.
    fn run<T: Float>(
        &self,
        x: &Tensor,
        table: &Tensor,
        targets: &[i32],
        counted: &[usize],
        mut grads: Option<&mut (Tensor, Tensor)>,
    ) -> Result<Vec<f64>> {
        let (h, vocab, device) = (x.last_dim(), self.vocab, x.device());
        let x = x.as_slice::<T>()?;
        let table = MatRef::row_major(table.as_slice::<T>()?, vocab, h);
        let chunk = (CHUNK_BYTES / (vocab * size_of::<T>())).clamp(1, counted.len().max(1));
        let mut logits = Tensor::empty(&[chunk, vocab], T::DTYPE, &device)?;
        let mut hidden = Tensor::empty(&[chunk, h], T::DTYPE, &device)?;
        let mut teacher = self.teacher.as_ref().map(|t| TeacherChunk::<T>::new(t, chunk)).transpose()?;
        let mut sums = vec![0.0; self.terms.len()];
        for (index, rows) in counted.chunks(chunk).enumerate() {
            let n = rows.len();
            let logits = &mut logits.as_mut_slice::<T>()?[..n * vocab];
            let hidden = &mut hidden.as_mut_slice::<T>()?[..n * h];
            gather(x, h, rows, hidden);
            T::gemm(
                T::ONE,
                MatRef::row_major(hidden, n, h),
                table.t(),
                T::ZERO,
                MatMut::row_major(logits, n, vocab),
            );
            if let Some(teacher) = &mut teacher {
                teacher.load(rows)?;
            }
            let losses: Vec<Vec<T>> = logits
                .par_chunks_mut(ROWS_PER_TASK * vocab)
                .enumerate()
                .map(|(task, logits)| {
                    let first = task * ROWS_PER_TASK;
                    dispatch(
                        #[inline(always)]
                        || self.rows(logits, &rows[first..], targets, first, teacher.as_ref()),
                    )
                })
                .collect::<Result<_>>()?;
            for row in losses.iter().flat_map(|rows| rows.chunks_exact(self.terms.len().max(1))) {
                for (sum, loss) in sums.iter_mut().zip(row) {
                    *sum += loss.to_f64() / self.denominator;
                }
            }
            if let Some((dx, de)) = grads.as_deref_mut() {
                let dz = MatRef::row_major(&*logits, n, vocab);
                let beta = if index == 0 { T::ZERO } else { T::ONE };
                let (used, rest) = de.as_mut_slice::<T>()?.split_at_mut(vocab * h);
                T::gemm(
                    T::ONE,
                    dz.t(),
                    MatRef::row_major(&*hidden, n, h),
                    beta,
                    MatMut::row_major(used, vocab, h),
                );
                rest.fill(T::ZERO);
                T::gemm(T::ONE, dz, table, T::ZERO, MatMut::row_major(hidden, n, h));
                let dx = dx.as_mut_slice::<T>()?;
                for (&row, dh) in rows.iter().zip(hidden.chunks_exact(h.max(1))) {
                    dx[row * h..][..h].copy_from_slice(dh);
                }
            }
        }
        if let (true, Some((_, de))) = (counted.is_empty(), grads) {
            de.as_mut_slice::<T>()?.fill(T::ZERO);
        }
        Ok(sums)
    }

    /// Losses of some rows, `[rows, terms]`; turns their logits into the gradient with respect to x·Eᵀ.
    #[inline(always)]
    fn rows<T: Float>(
        &self,
        logits: &mut [T],
        rows: &[usize],
        targets: &[i32],
        first: usize,
        teacher: Option<&TeacherChunk<T>>,
    ) -> Result<Vec<T>> {
        let cap = T::from_f64(self.softcap);
        let mut scratch = Scratch::default();
        let mut dz = vec![T::ZERO; self.vocab];
        let mut losses = Vec::with_capacity(logits.len() / self.vocab * self.terms.len());
        for (i, (z, &row)) in logits.chunks_exact_mut(self.vocab).zip(rows).enumerate() {
            if cap > T::ZERO {
                for z in z.iter_mut() {
                    *z = soft_cap(*z, cap);
                }
            }
            dz.fill(T::ZERO);
            for (weight, loss) in &self.terms {
                let target = match (loss, teacher) {
                    (Loss::CrossEntropy(_) | Loss::Focal(_), _) => RowTarget::Token(targets[row] as usize),
                    (_, Some(teacher)) => teacher.row(first + i)?,
                    (_, None) => return Err(Error::argument("head_loss", "this loss needs a teacher")),
                };
                let weight = T::from_f64(weight / self.denominator);
                losses.push(loss.row(z, target, weight, &mut dz, &mut scratch)?);
            }
            if cap > T::ZERO {
                for (z, &dz) in z.iter_mut().zip(&dz) {
                    *z = dz * slope(*z, cap);
                }
            } else {
                z.copy_from_slice(&dz);
            }
        }
        Ok(losses)
    }
}

/// Rows of logits that one task takes.
const ROWS_PER_TASK: usize = 8;

fn gather<T: Copy>(x: &[T], width: usize, rows: &[usize], out: &mut [T]) {
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width.max(1))) {
        out.copy_from_slice(&x[row * width..][..width]);
    }
}

/// What the teacher says of the rows of one chunk.
struct TeacherChunk<'a, T> {
    teacher: &'a Teacher,
    hidden: Tensor,
    logits: Tensor,
    top: Vec<(Vec<u32>, Vec<T>)>,
}

impl<'a, T: Float> TeacherChunk<'a, T> {
    fn new(teacher: &'a Teacher, chunk: usize) -> Result<Self> {
        let (width, vocab) = match teacher {
            Teacher::Hidden { hidden, vocab, .. } => (hidden.last_dim(), *vocab),
            Teacher::TopK { .. } => (0, 0),
        };
        let device = tensor::Device::Cpu;
        Ok(TeacherChunk {
            teacher,
            hidden: Tensor::empty(&[chunk, width], T::DTYPE, &device)?,
            logits: Tensor::empty(&[chunk, vocab], T::DTYPE, &device)?,
            top: Vec::new(),
        })
    }

    fn load(&mut self, rows: &[usize]) -> Result<()> {
        match self.teacher {
            Teacher::Hidden { hidden, table, softcap, vocab } => {
                let width = hidden.last_dim();
                let n = rows.len();
                let x = &mut self.hidden.as_mut_slice::<T>()?[..n * width];
                gather(hidden.as_slice::<T>()?, width, rows, x);
                let logits = &mut self.logits.as_mut_slice::<T>()?[..n * vocab];
                let table = MatRef::row_major(table.as_slice::<T>()?, *vocab, width);
                T::gemm(
                    T::ONE,
                    MatRef::row_major(&*x, n, width),
                    table.t(),
                    T::ZERO,
                    MatMut::row_major(logits, n, *vocab),
                );
                let cap = T::from_f64(*softcap);
                if cap > T::ZERO {
                    logits.par_chunks_mut(ROWS_PER_TASK * vocab).for_each(|logits| {
                        dispatch(
                            #[inline(always)]
                            || {
                                for z in logits.iter_mut() {
                                    *z = soft_cap(*z, cap);
                                }
                            },
                        )
                    });
                }
            }
            Teacher::TopK { ids, log_probs } => {
                let k = ids.last_dim();
                let (ids, log_probs) = (ids.as_slice::<u32>()?, log_probs.as_slice::<T>()?);
                let part = |&row: &usize| (ids[row * k..][..k].to_vec(), log_probs[row * k..][..k].to_vec());
                self.top = rows.iter().map(part).collect();
            }
        }
        Ok(())
    }

    fn row(&self, i: usize) -> Result<RowTarget<'_, T>> {
        Ok(match self.teacher {
            Teacher::Hidden { vocab, .. } => {
                RowTarget::Logits(&self.logits.as_slice::<T>()?[i * vocab..][..*vocab])
            }
            Teacher::TopK { .. } => RowTarget::TopK { ids: &self.top[i].0, log_probs: &self.top[i].1 },
        })
    }
}

/// Logits of one row that a task computes.
const LOGITS_AT_ONCE: usize = 1024;

/// Logits `cap·tanh(x·Eᵀ/cap)` of every row, `[N, vocab]`, for sampling and inspection; f32 on a GPU.
pub fn head_logits(x: &Tensor, table: &Tensor, softcap: f64, vocab: usize) -> Result<Tensor> {
    let x = x.contiguous()?;
    let table = table.narrow(0, 0, vocab)?;
    let [n, _] = x.dims_n("head_logits")?;
    super::linear::weight_dims("head_logits", &x, &table)?;
    if let Device::Cuda(gpu) = x.device() {
        let logits = cuda::product(gpu, &x, &table, DType::F32)?;
        return if softcap > 0.0 {
            SimpleOp::forward(&SoftCap { cap: softcap }, &[&logits])
        } else {
            Ok(logits)
        };
    }
    let mut logits = Tensor::empty(&[n, vocab], x.dtype(), &x.device())?;
    with_float!("head_logits", x.dtype(), T => {
        if n == 1 {
            // A single row reads the table once; the general product would pack it first.
            let (x, table) = (x.as_slice::<T>()?, table.as_slice::<T>()?);
            let parts = logits.as_mut_slice::<T>()?.par_chunks_mut(LOGITS_AT_ONCE);
            parts.zip(table.par_chunks(LOGITS_AT_ONCE * x.len())).for_each(|(z, table)| dispatch(#[inline(always)] || {
                for (z, row) in z.iter_mut().zip(table.chunks_exact(x.len())) {
                    *z = lanes::dot(x, row);
                }
            }));
        } else {
            let y = rows_of_mut::<T>(&mut logits)?;
            gemm::<T>(T::ONE, rows_of::<T>(&x)?, rows_of::<T>(&table)?.t(), T::ZERO, y);
        }
        if softcap > 0.0 {
            let cap = T::from_f64(softcap);
            logits.as_mut_slice::<T>()?.par_chunks_mut(LOGITS_AT_ONCE).for_each(|z| dispatch(#[inline(always)] || {
                for z in z.iter_mut() {
                    *z = soft_cap(*z, cap);
                }
            }));
        }
        Ok(())
    })?;
    Ok(logits)
}
