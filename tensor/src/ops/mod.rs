//! Operations as methods of [`Tensor`](crate::Tensor), one file a family.

mod elementwise;
mod index;
mod join;
mod matmul;
mod reduce;
mod softmax;
mod sort;
