//! Approximate orthogonalisation.

use super::cuda;
use tensor::cpu::gemm::{MatMut, MatRef, sgemm, sgemm_symmetric};
use tensor::{DType, Device, Error, Result, Tensor};

/// Coefficients of the quintic, tuned for a steep slope at 0 (Jordan et al. 2024).
pub(super) const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const EPS: f64 = 1e-7;

/// Brings all singular values of `u [rows, cols]` near 1: from `X = u/(‖u‖ + 1e-7)`, five times `A = X·Xᵀ`,
/// `X = P·X` with `P = a·I + b·A + c·A²`; transposed when there are more rows than columns. Singular values end in about
/// [0.7, 1.2], not at 1. f32.
///
/// Every product of the square matrices is symmetric, since all are polynomials in the first A. For a wide X several steps
/// are made on them alone (`A = P·A·P`, `Q = P·Q`) before `X = Q·X`. After three X is computed all the same: an A that came
/// far without X has lost the small singular values, which are the square roots of its own.
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
    let groups: &[usize] = if k >= 2 * n { &[3, 2] } else { &[1; 5] };
    let mut next = Tensor::empty(&[n, k], DType::F32, &x.device())?;
    let square = || Tensor::empty(&[n, n], DType::F32, &x.device());
    let (mut gram, mut poly, mut all, mut spare) = (square()?, square()?, square()?, square()?);
    for &steps in groups {
        let view = MatRef::row_major(x.as_slice::<f32>()?, n, k);
        sgemm_symmetric(1.0, view, view.t(), 0.0, MatMut::row_major(gram.as_mut_slice()?, n, n));
        for step in 0..steps {
            polynomial(&gram, &mut poly, n)?;
            if step + 1 < steps {
                product(&poly, &gram, &mut spare, n)?;
                product(&spare, &poly, &mut gram, n)?;
            }
            if step == 0 {
                std::mem::swap(&mut all, &mut poly);
            } else {
                product(&poly, &all, &mut spare, n)?;
                std::mem::swap(&mut all, &mut spare);
            }
        }
        let (all, view) =
            (MatRef::row_major(all.as_slice::<f32>()?, n, n), MatRef::row_major(x.as_slice::<f32>()?, n, k));
        sgemm(1.0, all, view, 0.0, MatMut::row_major(next.as_mut_slice()?, n, k));
        std::mem::swap(&mut x, &mut next);
    }
    if tall { x.transpose(0, 1)?.contiguous() } else { Ok(x) }
}

/// `p = a·I + b·A + c·A²`, all `[n, n]`.
fn polynomial(gram: &Tensor, p: &mut Tensor, n: usize) -> Result<()> {
    let [a, b, c] = COEFFICIENTS;
    p.copy_from(gram)?;
    let view = MatRef::row_major(gram.as_slice::<f32>()?, n, n);
    let p = p.as_mut_slice::<f32>()?;
    sgemm_symmetric(c, view, view, b, MatMut::row_major(p, n, n));
    for i in 0..n {
        p[i * n + i] += a;
    }
    Ok(())
}

/// `c = a·b`, all `[n, n]`, for a and b that commute.
fn product(a: &Tensor, b: &Tensor, c: &mut Tensor, n: usize) -> Result<()> {
    let (a, b) =
        (MatRef::row_major(a.as_slice::<f32>()?, n, n), MatRef::row_major(b.as_slice::<f32>()?, n, n));
    sgemm_symmetric(1.0, a, b, 0.0, MatMut::row_major(c.as_mut_slice()?, n, n));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{Device, Stream};

    /// The five steps as the formula says, in f64.
    fn reference(u: &[f32], n: usize, k: usize) -> Vec<f64> {
        let times = |a: &[f64], b: &[f64], [m, k, n]: [usize; 3], transposed: bool| -> Vec<f64> {
            let at = |p: usize, j: usize| if transposed { b[j * k + p] } else { b[p * n + j] };
            (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * at(p, i % n)).sum()).collect()
        };
        let norm = u.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() + EPS;
        let mut x: Vec<f64> = u.iter().map(|&x| f64::from(x) / norm).collect();
        let [a, b, c] = COEFFICIENTS.map(f64::from);
        for _ in 0..5 {
            let gram = times(&x, &x, [n, k, n], true);
            let square = times(&gram, &gram, [n, n, n], false);
            let poly: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
            let change = times(&poly, &x, [n, n, k], false);
            x.iter_mut().zip(change).for_each(|(x, change)| *x = a * *x + change);
        }
        x
    }

    #[test]
    fn every_shape_follows_the_formula_even_with_small_singular_values() -> Result<()> {
        for (i, (n, k)) in [(1, 7), (24, 24), (24, 40), (24, 48), (40, 130)].into_iter().enumerate() {
            let mut u = Tensor::normal(0.0, 1.0, &[n, k], DType::F32, &Device::Cpu, Stream::new(i as u64))?;
            // Rows that get smaller and smaller spread the singular values over four decades.
            for (row, values) in u.as_mut_slice::<f32>()?.chunks_exact_mut(k).enumerate() {
                values.iter_mut().for_each(|x| *x *= 10f32.powf(-4.0 * row as f32 / n as f32));
            }
            let want = reference(u.as_slice()?, n, k);
            let size = want.iter().map(|x| x * x).sum::<f64>().sqrt();
            let distance = |got: &[f32]| {
                let sum: f64 =
                    got.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).powi(2)).sum();
                sum.sqrt() / size
            };
            let wide = newton_schulz(&u)?;
            assert!(distance(wide.as_slice()?) < 1e-4, "{n} x {k}: {}", distance(wide.as_slice()?));
            let tall = newton_schulz(&u.transpose(0, 1)?.contiguous()?)?.transpose(0, 1)?.contiguous()?;
            assert!(distance(tall.as_slice()?) < 1e-4, "{k} x {n}: {}", distance(tall.as_slice()?));
        }
        Ok(())
    }
}
