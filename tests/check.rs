//! What every differentiable operation has to pass, whatever it computes.

use autograd::{GradCheck, Gradients, Op, ParamId, Parameter, Tape, Var, grad_check};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io::Write;
use std::sync::LazyLock;
use tensor::{DType, Device, Stream, Tensor};

/// Why a check failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

type Run = Box<dyn Fn(DType, &mut Tape<'_>, &[Var]) -> tensor::Result<Vec<Var>> + Send + Sync>;

/// An operation and the inputs it is tried on.
pub struct Case {
    run: Run,
    inputs: Vec<Input>,
    differences: bool,
    terms: usize,
}

/// One input: its values, in f64 if they are numbers, and whether a gradient is asked for.
pub struct Input {
    dims: Vec<usize>,
    values: Values,
    leaf: bool,
}

enum Values {
    Normal(f64),
    Ids(u32),
}

/// Standard normal numbers.
pub fn normal(dims: impl AsRef<[usize]>) -> Input {
    scaled(1.0, dims)
}

/// Normal numbers of a standard deviation.
pub fn scaled(std: f64, dims: impl AsRef<[usize]>) -> Input {
    Input { dims: dims.as_ref().to_vec(), values: Values::Normal(std), leaf: true }
}

/// Numbers below `n`, u32. With more elements than `n`, some repeat.
pub fn ids(n: u32, dims: impl AsRef<[usize]>) -> Input {
    Input { dims: dims.as_ref().to_vec(), values: Values::Ids(n), leaf: false }
}

impl Input {
    /// The same, but no gradient flows to it.
    pub fn constant(self) -> Input {
        Input { leaf: false, ..self }
    }

    fn tensor(&self, site: usize) -> tensor::Result<Tensor> {
        let stream = Stream { site: site as u32, ..Stream::new(20) };
        match self.values {
            Values::Normal(std) => Tensor::normal(0.0, std, &self.dims, DType::F64, &Device::Cpu, stream),
            Values::Ids(n) => {
                let count = self.dims.iter().product::<usize>() as u64;
                let ids: Vec<u32> = (0..count).map(|i| stream.below(i, u64::from(n)) as u32).collect();
                Tensor::from_slice(&ids, &self.dims, &Device::Cpu)
            }
        }
    }
}

impl Case {
    /// An op whose struct holds no tensors of the inputs' type.
    pub fn op<O: Op + Clone + Send + Sync + 'static>(op: O, inputs: impl IntoIterator<Item = Input>) -> Case {
        Case::new(
            move |_, tape, x| Ok(tape.apply_n(op.clone(), &x.iter().collect::<Vec<_>>())?.into_vec()),
            inputs,
        )
    }

    /// Anything computed on a tape, in the type that comes first.
    pub fn new(
        run: impl Fn(DType, &mut Tape<'_>, &[Var]) -> tensor::Result<Vec<Var>> + Send + Sync + 'static,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Case {
        Case { run: Box::new(run), inputs: inputs.into_iter().collect(), differences: true, terms: 1 }
    }

    /// The gradient is not that of the value (straight-through): central differences say nothing of it.
    pub fn straight_through(self) -> Case {
        Case { differences: false, ..self }
    }

    /// Its results are sums of about so many products of inputs, which may cancel.
    pub fn sums(self, terms: usize) -> Case {
        Case { terms, ..self }
    }
}

/// Runs a row of the table: the checks, for shapes drawn from `shapes`.
///
/// # Panics
/// If one fails; the message has the smallest shape that does.
pub fn row<S: Strategy>(name: &str, shapes: S, case: impl Fn(S::Value) -> Case) {
    tensor::storage::set_poison(true);
    cuda_column(name);
    let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let tried = TestRunner::new_with_rng(config, rng).run(&shapes, |drawn| {
        check(&case(drawn)).map_err(|failure| TestCaseError::fail(failure.to_string()))
    });
    if let Err(failure) = tried {
        panic!("{name}: {failure}");
    }
}

/// Says that the comparison with CUDA was skipped, past the test harness's capture.
fn cuda_column(name: &str) {
    assert!(
        std::env::var("DISTILLIX_REQUIRE_CUDA").as_deref() != Ok("1"),
        "{name}: no CUDA device, and DISTILLIX_REQUIRE_CUDA=1"
    );
    let _ = writeln!(std::io::stderr(), "{name}: CUDA against CPU skipped: no CUDA device");
}

/// Outputs, and the gradients of the inputs.
struct Outcome {
    outputs: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
}

/// All checks of one case.
pub fn check(case: &Case) -> Result<(), Failure> {
    let inputs: Vec<Tensor> =
        case.inputs.iter().enumerate().map(|(i, input)| input.tensor(i)).collect::<Result<_, _>>()?;
    if case.differences {
        differences(case, &inputs)?;
    }
    let single: Vec<Tensor> = inputs.iter().map(|x| as_float(x, DType::F32)).collect::<Result<_, _>>()?;
    let leaves: Vec<bool> = case.inputs.iter().map(|input| input.leaf).collect();
    let run = |inputs: &[Tensor]| outcome(case, inputs, &leaves, false);
    let first = run(&single)?;
    accuracy(case, &single, &leaves, &first)?;
    same(&first, &run(&single)?, "a second run")?;
    for pool in &*POOLS {
        let threads = pool.current_num_threads();
        same(&first, &pool.install(|| run(&single))?, &format!("{threads} threads"))?;
    }
    same(&first, &outcome(case, &single, &leaves, true)?, "strided output gradients")?;
    strided(case, &single, &leaves, &first)?;
    wanted(case, &single, &leaves, &first)?;
    accumulation(case, &single, &leaves, &first)
}

static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let pool = |n| ThreadPoolBuilder::new().num_threads(n).build().expect("threads start");
    [1, 2, 4].map(pool).into_iter().collect()
});

