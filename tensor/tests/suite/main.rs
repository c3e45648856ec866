//! Every operation against naive oracles in f64, over drawn shapes, strides, odd and empty sizes.

mod devices;
mod elementwise;
mod errors;
mod index;
mod io;
mod matmul;
mod reduce;
mod sort;
mod support;
mod threads;
mod views;
