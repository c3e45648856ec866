//! Attention-relation distillation (MiniLM v2, Wang et al. 2020).

mod cuda;

use autograd::{GradSink, Grads, Op, Outputs};
use rayon::prelude::*;
use smallvec::{SmallVec, smallvec};
use tensor::cpu::lanes;
use tensor::cpu::simd::dispatch;
use tensor::{Device, Element, Error, Float, Result, Tensor, with_float};

/// `Σ_a w_a · mean KL(softmax(R_teacher) ‖ softmax(R_student))` over Q, K and V, with relations
/// `R = A·Aᵀ/√d_r`. The heads of A are laid side by side and cut into `relation_heads` slices of width d_r, so the
/// two models may differ in heads and widths. The mean is over batch, relation heads and query positions.
///
/// Inputs: the student's q, k, v, then the teacher's, each `[B, T, heads, d]`; only the student's get a gradient.
/// Output: a scalar, of their type or on a GPU f32.
#[derive(Clone, Copy, Debug)]
pub struct RelationKl {
    /// Number of slices; divides `heads · d` of both models.
    pub relation_heads: usize,
    /// Whether position i relates to positions up to i only.
    pub causal: bool,
    /// Weights of Q, K and V.
    pub weights: [f64; 3],
}

impl Op for RelationKl {
    const NAME: &'static str = "relation_kl";
    /// Gradients with respect to the student's inputs, computed in the one pass.
    type Saved = SmallVec<[Tensor; 3]>;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)> {
        if let Device::Cuda(gpu) = inputs[0].device() {
            return self.forward_cuda(gpu, inputs, keep);
        }
        let (students, teachers) = inputs.split_at(3);
        let mut total = 0.0;
        let mut grads = SmallVec::new();
        for ((student, teacher), weight) in students.iter().zip(teachers).zip(self.weights) {
            let (student, teacher) = (student.contiguous()?, teacher.contiguous()?);
            let (s, t) = (self.shape(&student)?, self.shape(&teacher)?);
            if s[..2] != t[..2] {
                let message = format!("student dims {:?}, teacher dims {:?}", student.dims(), teacher.dims());
                return Err(Error::shape(Self::NAME, message));
            }
            let mut grad = Tensor::zeros(student.dims(), student.dtype(), &student.device())?;
            total += with_float!(Self::NAME, student.dtype(), T => {
                self.pair::<T>(student.as_slice()?, teacher.as_slice()?, s, t[2], weight, grad.as_mut_slice()?)
            })?;
            if keep {
                grads.push(grad);
            }
        }
        let y = Tensor::full(total, &[], inputs[0].dtype(), &inputs[0].device())?;
        Ok((smallvec![y], keep.then_some(grads)))
    }

    fn backward(&self, saved: Self::Saved, mut dy: Grads, dx: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        if let Device::Cuda(gpu) = dy.device() {
            return cuda::backward(gpu, saved, &dy, dx);
        }
        let scale = with_float!(Self::NAME, dy.dtype(), T => Ok(dy.item::<T>()?.to_f64()))?;
        for (sink, grad) in dx.iter_mut().zip(saved) {
            if let Some(sink) = sink {
                sink.give(grad.mul_scalar(scale)?)?;
            }
        }
        Ok(())
    }
}

impl RelationKl {
    /// `[B, T, width of a slice]`.
    fn shape(&self, a: &Tensor) -> Result<[usize; 3]> {
        let [b, t, heads, d] = a.dims_n(Self::NAME)?;
        let width = heads * d;
        if self.relation_heads == 0 || !width.is_multiple_of(self.relation_heads) {
            let message =
                format!("{} relation heads do not divide {heads} heads of {d}", self.relation_heads);
            return Err(Error::shape(Self::NAME, message));
        }
        Ok([b, t, width / self.relation_heads])
    }

    fn pair<T: Float>(
        &self,
        student: &[T],
        teacher: &[T],
        [b, t, ds]: [usize; 3],
        dt: usize,
        weight: f64,
        grad: &mut [T],
    ) -> Result<f64> {
        let n = self.relation_heads;
        let scale = T::from_f64(weight / (b * n * t).max(1) as f64);
        // A batch row's slices interleave in memory, so one task takes the whole row.
        let losses: Vec<f64> = grad
            .par_chunks_mut((t * n * ds).max(1))
            .zip(student.par_chunks((t * n * ds).max(1)))
            .zip(teacher.par_chunks((t * n * dt).max(1)))
            .map(|((grad, student), teacher)| {
                dispatch(
                    #[inline(always)]
                    || {
                        let mut total = 0.0;
                        for slice in 0..n {
                            total += self.slice(student, teacher, slice, [t, ds, dt], scale, grad);
                        }
                        total
                    },
                )
            })
            .collect();
        Ok(losses.iter().sum::<f64>() * scale.to_f64())
    }

    /// One relation head of one sequence: the sum of KL over query positions.
    #[inline(always)]
    fn slice<T: Float>(
        &self,
        student: &[T],
        teacher: &[T],
        slice: usize,
        [t, ds, dt]: [usize; 3],
        scale: T,
        grad: &mut [T],
    ) -> f64 {
        let n = self.relation_heads;
        let at = |width: usize, position: usize| (position * n + slice) * width;
        let root = T::from_f64(1.0 / (ds as f64).sqrt());
        let (mut rs, mut rt, mut exact) =
            (Vec::with_capacity(t), Vec::with_capacity(t), Vec::with_capacity(t));
        let mut total = 0.0;
        for i in 0..t {
            let keys = if self.causal { i + 1 } else { t };
            relation_row(&student[slice * ds..], i, keys, n * ds, ds, &mut exact, &mut rs);
            relation_row(&teacher[slice * dt..], i, keys, n * dt, dt, &mut exact, &mut rt);
            total += lanes::sum_map2(
                &rt,
                &rs,
                #[inline(always)]
                |t: T, s: T| t.exp() * (t - s),
            )
            .to_f64();
            for j in 0..keys {
                let d = scale * root * (rs[j].exp() - rt[j].exp());
                for c in 0..ds {
                    let (ai, aj) = (student[at(ds, i) + c], student[at(ds, j) + c]);
                    grad[at(ds, i) + c] += d * aj;
                    grad[at(ds, j) + c] += d * ai;
                }
            }
        }
        total
    }
}

/// `log softmax` over keys of the relations of position `i`. The products are summed in f64 and only their distance
/// from the largest is rounded: relations grow with the width, and an error in them is a relative one of e^R.
#[inline(always)]
fn relation_row<T: Float>(
    a: &[T],
    i: usize,
    keys: usize,
    stride: usize,
    width: usize,
    exact: &mut Vec<f64>,
    out: &mut Vec<T>,
) {
    let query = &a[i * stride..][..width];
    let root = 1.0 / (width as f64).sqrt();
    let product = |j: usize| {
        let key = &a[j * stride..][..width];
        lanes::sum_map2(
            query,
            key,
            #[inline(always)]
            |q, k| q.to_f64() * k.to_f64(),
        ) * root
    };
    exact.clear();
    exact.extend((0..keys).map(product));
    let top = lanes::max(exact);
    out.clear();
    out.extend(exact.iter().map(|&r| T::from_f64(r - top)));
    let log_sum = lanes::sum_map(
        out,
        #[inline(always)]
        |r| r.exp(),
    )
    .ln();
    for r in out.iter_mut() {
        *r -= log_sum;
    }
}
