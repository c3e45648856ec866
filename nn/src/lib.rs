#![doc = include_str!("../README.md")]

pub mod losses;
pub mod model;
pub mod ops;
pub mod optim;
pub mod params;
pub mod ternary;