fn as_float(x: &Tensor, dtype: DType) -> tensor::Result<Tensor> {
    if x.dtype().is_float() { x.to_dtype(dtype) } else { Ok(x.clone()) }
}

/// The float type of a case's inputs.
fn type_of(inputs: &[Tensor]) -> DType {
    inputs.iter().map(Tensor::dtype).find(|t| t.is_float()).unwrap_or(DType::F32)
}

/// Reproducible numbers that f32 holds exactly, neither all of one sign nor near zero.
fn cotangent(y: &Tensor, seed: usize) -> tensor::Result<Tensor> {
    let stream = Stream { site: 1000 + seed as u32, ..Stream::new(21) };
    let value = |i| {
        let bits = stream.below(i, 256) as f64;
        (0.5 + bits / 256.0) * if stream.below(i, 2) == 0 { 1.0 } else { -1.0 }
    };
    let values: Vec<f64> = (0..y.numel() as u64).map(value).collect();
    Tensor::from_slice(&values, y.dims(), &Device::Cpu)?.to_dtype(y.dtype())
}

fn outcome(case: &Case, inputs: &[Tensor], leaves: &[bool], strided_dy: bool) -> Result<Outcome, Failure> {
    let mut tape = Tape::new();
    let vars: Vec<Var> = inputs
        .iter()
        .zip(leaves)
        .map(|(x, &leaf)| if leaf { tape.leaf(x.clone()) } else { tape.constant(x.clone()) })
        .collect();
    let outputs = (case.run)(type_of(inputs), &mut tape, &vars)?;
    let mut dys = Vec::new();
    for (i, y) in outputs.iter().enumerate() {
        let dy = cotangent(&y.detach(), i)?;
        dys.push(if strided_dy { reversed(&dy)? } else { dy });
    }
    let refs: Vec<&Var> = outputs.iter().collect();
    let mut grads = tape.backward_from(&refs, dys, &mut Gradients::default())?;
    let outcome = Outcome {
        outputs: outputs.iter().map(Var::detach).collect(),
        grads: vars.iter().map(|x| grads.take(x)).collect(),
    };
    for (i, (grad, (&leaf, x))) in outcome.grads.iter().zip(leaves.iter().zip(inputs)).enumerate() {
        if leaf != grad.is_some() {
            return Err(
                format!("input {i} (dims {:?}) was given no gradient, or one unasked", x.dims()).into()
            );
        }
    }
    Ok(outcome)
}

fn values(x: &Tensor) -> Result<Vec<f64>, Failure> {
    Ok(x.to_dtype(DType::F64)?.to_vec::<f64>()?)
}

/// Relative L2 error. Values smaller than [`FLOOR`] on average are measured against it: a gradient that cancels to zero
/// keeps the rounding errors of its terms, which are of the size of the inputs, about 1.
fn distance(got: &[f64], want: &[f64], terms: usize) -> f64 {
    let difference: f64 = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = want.iter().map(|b| b * b).sum();
    // n terms of random sign reach √n on the way, and are rounded n times there.
    let floor = FLOOR * terms as f64;
    (difference / norm.max(want.len().max(1) as f64 * floor * floor)).sqrt()
}

const FLOOR: f64 = 0.03;

