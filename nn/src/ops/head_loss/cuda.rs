//! The head on a GPU: products of chunks of rows, and one kernel that turns logits into losses and gradients.

use super::{HeadLoss, Teacher};
use crate::losses::Loss;
use crate::ops::{count, expect_dims, expect_dtype, packs};
use autograd::{GradSink, Op, Outputs};
use smallvec::smallvec;
use tensor::cuda::{Cuda, Grid, Mat};
use tensor::{DType, Error, Result, Tensor};

const OP: &str = HeadLoss::NAME;

/// Largest chunk of logits in memory, in bytes. Each chunk adds to the whole gradient of the head, in f32: on an H100 with
/// 65,536 rows, 32,064 tokens and a width of 768 chunks of 64, 256 and 512 MiB take 24, 16.3 and 15.8 ms for the products.
const CHUNK_BYTES: usize = 512 << 20;
/// Chunks are a multiple of this many rows, the height of the products' tiles.
const CHUNK_ROWS: usize = 128;

/// Number of logits up to which they are f32.
const FEW_LOGITS: usize = 1 << 16;

/// Terms that the kernels take, and the words of their parameter: four a term and the count.
const MAX_TERMS: usize = 7;
const TERM_WORDS: usize = 4 * MAX_TERMS + 1;

/// Threads of a block of the row kernels.
const THREADS: u32 = 512;

/// Kind, temperature and parameter of a loss, as `losses.cuh` has them.
fn describe(loss: &Loss) -> (u32, f64, f64) {
    match loss {
        Loss::CrossEntropy(l) => (0, 1.0, l.label_smoothing),
        Loss::Focal(l) => (1, 1.0, l.gamma),
        Loss::ForwardKl(l) => (2, l.temperature, 0.0),
        Loss::ReverseKl(l) => (3, l.temperature, 0.0),
        Loss::Jsd(l) => (4, l.temperature, l.beta),
        Loss::SkewForwardKl(l) => (5, l.temperature, l.alpha),
        Loss::SkewReverseKl(l) => (6, l.temperature, l.alpha),
        Loss::Tvd(l) => (7, l.temperature, 0.0),
        Loss::TopKForwardKl(l) => (8, l.temperature, 0.0),
        Loss::Uld(l) => (9, l.temperature, 0.0),
    }
}

/// What a loss compares the student with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Token,
    Logits,
    TopK,
}

fn needs(loss: &Loss) -> Needs {
    match loss {
        Loss::CrossEntropy(_) | Loss::Focal(_) => Needs::Token,
        Loss::TopKForwardKl(_) => Needs::TopK,
        _ => Needs::Logits,
    }
}

