//! Operands of a matrix product: strided views whose elements become f32 while they are packed.

use half::bf16;
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// Element types an operand of [`super::sgemm`] may have.
pub trait Element: Copy + Send + Sync + Sealed {
    /// The exact f32 value.
    fn to_f32(self) -> f32;
    /// The pointer itself when the element already is f32, so that packing may be skipped.
    fn as_f32(_ptr: *const Self) -> Option<*const f32> {
        None
    }
}

impl Sealed for f32 {}
impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn as_f32(ptr: *const f32) -> Option<*const f32> {
        Some(ptr)
    }
}

impl Sealed for bf16 {}
impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
}

impl Sealed for i8 {}
impl Element for i8 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self as f32
    }
}

/// A scaling applied to each element after its conversion to f32.
pub trait Scale: Copy + Send + Sync + Sealed {
    /// True when [`Scale::apply`] returns its argument.
    const IDENTITY: bool = false;
    /// The same scaling seen from the transposed matrix.
    type Transposed: Scale<Transposed = Self>;
    /// See [`Scale::Transposed`].
    fn t(self) -> Self::Transposed;
    /// Scales `value`, the element at (`row`, `col`).
    ///
    /// # Safety
    /// `row` and `col` are inside the matrix the scale belongs to.
    unsafe fn apply(self, value: f32, row: usize, col: usize) -> f32;
}

/// No scaling.
#[derive(Clone, Copy)]
pub struct Unscaled;
impl Sealed for Unscaled {}
impl Scale for Unscaled {
    const IDENTITY: bool = true;
    type Transposed = Self;
    fn t(self) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn apply(self, value: f32, _: usize, _: usize) -> f32 {
        value
    }
}

/// Every element times one number, for example the γ of a ternary weight.
#[derive(Clone, Copy)]
pub struct Times(f32);
impl Sealed for Times {}
impl Scale for Times {
    type Transposed = Self;
    fn t(self) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn apply(self, value: f32, _: usize, _: usize) -> f32 {
        value * self.0
    }
}

/// Row `i` divided by `s[i]`: `X̃ = Xq/s` of quantized activations, correctly rounded.
#[derive(Clone, Copy)]
pub struct RowDivisors<'a>(&'a [f32]);
impl Sealed for RowDivisors<'_> {}
impl<'a> Scale for RowDivisors<'a> {
    type Transposed = ColDivisors<'a>;
    fn t(self) -> ColDivisors<'a> {
        ColDivisors(self.0)
    }
    #[inline(always)]
    unsafe fn apply(self, value: f32, row: usize, _: usize) -> f32 {
        // SAFETY: the constructor checked one divisor a row.
        value / unsafe { *self.0.get_unchecked(row) }
    }
}

/// Column `j` divided by `s[j]`, the transpose of [`RowDivisors`].
#[derive(Clone, Copy)]
pub struct ColDivisors<'a>(&'a [f32]);
impl Sealed for ColDivisors<'_> {}
impl<'a> Scale for ColDivisors<'a> {
    type Transposed = RowDivisors<'a>;
    fn t(self) -> RowDivisors<'a> {
        RowDivisors(self.0)
    }
    #[inline(always)]
    unsafe fn apply(self, value: f32, _: usize, col: usize) -> f32 {
        // SAFETY: the constructor checked one divisor a column.
        value / unsafe { *self.0.get_unchecked(col) }
    }
}

/// A read-only matrix `[rows, cols]` with any strides, in elements. Stride 0 repeats a row or column.
pub struct MatRef<'a, E, S = Unscaled> {
    ptr: *const E,
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
    scale: S,
    data: PhantomData<&'a [E]>,
}

impl<E, S: Copy> Clone for MatRef<'_, E, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E, S: Copy> Copy for MatRef<'_, E, S> {}

