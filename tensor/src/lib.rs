//! N-dimensional arrays.

pub mod cpu;
