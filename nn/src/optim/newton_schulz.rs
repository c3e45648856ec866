//! Approximate orthogonalisation.

use super::cuda;
use tensor::cpu::gemm::{GemmScalar, MatMut, MatRef};
use tensor::{DType, Device, Error, Result, Tensor};

/// Coefficients of the quintic, tuned for a steep slope at 0 (Jordan et al. 2024).
pub(super) const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
pub(super) const STEPS: usize = 5;
const EPS: f64 = 1e-7;

/// Brings all singular values of `u [rows, cols]` near 1: from `X = u/(‖u‖ + 1e-7)`, five times `A = X·Xᵀ`,
/// `B = b·A + c·A²`, `X = a·X + B·X`; transposed when there are more rows than columns. Singular values end in about
/// [0.7, 1.2], not at 1. f32.
pub fn newton_schulz(u: &Tensor) -> Result<Tensor> {
    let [rows, cols] = u.dims_n("newton_schulz")?;
    if u.dtype() != DType::F32 {
        return Err(Error::dtype("newton_schulz", "f32", u.dtype()));
    }
    if let Device::Cuda(gpu) = u.device() {
        return cuda::newton_schulz(gpu, u);
    }
    let tall = rows > cols;
    let mut x = if tall { u.transpose(0, 1)?.copy()? } else { u.copy()? };
    let [n, k] = x.dims_n("newton_schulz")?;
    let norm: f64 = x.as_slice::<f32>()?.iter().map(|&x| f64::from(x).powi(2)).sum();
    x.scale_assign(1.0 / (norm.sqrt() + EPS))?;
    let device = x.device();
    let mut next = Tensor::empty(&[n, k], DType::F32, &device)?;
    let mut gram = Tensor::empty(&[n, n], DType::F32, &device)?;
    let mut poly = Tensor::empty(&[n, n], DType::F32, &device)?;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..STEPS {
        let view = MatRef::row_major(x.as_slice::<f32>()?, n, k);
        f32::gemm(1.0, view, view.t(), 0.0, MatMut::row_major(gram.as_mut_slice()?, n, n));
        poly.copy_from(&gram)?;
        let view = MatRef::row_major(gram.as_slice::<f32>()?, n, n);
        f32::gemm(c, view, view, b, MatMut::row_major(poly.as_mut_slice()?, n, n));
        next.copy_from(&x)?;
        let (left, right) = (poly.as_slice::<f32>()?, x.as_slice::<f32>()?);
        let (left, right) = (MatRef::row_major(left, n, n), MatRef::row_major(right, n, k));
        f32::gemm(1.0, left, right, a, MatMut::row_major(next.as_mut_slice()?, n, k));
        std::mem::swap(&mut x, &mut next);
    }
    if tall { x.transpose(0, 1)?.contiguous() } else { Ok(x) }
}