impl HeadLoss {
    /// See [`Op::forward`]; x and the table are contiguous and fit. Products are in the type of x, the head's gradient in
    /// f32; logits are in the type of [`HeadLoss::logits_dtype`].
    pub(super) fn forward_cuda(
        &self,
        gpu: Cuda,
        x: &Tensor,
        table: &Tensor,
        keep: bool,
    ) -> Result<(Outputs, Option<(Tensor, Tensor)>)> {
        let ([n, h], [rows, _], device) = (x.dims_n(OP)?, table.dims_n(OP)?, x.device());
        expect_dtype(OP, table, DType::F32)?;
        expect_dtype(OP, &self.targets, DType::I32)?;
        self.check_terms(rows)?;
        let terms = self.words();
        let logits_dtype = self.logits_dtype(x.dtype(), n * rows);
        let weights = table.to_dtype(x.dtype())?;
        let teacher = match &self.teacher {
            Some(teacher) => TeacherLogits::new(teacher, n, x.dtype(), logits_dtype)?,
            None => None,
        };
        let mut losses = Tensor::empty(&[self.terms.len(), n], DType::F32, &device)?;
        // As many chunks as it takes, of equal height.
        let most = (CHUNK_BYTES / (rows * logits_dtype.size())).max(1);
        let chunk = n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(CHUNK_ROWS);
        // No rows are one chunk of none, whose products write zeros.
        let sizes: Vec<[usize; 2]> =
            (0..n.max(1)).step_by(chunk).map(|first| [chunk.min(n - first), h]).collect();
        let mut dx = Vec::new();
        let mut de = None;
        if keep {
            let dims: Vec<&[usize]> = sizes.iter().map(|dims| &dims[..]).collect();
            dx = Tensor::empty(x.dims(), x.dtype(), &device)?.partition(&dims)?;
            de = Some(Tensor::empty(table.dims(), DType::F32, &device)?);
        }
        let mut first = 0;
        for (index, &[n, _]) in sizes.iter().enumerate() {
            let hidden = x.narrow(0, first, n)?;
            let mut logits = product(gpu, &hidden, &weights, logits_dtype)?;
            let teacher = teacher.as_ref().map(|t| t.chunk(gpu, first, n)).transpose()?;
            self.rows_cuda(gpu, &mut logits, teacher.as_ref(), &mut losses, first, &terms, keep)?;
            if let Some(de) = &mut de {
                let logits = logits.to_dtype(x.dtype())?;
                let beta = if index == 0 { 0.0 } else { 1.0 };
                gpu.matmul(1.0, Mat::rows(&logits)?.t(), Mat::rows(&hidden)?, beta, de)?;
                gpu.matmul(1.0, Mat::rows(&logits)?, Mat::rows(&weights)?, 0.0, &mut dx[index])?;
            }
            first += n;
        }
        let mut loss = Tensor::empty(&[], DType::F32, &device)?;
        let mut values = Tensor::empty(&[self.terms.len()], DType::F32, &device)?;
        let launch = gpu.entry("head_loss", "head_loss_sum").read(&losses)?;
        let launch = launch.write(&mut loss)?.write(&mut values)?.value(count(OP, n)?);
        let launch = launch.value(self.denominator as f32).value(terms);
        // SAFETY: these are the arguments of head_loss_sum; it reads n losses a term and writes a scalar and a value a term.
        unsafe { launch.run(Grid::blocks(1, 1024)) }?;
        let grads = match de {
            Some(de) => Some((Tensor::join(dx, x.dims())?, de)),
            None => None,
        };
        Ok((smallvec![loss, values], grads))
    }

    /// Type of the logits: that of x, but f32 where bf16 would decide. Losses whose slope is a sign have many signs turned by
    /// the error of a bf16 logit, and few logits do not average it out; they cost nothing either.
    fn logits_dtype(&self, dtype: DType, logits: usize) -> DType {
        let signs = self.terms.iter().any(|(_, loss)| matches!(loss, Loss::Tvd(_) | Loss::Uld(_)));
        if signs || logits <= FEW_LOGITS { DType::F32 } else { dtype }
    }

    /// Refuses what the kernels do not take.
    fn check_terms(&self, rows: usize) -> Result<()> {
        if self.terms.len() > MAX_TERMS {
            let message = format!("{} terms; a GPU takes up to {MAX_TERMS}", self.terms.len());
            return Err(Error::argument(OP, message));
        }
        for (_, loss) in &self.terms {
            match (needs(loss), &self.teacher) {
                (Needs::Token, _) | (Needs::TopK, Some(Teacher::TopK { .. })) => {}
                (Needs::Logits, Some(Teacher::Hidden { vocab, .. }))
                    if *vocab == self.vocab || matches!(loss, Loss::Uld(_)) => {}
                (Needs::Logits, Some(Teacher::Hidden { vocab, .. })) => {
                    let message = format!("teacher has {vocab} logits, student {}", self.vocab);
                    return Err(Error::shape(OP, message));
                }
                _ => return Err(Error::argument(OP, format!("{loss:?} lacks the teacher it compares with"))),
            }
        }
        if self.terms.iter().filter(|(_, loss)| matches!(loss, Loss::Uld(_))).count() > 1 {
            return Err(Error::argument(OP, "a GPU takes one ULD term"));
        }
        count(OP, rows).map(|_| ())
    }

    /// The kernels' `Terms`.
    fn words(&self) -> [u32; TERM_WORDS] {
        term_words(self.terms.iter().map(|(weight, loss)| {
            let (kind, temperature, parameter) = describe(loss);
            let [weight, temperature, parameter] =
                [*weight, temperature, parameter].map(|value| (value as f32).to_bits());
            [kind, weight, temperature, parameter]
        }))
    }

