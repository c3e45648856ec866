#![doc = include_str!("../README.md")]

mod checkpoint;
mod grad_check;
mod op;
mod param;
mod sink;
mod tape;
mod var;

pub use grad_check::{Check, GradCheck, grad_check, grad_check_op};
pub use op::{Grads, Op, Outputs, SimpleOp};
pub use param::{Gradients, ParamId, Parameter};
pub use sink::GradSink;
pub use tape::{LeafGrads, Tape};
pub use tensor::{Error, Result};
pub use var::Var;
