//! Arithmetic element by element, with broadcasting.

use crate::cpu::elementwise::{binary, unary, update};
use crate::cpu::reduce::{maximum, minimum};
use crate::layout::broadcast_dims;
use crate::{DType, Device, Error, Float, Result, Tensor, cuda, with_element, with_float};

macro_rules! binary_op {
    ($($(#[$doc:meta])* $name:ident => |$a:ident, $b:ident| $f:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// Both operands have one type, f32 or f64 (f32 or bf16 on a GPU), and dimensions that broadcast to common ones as
        /// in NumPy.
        pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
            let dims = self.common(stringify!($name), other)?;
            let (a, b) = (self.broadcast_to(&dims)?, other.broadcast_to(&dims)?);
            if let Device::Cuda(gpu) = self.device() {
                return cuda::elementwise::binary(gpu, stringify!($name), &a, &b);
            }
            let mut out = Tensor::empty(&dims, self.dtype(), &self.device())?;
            with_float!(stringify!($name), self.dtype(), T => {
                let a = (a.as_strided::<T>()?, a.layout());
                let b = (b.as_strided::<T>()?, b.layout());
                binary(a, b, out.as_mut_slice::<T>()?, #[inline(always)] |$a, $b| $f);
                Ok(out)
            })
        }
    )*};
}

macro_rules! unary_op {
    ($($(#[$doc:meta])* $name:ident $(($($arg:ident),*))? => |$x:ident: $t:ident| $f:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// f32 or f64 (f32 or bf16 on a GPU), with any strides.
        pub fn $name(&self $($(, $arg: f64)*)?) -> Result<Tensor> {
            if let Device::Cuda(gpu) = self.device() {
                let value = None $($(.or(Some($arg)))*)?;
                return cuda::elementwise::unary(gpu, stringify!($name), self, value);
            }
            let mut out = Tensor::empty(self.dims(), self.dtype(), &self.device())?;
            with_float!(stringify!($name), self.dtype(), $t => {
                $($(let $arg = <$t as crate::Element>::from_f64($arg);)*)?
                let a = (self.as_strided::<$t>()?, self.layout());
                unary(a, out.as_mut_slice::<$t>()?, #[inline(always)] move |$x: $t| $f);
                Ok(out)
            })
        }
    )*};
}

impl Tensor {
    binary_op! {
        /// Sum.
        add => |a, b| a + b;
        /// Difference.
        sub => |a, b| a - b;
        /// Product, element by element.
        mul => |a, b| a * b;
        /// Quotient.
        div => |a, b| a / b;
        /// The larger of two elements; NaN if either is.
        maximum => |a, b| maximum(a, b);
        /// The smaller of two elements; NaN if either is.
        minimum => |a, b| minimum(a, b);
    }

    unary_op! {
        /// The elements with opposite sign.
        neg => |x: T| -x;
        /// e^x.
        exp => |x: T| Float::exp(x);
        /// Natural logarithm.
        ln => |x: T| Float::ln(x);
        /// Square root.
        sqrt => |x: T| Float::sqrt(x);
        /// Square.
        square => |x: T| x * x;
        /// Absolute value.
        abs => |x: T| Float::abs(x);
        /// Hyperbolic tangent.
        tanh => |x: T| Float::tanh(x);
        /// The elements plus a number, which is rounded to the element type first.
        add_scalar(value) => |x: T| x + value;
        /// The elements times a number, which is rounded to the element type first.
        mul_scalar(factor) => |x: T| x * factor;
    }

    /// The elements where `mask` is 0, and `value` where it is not.
    ///
    /// `mask` is u8 and broadcasts to this tensor's dimensions; this tensor is f32 or f64 (f32 or bf16 on a GPU).
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Result<Tensor> {
        const OP: &str = "masked_fill";
        if mask.dtype() != DType::U8 {
            return Err(Error::dtype(OP, "a u8 mask", mask.dtype()));
        }
        let mask = mask.broadcast_for(OP, self.dims())?;
        if let Device::Cuda(gpu) = self.device() {
            return cuda::elementwise::masked_fill(gpu, self, &mask, value);
        }
        let mut out = Tensor::empty(self.dims(), self.dtype(), &self.device())?;
        with_float!(OP, self.dtype(), T => {
            let value = <T as crate::Element>::from_f64(value);
            let x = (self.as_strided::<T>()?, self.layout());
            let mask = (mask.as_strided::<u8>()?, mask.layout());
            binary(x, mask, out.as_mut_slice::<T>()?, #[inline(always)] move |x: T, m| if m == 0 { x } else { value });
            Ok(out)
        })
    }

    /// Adds `other`, of the same type and broadcasting to this tensor's dimensions, in place.
    ///
    /// # Errors
    /// If this tensor is not contiguous or its memory is shared, or it is neither f32 nor f64 (f32 nor bf16 on a GPU).
    pub fn add_assign(&mut self, other: &Tensor) -> Result<()> {
        const OP: &str = "add_assign";
        self.same_dtype(OP, other)?;
        let other = other.broadcast_for(OP, self.dims())?;
        if let Device::Cuda(gpu) = self.device() {
            return cuda::elementwise::update(gpu, OP, self, &other, None);
        }
        with_float!(OP, self.dtype(), T => {
            let from = (other.as_strided::<T>()?, other.layout());
            update(from, self.writable::<T>(OP)?, #[inline(always)] |x, y| *x += y);
            Ok(())
        })
    }

    /// Adds `factor · other` in place; otherwise as [`Tensor::add_assign`]. Product and sum are rounded separately.
    pub fn add_scaled(&mut self, factor: f64, other: &Tensor) -> Result<()> {
        const OP: &str = "add_scaled";
        self.same_dtype(OP, other)?;
        let other = other.broadcast_for(OP, self.dims())?;
        if let Device::Cuda(gpu) = self.device() {
            return cuda::elementwise::update(gpu, OP, self, &other, Some(factor));
        }
        with_float!(OP, self.dtype(), T => {
            let factor = <T as crate::Element>::from_f64(factor);
            let from = (other.as_strided::<T>()?, other.layout());
            update(from, self.writable::<T>(OP)?, #[inline(always)] move |x, y| *x += factor * y);
            Ok(())
        })
    }

    /// Multiplies by a number in place; otherwise as [`Tensor::add_assign`].
    pub fn scale_assign(&mut self, factor: f64) -> Result<()> {
        const OP: &str = "scale_assign";
        if let Device::Cuda(gpu) = self.device() {
            return cuda::elementwise::scale_assign(gpu, self, factor);
        }
        with_float!(OP, self.dtype(), T => {
            let factor = [<T as crate::Element>::from_f64(factor)];
            let layout = crate::Layout::contiguous(&[]).broadcast_to(self.dims())?;
            update((&factor, &layout), self.writable::<T>(OP)?, #[inline(always)] |x, y| *x *= y);
            Ok(())
        })
    }

    /// Sets every element to `value`, rounded to the element type.
    ///
    /// # Errors
    /// If this tensor is not contiguous or its memory is shared.
    pub fn fill(&mut self, value: f64) -> Result<()> {
        if let Device::Cuda(gpu) = self.device() {
            return cuda::elementwise::fill(gpu, self, value);
        }
        with_element!(self.dtype(), T => {
            let value = <T as crate::Element>::from_f64(value);
            crate::cpu::parallel::chunks(self.writable::<T>("fill")?, crate::cpu::parallel::CHUNK, |_, part| part.fill(value));
        });
        Ok(())
    }

    pub(crate) fn same_dtype(&self, op: &'static str, other: &Tensor) -> Result<()> {
        if self.dtype() == other.dtype() {
            return Ok(());
        }
        Err(Error::dtype(op, self.dtype().name(), other.dtype()))
    }

    /// [`Tensor::broadcast_to`] with errors that name `op`.
    fn broadcast_for(&self, op: &'static str, dims: &[usize]) -> Result<Tensor> {
        self.broadcast_to(dims)
            .map_err(|_| Error::shape(op, format!("dims {:?} do not broadcast to {dims:?}", self.dims())))
    }

    fn common(&self, op: &'static str, other: &Tensor) -> Result<crate::Dims> {
        self.same_dtype(op, other)?;
        broadcast_dims(op, self.dims(), other.dims())
    }
}