// SAFETY: a MatRef is a shared borrow of `E`s.
unsafe impl<E: Sync, S: Send> Send for MatRef<'_, E, S> {}
// SAFETY: as above.
unsafe impl<E: Sync, S: Sync> Sync for MatRef<'_, E, S> {}

/// Elements a view of this shape reaches, counted from its first.
fn extent(rows: usize, cols: usize, rs: usize, cs: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 }
}

impl<'a, E> MatRef<'a, E> {
    /// View of `data` as `[rows, cols]` with strides `rs` and `cs` in elements.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [E], rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        let need = extent(rows, cols, rs, cs);
        assert!(
            need <= data.len(),
            "matrix [{rows}, {cols}] with strides [{rs}, {cs}] needs {need} elements, got {}",
            data.len()
        );
        Self { ptr: data.as_ptr(), rows, cols, rs, cs, scale: Unscaled, data: PhantomData }
    }

    /// Row-major `[rows, cols]` without gaps.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn row_major(data: &'a [E], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols, 1)
    }

    /// View from a pointer.
    ///
    /// # Safety
    /// All of the view must be readable and unchanged for `'a`.
    pub unsafe fn from_raw(ptr: *const E, rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        Self { ptr, rows, cols, rs, cs, scale: Unscaled, data: PhantomData }
    }

    /// First element.
    pub fn as_ptr(&self) -> *const E {
        self.ptr
    }

    /// The same view, moved by `offset` elements.
    ///
    /// # Safety
    /// The moved view must lie in the same readable allocation.
    pub(crate) unsafe fn offset(self, offset: usize) -> Self {
        // SAFETY: promised by the caller.
        Self { ptr: unsafe { self.ptr.add(offset) }, ..self }
    }

    /// Multiplies every element by `factor` (one f32 multiplication each).
    pub fn times(self, factor: f32) -> MatRef<'a, E, Times> {
        self.with_scale(Times(factor))
    }

    /// Divides row `i` by `divisors[i]` (IEEE f32 division).
    ///
    /// # Panics
    /// If the number of divisors is not the number of rows.
    pub fn div_rows(self, divisors: &'a [f32]) -> MatRef<'a, E, RowDivisors<'a>> {
        assert_eq!(divisors.len(), self.rows, "one divisor a row");
        self.with_scale(RowDivisors(divisors))
    }

    fn with_scale<S>(self, scale: S) -> MatRef<'a, E, S> {
        let Self { ptr, rows, cols, rs, cs, data, .. } = self;
        MatRef { ptr, rows, cols, rs, cs, scale, data }
    }
}

impl<'a, E, S: Scale> MatRef<'a, E, S> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements between rows.
    pub fn row_stride(&self) -> usize {
        self.rs
    }
    /// Elements between columns.
    pub fn col_stride(&self) -> usize {
        self.cs
    }
    /// The transposed view.
    #[inline(always)]
    pub fn t(self) -> MatRef<'a, E, S::Transposed> {
        let Self { ptr, rows, cols, rs, cs, scale, data } = self;
        MatRef { ptr, rows: cols, cols: rows, rs: cs, cs: rs, scale: scale.t(), data }
    }
}

/// What the packing code needs of an operand. Implemented by [`MatRef`] only.
pub trait PackSource: Copy + Send + Sync + Sealed {
    /// The transposed view's type.
    type Transposed: PackSource;
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns.
    fn cols(&self) -> usize;
    /// Elements between rows.
    fn row_stride(&self) -> usize;
    /// Elements between columns.
    fn col_stride(&self) -> usize;
    /// The transposed view.
    fn t(self) -> Self::Transposed;
    /// Pointer to the elements when they are f32 and unscaled.
    fn as_f32(&self) -> Option<*const f32>;
    /// Writes the f32 values of `(row, col..col + len)` to `dst`.
    ///
    /// # Safety
    /// The elements lie inside the matrix and `dst` has room for `len`.
    unsafe fn copy_row(self, row: usize, col: usize, len: usize, dst: *mut f32);
}