/// Largest relative L2 error of f32 against f64 from the same inputs.
const SINGLE: f64 = 5e-6;

fn accuracy(case: &Case, single: &[Tensor], leaves: &[bool], got: &Outcome) -> Result<(), Failure> {
    let double: Vec<Tensor> = single.iter().map(|x| as_float(x, DType::F64)).collect::<Result<_, _>>()?;
    let want = outcome(case, &double, leaves, false)?;
    for (what, got, want) in pairs(got, &want)? {
        let error = distance(&values(got)?, &values(want)?, case.terms);
        if error.is_nan() || error > SINGLE {
            return Err(format!("{what} (dims {:?}) in f32 is {error:.1e} from f64", got.dims()).into());
        }
    }
    Ok(())
}

/// The matching tensors of two outcomes, named.
fn pairs<'a>(a: &'a Outcome, b: &'a Outcome) -> Result<Vec<(String, &'a Tensor, &'a Tensor)>, Failure> {
    let outputs = a.outputs.iter().zip(&b.outputs).enumerate();
    let mut all: Vec<_> = outputs.map(|(i, (a, b))| (format!("output {i}"), a, b)).collect();
    for (i, pair) in a.grads.iter().zip(&b.grads).enumerate() {
        if let (Some(a), Some(b)) = pair {
            all.push((format!("gradient of input {i}"), a, b));
        }
    }
    match all.iter().find(|(_, a, b)| a.dims() != b.dims()) {
        Some((what, a, b)) => Err(format!("{what} has dims {:?} and {:?}", a.dims(), b.dims()).into()),
        None => Ok(all),
    }
}

/// Fails unless two outcomes have the same bits, all finite.
fn same(a: &Outcome, b: &Outcome, when: &str) -> Result<(), Failure> {
    for (what, a, b) in pairs(a, b)? {
        let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
        if let Some(x) = a.iter().chain(&b).find(|x| !x.is_finite()) {
            return Err(format!("{what} holds {x} ({when}): never written, or an overflow").into());
        }
        if let Some(i) = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()) {
            return Err(format!("element {i} of {what} is {}, with {when} {}", a[i], b[i]).into());
        }
    }
    Ok(())
}

/// The same values with the axes in memory in reversed order.
fn reversed(x: &Tensor) -> tensor::Result<Tensor> {
    let order: Vec<usize> = (0..x.rank()).rev().collect();
    x.permute(&order)?.copy()?.permute(&order)
}

/// The same values as the middle of something wider.
fn narrowed(x: &Tensor) -> tensor::Result<Tensor> {
    let axis = x.rank() - 1;
    Tensor::cat(&[x, x, x], axis)?.narrow(axis, x.last_dim(), x.last_dim())
}

fn strided(case: &Case, inputs: &[Tensor], leaves: &[bool], first: &Outcome) -> Result<(), Failure> {
    let with = |i: usize, x: Tensor| {
        let mut inputs = inputs.to_vec();
        inputs[i] = x;
        outcome(case, &inputs, leaves, false)
    };
    for (i, x) in inputs.iter().enumerate() {
        same(first, &with(i, reversed(x)?)?, &format!("input {i} transposed"))?;
        if x.rank() > 0 {
            same(first, &with(i, narrowed(x)?)?, &format!("input {i} narrowed"))?;
        }
        for axis in (0..x.rank()).filter(|&axis| x.dims()[axis] > 1) {
            let repeated = x.narrow(axis, 0, 1)?.broadcast_to(x.dims())?;
            let plain = with(i, repeated.copy()?)?;
            same(&plain, &with(i, repeated)?, &format!("input {i} broadcast along axis {axis}"))?;
        }
    }
    Ok(())
}

/// A gradient must not depend on which others are asked for.
fn wanted(case: &Case, inputs: &[Tensor], leaves: &[bool], first: &Outcome) -> Result<(), Failure> {
    for alone in (0..leaves.len()).filter(|&i| leaves[i]) {
        let only: Vec<bool> = (0..leaves.len()).map(|i| i == alone).collect();
        let when = format!("only input {alone} asking for a gradient");
        same(first, &outcome(case, inputs, &only, false)?, &when)?;
    }
    Ok(())
}

