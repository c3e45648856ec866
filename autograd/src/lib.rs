//! Reverse-mode differentiation over `tensor`.