    /// Losses of a chunk of logits; turns the logits into their gradient if `keep` is set.
    #[allow(clippy::too_many_arguments, reason = "what the kernel takes")]
    fn rows_cuda(
        &self,
        gpu: Cuda,
        logits: &mut Tensor,
        teacher: Option<&Chunk>,
        losses: &mut Tensor,
        first: usize,
        terms: &[u32; TERM_WORDS],
        keep: bool,
    ) -> Result<()> {
        let ([n, stride], all) = (logits.dims_n(OP)?, self.targets.numel());
        let dtype = logits.dtype();
        // A block reads its row from shared memory if two of them fit a multiprocessor.
        let row = 16 * packs(stride, dtype);
        let cached = 2 * (row + 2048) <= gpu.shared_memory() as usize;
        // What the kernel reads must live until it is launched.
        let targets = self.targets.contiguous()?;
        let uld = self.terms.iter().find(|(_, loss)| matches!(loss, Loss::Uld(_))).zip(teacher);
        let uld = uld.map(|((_, loss), teacher)| self.uld(gpu, logits, teacher, first, loss)).transpose()?;
        let top = match &self.teacher {
            Some(Teacher::TopK { ids, log_probs }) => Some((ids.contiguous()?, log_probs.contiguous()?)),
            _ => None,
        };
        let (launch, top_k) = match teacher {
            Some(teacher) => {
                let launch = gpu.kernel("head_loss_teacher", "head_loss_teacher", dtype)?;
                let launch = launch.read(&targets)?.read(&teacher.logits)?;
                let launch = launch.read_optional(uld.as_ref().map(|u| &u.0))?;
                let launch = launch.read_optional(uld.as_ref().map(|u| &u.1))?;
                let launch = launch.write(logits)?.write(losses)?;
                let launch = launch.value(self.vocab as u32).value(stride as u32);
                let launch = launch.value(count(OP, first)?).value(count(OP, all)?);
                let launch = launch.value(teacher.logits.last_dim() as u32).value(self.softcap as f32);
                (launch.value(teacher.softcap as f32), 0)
            }
            None => {
                let k = top.as_ref().map_or(0, |(ids, _)| ids.last_dim());
                let launch = gpu.kernel("head_loss", "head_loss_tokens", dtype)?.read(&targets)?;
                let launch = launch.read_optional(top.as_ref().map(|t| &t.0))?;
                let launch = launch.read_optional(top.as_ref().map(|t| &t.1))?;
                let launch = launch.write(logits)?.write(losses)?;
                let launch = launch.value(self.vocab as u32).value(stride as u32);
                let launch = launch.value(count(OP, first)?).value(count(OP, all)?).value(k as u32);
                (launch.value(self.softcap as f32), k)
            }
        };
        // SAFETY: these are the arguments of the kernel; a block changes its row of the chunk and reads that of the
        // teacher, and the targets, top k and losses at its place among all rows.
        unsafe {
            let launch = launch.value(u32::from(keep)).value(u32::from(cached));
            let shared = if cached { row } else { 0 } + 4 * top_k;
            let launch = launch.value(self.denominator as f32).value(*terms);
            launch.run(Grid::blocks(n, THREADS).with_shared(shared))
        }
    }

    /// Sign of q - p at each of the student's tokens, i8 like the logits, and the loss of each row.
    fn uld(
        &self,
        gpu: Cuda,
        logits: &Tensor,
        teacher: &Chunk,
        first: usize,
        loss: &Loss,
    ) -> Result<(Tensor, Tensor)> {
        let ([n, stride], device) = (logits.dims_n(OP)?, logits.device());
        let targets = self.targets.contiguous()?.narrow(0, first, n)?;
        // Blocks walk over the rows, because each needs memory to sort them in.
        let blocks = n.min(2 * gpu.multiprocessors() as usize);
        let words = 4 * (self.vocab + teacher.vocab);
        let mut work = Tensor::empty(&[blocks, words], DType::U32, &device)?;
        let mut signs = Tensor::empty(&[n, stride], DType::I8, &device)?;
        let mut losses = Tensor::empty(&[n], DType::F32, &device)?;
        let launch = gpu.kernel("uld", "uld_rows", logits.dtype())?.read(logits)?.read(&teacher.logits)?;
        let launch = launch.read(&targets)?.write(&mut signs)?.write(&mut losses)?.write(&mut work)?;
        let launch = launch.value(count(OP, n)?).value(self.vocab as u32).value(stride as u32);
        let launch = launch.value(teacher.vocab as u32).value(teacher.logits.last_dim() as u32);
        let launch = launch.value(self.softcap as f32).value(teacher.softcap as f32);
        // SAFETY: these are the arguments of uld_rows; it reads n rows of logits of both sides and writes n rows of signs and
        // losses; each block has its part of the work memory.
        unsafe { launch.value(describe(loss).1 as f32).run(Grid::blocks(blocks, 1024)) }?;
        Ok((signs, losses))
    }
}

