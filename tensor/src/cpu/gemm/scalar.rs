//! The same product for f32 and f64, single and batched.

use super::source::{MatMut, MatRef};
use super::{check_shapes, sgemm, sgemm_block};
use rayon::prelude::*;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Scalar types with a matrix product: f32 (own kernels) and f64 (the `matrixmultiply` crate).
pub trait GemmScalar: Copy + Send + Sync + sealed::Sealed + 'static {
    /// `C = alpha·A·B + beta·C` on rayon's current pool.
    ///
    /// # Panics
    /// If the shapes do not fit: `A [m, k]`, `B [k, n]`, `C [m, n]`.
    fn gemm(alpha: Self, a: MatRef<Self>, b: MatRef<Self>, beta: Self, c: MatMut<Self>);

    /// [`GemmScalar::gemm`] on the calling thread alone.
    ///
    /// # Panics
    /// As [`GemmScalar::gemm`].
    fn gemm_block(alpha: Self, a: MatRef<Self>, b: MatRef<Self>, beta: Self, c: MatMut<Self>);
}

impl GemmScalar for f32 {
    fn gemm(alpha: f32, a: MatRef<f32>, b: MatRef<f32>, beta: f32, c: MatMut<f32>) {
        sgemm(alpha, a, b, beta, c);
    }
    fn gemm_block(alpha: f32, a: MatRef<f32>, b: MatRef<f32>, beta: f32, c: MatMut<f32>) {
        sgemm_block(alpha, a, b, beta, c);
    }
}

/// Rows and columns of C per f64 task.
const F64_TILE: usize = 128;

impl GemmScalar for f64 {
    fn gemm(alpha: f64, a: MatRef<f64>, b: MatRef<f64>, beta: f64, mut c: MatMut<f64>) {
        check_shapes([a.rows(), a.cols()], [b.rows(), b.cols()], [c.rows(), c.cols()]);
        let (m, n, ldc) = (c.rows(), c.cols(), c.row_stride());
        let base = SendMut(c.as_mut_ptr());
        let across = n.div_ceil(F64_TILE);
        (0..m.div_ceil(F64_TILE) * across).into_par_iter().for_each(|t| {
            let (i, j) = (t / across * F64_TILE, t % across * F64_TILE);
            let (rows, cols) = (F64_TILE.min(m - i), F64_TILE.min(n - j));
            // SAFETY: the parts lie inside A, B and C, and the tiles of C are disjoint.
            unsafe {
                let a = MatRef::from_raw(
                    a.as_ptr().add(i * a.row_stride()),
                    rows,
                    a.cols(),
                    a.row_stride(),
                    a.col_stride(),
                );
                let b = MatRef::from_raw(
                    b.as_ptr().add(j * b.col_stride()),
                    b.rows(),
                    cols,
                    b.row_stride(),
                    b.col_stride(),
                );
                Self::gemm_block(
                    alpha,
                    a,
                    b,
                    beta,
                    MatMut::from_raw(base.get().add(i * ldc + j), rows, cols, ldc),
                );
            }
        });
    }

    fn gemm_block(alpha: f64, a: MatRef<f64>, b: MatRef<f64>, beta: f64, mut c: MatMut<f64>) {
        check_shapes([a.rows(), a.cols()], [b.rows(), b.cols()], [c.rows(), c.cols()]);
        // SAFETY: the shapes fit and the views are valid for them. dgemm does not read C when beta is 0.
        unsafe {
            matrixmultiply::dgemm(
                a.rows(),
                a.cols(),
                b.cols(),
                alpha,
                a.as_ptr(),
                a.row_stride() as isize,
                a.col_stride() as isize,
                b.as_ptr(),
                b.row_stride() as isize,
                b.col_stride() as isize,
                beta,
                c.as_mut_ptr(),
                c.row_stride() as isize,
                1,
            );
        }
    }
}

/// `C = alpha·A·B + beta·C` on rayon's current pool, for f32 or f64.
///
/// # Panics
/// If the shapes do not fit: `A [m, k]`, `B [k, n]`, `C [m, n]`.
pub fn gemm<T: GemmScalar>(alpha: T, a: MatRef<T>, b: MatRef<T>, beta: T, c: MatMut<T>) {
    T::gemm(alpha, a, b, beta, c);
}

#[derive(Clone, Copy)]
struct SendMut<T>(*mut T);
// SAFETY: tasks write disjoint parts of what the pointer covers.
unsafe impl<T: Send> Send for SendMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SendMut<T> {}
impl<T> SendMut<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

/// `batch` independent products. `a`, `b` and `c` are the views of the first product; `offsets(i)` gives how many
/// elements further those of product `i` start, so any batch strides (also 0, for a shared operand) are possible.
///
/// # Safety
/// The moved views must lie in memory valid for them, and the outputs must not overlap.
///
/// # Panics
/// If the shapes do not fit.
pub unsafe fn gemm_batched<T: GemmScalar>(
    batch: usize,
    offsets: impl Fn(usize) -> [usize; 3] + Sync,
    alpha: T,
    a: MatRef<T>,
    b: MatRef<T>,
    beta: T,
    mut c: MatMut<T>,
) {
    let (m, n, ldc) = (c.rows(), c.cols(), c.row_stride());
    let base = SendMut(c.as_mut_ptr());
    (0..batch).into_par_iter().for_each(|i| {
        let [a_offset, b_offset, c_offset] = offsets(i);
        // SAFETY: the caller's promise about the moved views.
        unsafe {
            let c = MatMut::from_raw(base.get().add(c_offset), m, n, ldc);
            T::gemm(alpha, a.offset(a_offset), b.offset(b_offset), beta, c);
        }
    });
}
