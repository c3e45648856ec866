//! Matrix products on the CPU.
//!
//! [`sgemm`] is the f32 product with operands of f32, bf16 or scaled i8; [`gemm`] is the same contract for generic
//! code over f32 and f64; [`sgemm_block`] stays on the calling thread, for blocks inside a parallel op.
//!
//! All compute `C = alpha·A·B + beta·C` for `A [m, k]`, `B [k, n]` with any strides and a row-major `C [m, n]`.
//! With `beta == 0`, C is not read. Results do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod driver;
mod kernel;
pub(crate) mod pack;
mod scalar;
pub(crate) mod scratch;
mod source;

pub use scalar::{GemmScalar, gemm, gemm_batched};
pub use source::{ColDivisors, Element, MatMut, MatRef, PackSource, RowDivisors, Scale, Times, Unscaled};

use super::simd::{self, Level};
use driver::Product;
use kernel::Kernel;

/// `C = alpha·A·B + beta·C` in f32, on rayon's current pool.
///
/// # Panics
/// If the shapes do not fit: `A [m, k]`, `B [k, n]`, `C [m, n]`.
pub fn sgemm<A: PackSource, B: PackSource>(alpha: f32, a: A, b: B, beta: f32, c: MatMut<f32>) {
    run(simd::level(), true, alpha, a, b, beta, c);
}

/// [`sgemm`] of a product that is symmetric, as of a matrix with its transpose or of two that commute, in little more
/// than half the time: what lies below the diagonal is copied from above. With `beta` not 0, C must be symmetric.
///
/// # Panics
/// As [`sgemm`], and if C is not square.
pub fn sgemm_symmetric<A: PackSource, B: PackSource>(alpha: f32, a: A, b: B, beta: f32, mut c: MatMut<f32>) {
    assert!(c.rows() == c.cols(), "{} x {} is no symmetric matrix", c.rows(), c.cols());
    product(simd::level(), true, true, alpha, a, b, beta, &mut c);
    c.mirror_upper();
}

/// [`sgemm`] on the calling thread alone.
///
/// # Panics
/// As [`sgemm`].
pub fn sgemm_block<A: PackSource, B: PackSource>(alpha: f32, a: A, b: B, beta: f32, c: MatMut<f32>) {
    run(simd::level(), false, alpha, a, b, beta, c);
}

/// [`sgemm`] with the kernels of a given SIMD level, lowered to what the machine has.
///
/// # Panics
/// As [`sgemm`].
pub fn sgemm_at<A: PackSource, B: PackSource>(
    level: Level,
    alpha: f32,
    a: A,
    b: B,
    beta: f32,
    c: MatMut<f32>,
) {
    run(level, true, alpha, a, b, beta, c);
}

fn run<A: PackSource, B: PackSource>(
    level: Level,
    parallel: bool,
    alpha: f32,
    a: A,
    b: B,
    beta: f32,
    mut c: MatMut<f32>,
) {
    product(level, parallel, false, alpha, a, b, beta, &mut c);
}

#[expect(clippy::too_many_arguments, reason = "the operands of a product and how to compute it")]
fn product<A: PackSource, B: PackSource>(
    level: Level,
    parallel: bool,
    upper: bool,
    alpha: f32,
    a: A,
    b: B,
    beta: f32,
    c: &mut MatMut<f32>,
) {
    check_shapes([a.rows(), a.cols()], [b.rows(), b.cols()], [c.rows(), c.cols()]);
    let (ldc, c) = (c.row_stride(), c.as_mut_ptr());
    let product = Product { kernel: Kernel::at(level), alpha, a, b, beta, c, ldc, upper };
    // SAFETY: the shapes fit, and `c` is an exclusive borrow of a matrix of that shape.
    unsafe { product.run(parallel) }
}

fn check_shapes(a: [usize; 2], b: [usize; 2], c: [usize; 2]) {
    assert!(
        a[1] == b[0] && c == [a[0], b[1]],
        "matrix product of {a:?} and {b:?} does not fit an output of {c:?}"
    );
}

#[cfg(test)]
pub(crate) mod tests;
