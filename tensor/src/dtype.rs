//! Element types, at run time ([`DType`]) and at compile time ([`Element`], [`Float`]).

use crate::cpu::gemm::GemmScalar;
use half::{bf16, f16};
use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit IEEE float: master weights, reductions, CPU activations.
    F32,
    /// bfloat16: activations on accelerators.
    BF16,
    /// 64-bit IEEE float: gradient checks, CPU only.
    F64,
    /// Signed byte: quantization codes.
    I8,
    /// Unsigned byte: masks, packed data.
    U8,
    /// Token ids.
    U32,
    /// Targets (with -100 for "ignored") and integer accumulators.
    I32,
    /// IEEE half precision, as some files have it.
    F16,
    /// 64-bit integers, as some files have them.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::BF16 | DType::F16 => 2,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::BF16 | DType::F64 | DType::F16)
    }

    /// Lower-case name, as in error messages: `f32`, `i8`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F64 => "f64",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::U32 => "u32",
            DType::I32 => "i32",
            DType::F16 => "f16",
            DType::I64 => "i64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a tensor can hold. Sealed: the list is [`DType`]'s.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialEq + fmt::Debug + 'static {
    /// The matching run-time type.
    const DTYPE: DType;
    /// Nearest value of this type; integers truncate toward zero and saturate.
    fn from_f64(x: f64) -> Self;
    /// The value as f64; exact for every type but large [`DType::I64`].
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($($t:ty => $d:ident, $from:expr, $to:expr;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn from_f64(x: f64) -> Self { $from(x) }
            #[inline(always)]
            fn to_f64(self) -> f64 { $to(self) }
        }
    )*};
}
element! {
    f32 => F32, |x| x as f32, f64::from;
    f64 => F64, |x| x, |x| x;
    bf16 => BF16, bf16::from_f64, bf16::to_f64;
    f16 => F16, f16::from_f64, f16::to_f64;
    i8 => I8, |x| x as i8, f64::from;
    u8 => U8, |x| x as u8, f64::from;
    u32 => U32, |x| x as u32, f64::from;
    i32 => I32, |x| x as i32, f64::from;
    i64 => I64, |x| x as i64, |x| x as f64;
}

/// The two types that CPU arithmetic runs in: f32, and f64 for gradient checks.
pub trait Float:
    Element
    + GemmScalar
    + PartialOrd
    + Default
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// Infinity.
    const INFINITY: Self;
    /// e^x. In f32 a polynomial that vectorises, within 2 ulp; in f64 the standard library's.
    fn exp(self) -> Self;
    /// Natural logarithm. In f32 a polynomial that vectorises, within 2 ulp; in f64 the standard library's.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The larger of two; `other` if `self` is NaN.
    fn max(self, other: Self) -> Self;
    /// Whether the value is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const INFINITY: Self = f32::INFINITY;
    #[inline(always)]
    fn exp(self) -> Self {
        crate::cpu::math::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        crate::cpu::math::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        crate::cpu::math::tanh(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const INFINITY: Self = f64::INFINITY;
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

/// Runs `$body` with `$t` bound to the Rust float type of `$dtype` (f32 or f64); else an error naming `$op`.
#[macro_export]
macro_rules! with_float {
    ($op:expr, $dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err($crate::Error::dtype($op, "f32 or f64", other)),
        }
    };
}

/// Runs `$body` with `$t` bound to the Rust type of `$dtype`, any of them.
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::BF16 => {
                type $t = $crate::half::bf16;
                $body
            }
            $crate::DType::F16 => {
                type $t = $crate::half::f16;
                $body
            }
            $crate::DType::I8 => {
                type $t = i8;
                $body
            }
            $crate::DType::U8 => {
                type $t = u8;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::DType::I32 => {
                type $t = i32;
                $body
            }
            $crate::DType::I64 => {
                type $t = i64;
                $body
            }
        }
    };
}
