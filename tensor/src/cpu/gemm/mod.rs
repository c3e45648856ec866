//! placeholder
/// Element types of matrix products.
pub trait GemmScalar {}
impl GemmScalar for f32 {}
impl GemmScalar for f64 {}
