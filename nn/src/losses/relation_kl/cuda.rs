//! The same on a GPU: relations of one batch row at a time, as products of all slices together.

use super::RelationKl;
use crate::ops::{count, expect_dtype, scaled, term_words};
use autograd::{GradSink, Op, Outputs};
use smallvec::{SmallVec, smallvec};
use tensor::cuda::{Cuda, Grid, Mat};
use tensor::{DType, Error, Result, Tensor};

const OP: &str = RelationKl::NAME;
const THREADS: u32 = 256;

impl RelationKl {
    pub(super) fn forward_cuda(
        &self,
        gpu: Cuda,
        inputs: &[&Tensor],
        keep: bool,
    ) -> Result<(Outputs, Option<SmallVec<[Tensor; 3]>>)> {
        let (students, teachers) = inputs.split_at(3);
        let ([b, t, _], device) = (self.shape(students[0])?, students[0].device());
        let rows = b * self.relation_heads * t;
        let mut losses = Tensor::empty(&[3, rows], DType::F32, &device)?;
        let mut grads = SmallVec::new();
        for (which, (student, teacher)) in students.iter().zip(teachers).enumerate() {
            expect_dtype(OP, teacher, student.dtype())?;
            let (s, other) = (self.shape(student)?, self.shape(teacher)?);
            if s[..2] != [b, t] || other[..2] != [b, t] {
                let message = format!("student dims {:?}, teacher dims {:?}", student.dims(), teacher.dims());
                return Err(Error::shape(OP, message));
            }
            let (student, teacher) = (student.contiguous()?, teacher.contiguous()?);
            let dims = vec![&student.dims()[1..]; b];
            let mut parts = Tensor::empty(student.dims(), student.dtype(), &device)?.partition(&dims)?;
            for (i, part) in parts.iter_mut().enumerate() {
                let first = (which * b + i) * self.relation_heads * t;
                let pair = [self.slices(&student, i, s[2])?, self.slices(&teacher, i, other[2])?];
                self.batch_row(
                    gpu,
                    pair,
                    self.weights[which] / rows.max(1) as f64,
                    &mut losses,
                    first,
                    part,
                )?;
            }
            if keep {
                grads.push(if b == 0 { student.copy()? } else { Tensor::join(parts, student.dims())? });
            }
        }
        let mut loss = Tensor::empty(&[], DType::F32, &device)?;
        let mut values = Tensor::empty(&[3], DType::F32, &device)?;
        let launch =
            gpu.entry("head_loss", "head_loss_sum").read(&losses)?.write(&mut loss)?.write(&mut values)?;
        let launch = launch.value(count(OP, rows)?).value(rows.max(1) as f32);
        let launch =
            launch.value(term_words(self.weights.map(|weight| [0, (weight as f32).to_bits(), 0, 0])));
        // SAFETY: these are the arguments of head_loss_sum with three terms; it reads 3·rows losses and writes a scalar and
        // three values.
        unsafe { launch.run(Grid::blocks(1, 1024)) }?;
        Ok((smallvec![loss], keep.then_some(grads)))
    }

    /// Slices `[relation heads, T, width]` of batch row `i`, a view.
    fn slices(&self, a: &Tensor, i: usize, width: usize) -> Result<Tensor> {
        let t = a.dims()[1];
        a.select(0, i)?.reshape(&[t, self.relation_heads, width])?.transpose(0, 1)
    }

    /// Losses of a batch row's relations, from `first` on, and the gradient of its part of the student.
    fn batch_row(
        &self,
        gpu: Cuda,
        pair: [Tensor; 2],
        scale: f64,
        losses: &mut Tensor,
        first: usize,
        grad: &mut Tensor,
    ) -> Result<()> {
        let [n, t, width] = pair[0].dims_n(OP)?;
        let (device, dtype) = (pair[0].device(), pair[0].dtype());
        let relations = |a: &Tensor| {
            let root = 1.0 / (a.last_dim() as f64).sqrt();
            if dtype == DType::F32 {
                return exact_relations(gpu, a, root);
            }
            let mut r = Tensor::empty(&[n, t, t], DType::F32, &device)?;
            gpu.matmul(root as f32, Mat::view(a)?, Mat::view(a)?.t(), 0.0, &mut r)?;
            Ok(r)
        };
        let (student, teacher) = (relations(&pair[0])?, relations(&pair[1])?);
        let mut slope = Tensor::empty(&[n, t, t], dtype, &device)?;
        let launch = gpu.kernel("relation_kl", "relation_kl_rows", dtype)?.read(&student)?.read(&teacher)?;
        let launch = launch.write(&mut slope)?.write(losses)?.value(first as u64).value(count(OP, t)?);
        let launch = launch.value(u32::from(self.causal)).value((scale / (width as f64).sqrt()) as f32);
        // SAFETY: these are the arguments of relation_kl_rows; a block reads a row of both relations and writes one of the slope
        // and a loss from `first` on.
        unsafe { launch.run(Grid::blocks(n * t, THREADS)) }?;
        drop((student, teacher));
        // R is symmetric in A, so that both D and its transpose reach it.
        let mut sum = Tensor::empty(&[n, t, width], DType::F32, &device)?;
        gpu.matmul(1.0, Mat::view(&slope)?, Mat::view(&pair[0])?, 0.0, &mut sum)?;
        gpu.matmul(1.0, Mat::view(&slope)?.t(), Mat::view(&pair[0])?, 1.0, &mut sum)?;
        let back = sum.transpose(0, 1)?.contiguous()?.reshape(grad.dims())?;
        grad.copy_from(&back.to_dtype(dtype)?)
    }
}

/// Relations of slices `[relation heads, T, width]` as f64, which is no type of a GPU's tensors: two words each.
fn exact_relations(gpu: Cuda, a: &Tensor, root: f64) -> Result<Tensor> {
    let [n, t, width] = a.dims_n(OP)?;
    let mut r = Tensor::empty(&[n, t, t, 2], DType::U32, &a.device())?;
    let launch = gpu.entry("relation_kl", "relation_kl_products").strided(a)?.write(&mut r)?;
    let launch = launch.value(count(OP, n)?).value(count(OP, t)?).value(width as u32);
    let launch = launch.value(count(OP, a.strides()[1])?).value(root);
    // SAFETY: these are the arguments of relation_kl_products; the slices lie `width` apart and their rows a stride, as
    // `slices` has them, and the kernel writes n·t·t numbers of eight bytes.
    unsafe { launch.run(Grid::strided(gpu, n * t * t)) }?;
    Ok(r)
}

/// Gives the student's gradients, times that of the loss.
pub(super) fn backward(
    gpu: Cuda,
    grads: SmallVec<[Tensor; 3]>,
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
