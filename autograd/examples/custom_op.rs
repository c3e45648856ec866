//! An operation of one's own: both gradients, a check against central differences, and a use.
//!
//! `cargo run -p autograd --example custom_op`

use autograd::{GradCheck, GradSink, Gradients, Grads, Op, Outputs, Tape, grad_check_op};
use tensor::{DType, Device, Result, Stream, Tensor};

/// `y = x·e^(-s·x²/2)`: x of any shape, s a scalar (dims `[1]`).
#[derive(Clone, Copy)]
struct Bump;

impl Op for Bump {
    const NAME: &'static str = "bump";
    /// x, s, and the factor `e^(-s·x²/2)`.
    type Saved = [Tensor; 3];

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Self::Saved>)> {
        let [x, s] = inputs else { unreachable!("bump takes two inputs") };
        let factor = x.square()?.mul(s)?.mul_scalar(-0.5)?.exp()?;
        let y = x.mul(&factor)?;
        Ok((Outputs::from_iter([y]), keep.then(|| [(*x).clone(), (*s).clone(), factor])))
    }

    /// `dx = dy·(1 - s·x²)·factor`, `ds = Σ dy·(-x³/2)·factor`.
    fn backward(
        &self,
        [x, s, factor]: [Tensor; 3],
        dy: Grads,
        dx: &mut [Option<GradSink<'_>>],
    ) -> Result<()> {
        let Some(dy) = &dy[0] else { return Ok(()) };
        let (dy, square) = (dy.mul(&factor)?, x.square()?);
        if let Some(sink) = &mut dx[0] {
            sink.give(dy.mul(&square.mul(&s)?.neg()?.add_scalar(1.0)?)?)?;
        }
        if let Some(sink) = &mut dx[1] {
            sink.give(dy.mul(&square.mul(&x)?)?.sum_all()?.mul_scalar(-0.5)?.reshape(&[1])?)?;
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let x = Tensor::normal(0.0, 1.0, &[4, 7], DType::F64, &Device::Cpu, Stream::new(1))?;
    let s = Tensor::full(0.7, &[1], DType::F64, &Device::Cpu)?;
    for check in grad_check_op(Bump, &[x.clone(), s.clone()], GradCheck::default())? {
        println!("input {}: relative error {:.1e}", check.input, check.error);
    }

    let mut tape = Tape::new();
    let (x, s) = (tape.leaf(x), tape.leaf(s));
    let y = tape.apply(Bump, &[&x, &s])?;
    let ones = Tensor::full(1.0, y.dims(), DType::F64, &Device::Cpu)?;
    let mut grads = tape.backward_from(&[&y], [ones], &mut Gradients::default())?;
    println!("dx {:?}", grads.take(&x));
    println!("ds {:?}", grads.take(&s));
    Ok(())
}