/// A teacher with a head of its own, whose logits come chunk by chunk.
struct TeacherLogits<'a> {
    hidden: &'a Tensor,
    table: Tensor,
    logits_dtype: DType,
    softcap: f64,
    vocab: usize,
}

/// Logits of one chunk, before the bound; the columns from `vocab` on do not count.
struct Chunk {
    logits: Tensor,
    softcap: f64,
    vocab: usize,
}

impl<'a> TeacherLogits<'a> {
    fn new(teacher: &'a Teacher, rows: usize, dtype: DType, logits_dtype: DType) -> Result<Option<Self>> {
        match teacher {
            Teacher::Hidden { hidden, table, softcap, vocab } => {
                expect_dims(OP, "the teacher's hidden states", hidden, &[rows, table.last_dim()])?;
                if *vocab > table.dims()[0] {
                    return Err(Error::shape(OP, format!("{vocab} tokens in a head {:?}", table.dims())));
                }
                let table = table.contiguous()?.to_dtype(dtype)?;
                let (softcap, vocab) = (*softcap, *vocab);
                Ok(Some(TeacherLogits { hidden, table, logits_dtype, softcap, vocab }))
            }
            Teacher::TopK { ids, log_probs } => {
                expect_dtype(OP, ids, DType::U32)?;
                expect_dtype(OP, log_probs, DType::F32)?;
                expect_dims(OP, "the teacher's top k", ids, &[rows, ids.last_dim()])?;
                expect_dims(OP, "the teacher's log-probabilities", log_probs, ids.dims())?;
                Ok(None)
            }
        }
    }

    fn chunk(&self, gpu: Cuda, first: usize, n: usize) -> Result<Chunk> {
        let hidden = self.hidden.narrow(0, first, n)?.contiguous()?.to_dtype(self.table.dtype())?;
        let logits = product(gpu, &hidden, &self.table, self.logits_dtype)?;
        Ok(Chunk { logits, softcap: self.softcap, vocab: self.vocab })
    }
}

/// `x·tableᵀ` `[N, V]`, computed in the type of x and given as `dtype`.
pub(super) fn product(gpu: Cuda, x: &Tensor, table: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut y = Tensor::empty(&[x.dims()[0], table.dims()[0]], dtype, &x.device())?;
    gpu.matmul(1.0, Mat::rows(x)?, Mat::rows(&table.to_dtype(x.dtype())?)?.t(), 0.0, &mut y)?;
    Ok(y)
}

/// Gives the gradients of x and the head, times that of the loss.
pub(super) fn backward(
    gpu: Cuda,
    grads: [Tensor; 2],
    dy: &Tensor,
    sinks: &mut [Option<GradSink<'_>>],
) -> Result<()> {
    for (sink, grad) in sinks.iter_mut().zip(grads) {
        if let Some(sink) = sink {
            sink.give(scaled(gpu, grad, dy)?)?;
        }
    }
    Ok(())
}

/// `grad` times the gradient of a loss, an f32 scalar that nobody waits for.
pub(crate) fn scaled(gpu: Cuda, mut grad: Tensor, dy: &Tensor) -> Result<Tensor> {
    expect_dtype(OP, dy, DType::F32)?;
    let n = grad.numel();
    let grid = Grid::strided(gpu, packs(n, grad.dtype()));
    let launch = gpu.kernel("head_loss", "head_loss_scale", grad.dtype())?.read(dy)?.write(&mut grad)?;
    // SAFETY: these are the arguments of head_loss_scale; it changes n elements in place.
    unsafe { launch.value(n as u64).run(grid) }?;
    Ok(grad)
}

/// The kernels' `Terms`: kind and the bits of weight, temperature and parameter of each, and their number.
pub(crate) fn term_words(terms: impl IntoIterator<Item = [u32; 4]>) -> [u32; TERM_WORDS] {
    let mut words = [0; TERM_WORDS];
    let mut count = 0;
    for (words, term) in words.chunks_exact_mut(4).zip(terms) {
        words.copy_from_slice(&term);
        count += 1;
    }
    words[TERM_WORDS - 1] = count;
    words
}