/// Elements converted at a time: one AVX-512 register of f32.
const CHUNK: usize = 16;

impl<E, S> Sealed for MatRef<'_, E, S> {}

impl<'a, E: Element, S: Scale> PackSource for MatRef<'a, E, S> {
    type Transposed = MatRef<'a, E, S::Transposed>;
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn row_stride(&self) -> usize {
        self.rs
    }
    fn col_stride(&self) -> usize {
        self.cs
    }
    #[inline(always)]
    fn t(self) -> Self::Transposed {
        MatRef::t(self)
    }
    #[inline(always)]
    fn as_f32(&self) -> Option<*const f32> {
        if S::IDENTITY { E::as_f32(self.ptr) } else { None }
    }
    #[inline(always)]
    unsafe fn copy_row(self, row: usize, col: usize, len: usize, dst: *mut f32) {
        // SAFETY: the caller keeps the run inside the matrix and gives room for it.
        unsafe {
            let src = self.ptr.add(row * self.rs + col * self.cs);
            let mut done = 0;
            if self.cs == 1 {
                // Through arrays: LLVM cannot know that `dst` and `src` do not overlap, and would copy one by one.
                while done + CHUNK <= len {
                    let from = src.add(done).cast::<[E; CHUNK]>().read_unaligned();
                    let mut to = [0f32; CHUNK];
                    for (j, to) in to.iter_mut().enumerate() {
                        *to = self.scale.apply(from[j].to_f32(), row, col + done + j);
                    }
                    dst.add(done).cast::<[f32; CHUNK]>().write_unaligned(to);
                    done += CHUNK;
                }
            }
            for j in done..len {
                *dst.add(j) = self.scale.apply((*src.add(j * self.cs)).to_f32(), row, col + j);
            }
        }
    }
}

/// A writable row-major matrix `[rows, cols]`, rows `rs` elements apart.
pub struct MatMut<'a, T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    rs: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: a MatMut is an exclusive borrow of `T`s.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

impl<T: Copy> MatMut<'_, T> {
    /// Copies what lies above the diagonal of a square matrix to its place below.
    pub(super) fn mirror_upper(&mut self) {
        // Both blocks of a pair stay in the L1 cache.
        const BLOCK: usize = 32;
        debug_assert_eq!(self.rows, self.cols);
        let n = self.rows;
        for rows in (0..n).step_by(BLOCK) {
            for cols in (0..=rows).step_by(BLOCK) {
                for i in rows..(rows + BLOCK).min(n) {
                    for j in cols..(cols + BLOCK).min(i) {
                        // SAFETY: i and j are below n, so both elements are inside the exclusively borrowed view.
                        unsafe { *self.ptr.add(i * self.rs + j) = *self.ptr.add(j * self.rs + i) };
                    }
                }
            }
        }
    }
}

impl<'a, T> MatMut<'a, T> {
    /// View of `data` as `[rows, cols]` with row stride `rs`.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, rs: usize) -> Self {
        let need = extent(rows, cols, rs, 1);
        assert!(
            need <= data.len(),
            "matrix [{rows}, {cols}] with row stride {rs} needs {need} elements, got {}",
            data.len()
        );
        assert!(rs >= cols || rows <= 1, "rows of {cols} elements overlap at row stride {rs}");
        Self { ptr: data.as_mut_ptr(), rows, cols, rs, data: PhantomData }
    }

    /// Row-major `[rows, cols]` without gaps.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn row_major(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// View from a pointer.
    ///
    /// # Safety
    /// All of the view must be valid for reads and writes and used by nobody else for `'a`; rows must not overlap.
    pub unsafe fn from_raw(ptr: *mut T, rows: usize, cols: usize, rs: usize) -> Self {
        Self { ptr, rows, cols, rs, data: PhantomData }
    }

    /// First element.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements between rows.
    pub fn row_stride(&self) -> usize {
        self.rs
    }
}