/// Two backward passes into the gradients of parameters give twice the gradient.
fn accumulation(case: &Case, inputs: &[Tensor], leaves: &[bool], first: &Outcome) -> Result<(), Failure> {
    let parameter = |(i, x): (usize, &Tensor)| Ok(Parameter { id: ParamId(i), value: x.clone() });
    let parameters: Vec<Parameter> =
        inputs.iter().enumerate().map(parameter).collect::<tensor::Result<_>>()?;
    let empty = |x: &Tensor| Tensor::empty(x.dims(), x.dtype(), &Device::Cpu);
    let mut sums = Gradients::new(inputs.iter().map(empty).collect::<Result<_, _>>()?);
    for _ in 0..2 {
        let mut tape = Tape::new();
        let vars: Vec<Var> = parameters
            .iter()
            .zip(leaves)
            .map(|(p, &leaf)| if leaf { tape.param(p) } else { tape.constant(p.value.clone()) })
            .collect();
        let outputs = (case.run)(type_of(inputs), &mut tape, &vars)?;
        let dys: Vec<Tensor> = outputs
            .iter()
            .enumerate()
            .map(|(i, y)| cotangent(&y.detach(), i))
            .collect::<tensor::Result<_>>()?;
        tape.backward_from(&outputs.iter().collect::<Vec<_>>(), dys, &mut sums)?;
    }
    for (i, grad) in first.grads.iter().enumerate() {
        let Some(grad) = grad else { continue };
        let sum = sums.get(ParamId(i)).ok_or_else(|| format!("parameter {i} got no gradient"))?;
        let half: Vec<f64> = values(sum)?.iter().map(|x| x / 2.0).collect();
        let error = distance(&half, &values(grad)?, case.terms);
        if error.is_nan() || error > 1e-6 {
            return Err(format!("two passes into parameter {i} are {error:.1e} from twice one").into());
        }
    }
    Ok(())
}

/// Up to this many elements, every one is moved; beyond, all move together in a few random directions.
const MOVED: usize = 160;

fn differences(case: &Case, inputs: &[Tensor]) -> Result<(), Failure> {
    let leaf = |i: usize| case.inputs[i].leaf;
    let total: usize = inputs.iter().enumerate().filter(|&(i, _)| leaf(i)).map(|(_, x)| x.numel()).sum();
    if total > MOVED {
        return directions(case, inputs);
    }
    // `grad_check` moves every f64 input it is given, so constants stay out of its sight.
    let moving: Vec<Tensor> = (0..inputs.len()).filter(|&i| leaf(i)).map(|i| inputs[i].clone()).collect();
    let run = |tape: &mut Tape<'_>, moving: &[Var]| {
        let mut moving = moving.iter();
        let vars: Vec<Var> = (0..inputs.len())
            .map(|i| match leaf(i) {
                true => moving.next().expect("as many as leaves").clone(),
                false => tape.constant(inputs[i].clone()),
            })
            .collect();
        (case.run)(DType::F64, tape, &vars)
    };
    grad_check(run, &moving, GradCheck::default())?;
    Ok(())
}

/// Derivatives along random directions, in f64, against central differences.
fn directions(case: &Case, inputs: &[Tensor]) -> Result<(), Failure> {
    const STEP: f64 = 1e-5;
    let leaves: Vec<bool> = case.inputs.iter().map(|input| input.leaf).collect();
    let base = outcome(case, inputs, &leaves, false)?;
    for i in (0..inputs.len()).filter(|&i| leaves[i]) {
        let Some(grad) = &base.grads[i] else { continue };
        let grad = values(grad)?;
        for direction in 0..3 {
            let v = cotangent(&inputs[i], 100 + direction)?;
            let at = |step: f64| -> Result<f64, Failure> {
                let mut moved = inputs.to_vec();
                moved[i] = inputs[i].add(&v.mul_scalar(step)?)?;
                let mut tape = Tape::inference();
                let vars: Vec<Var> = moved.into_iter().map(|x| tape.constant(x)).collect();
                let mut total = 0.0;
                for (n, y) in (case.run)(DType::F64, &mut tape, &vars)?.iter().enumerate() {
                    let (y, c) = (y.detach(), cotangent(&y.detach(), n)?);
                    total += values(&y)?.iter().zip(values(&c)?).map(|(y, c)| y * c).sum::<f64>();
                }
                Ok(total)
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let v = values(&v)?;
            let analytic: f64 = grad.iter().zip(&v).map(|(g, v)| g * v).sum();
            // A random direction sees about ‖g‖ of the gradient.
            let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
            let error = (analytic - numeric).abs() / norm.max(1e-8);
            if error.is_nan() || error > 1e-6 {
                let dims = inputs[i].dims();
                return Err(format!(
                    "gradient of input {i} (dims {dims:?}) is off by {error:.1e} along a direction"
                )
                .into());
            }
        }
    }
    Ok(())
}
