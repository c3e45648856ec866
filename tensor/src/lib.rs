//! N-dimensional arrays.
