//! What every differentiable operation has to pass, whatever it computes.

use autograd::{Op, Tape, Var};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::LazyLock;
use tensor::{DType, Device, Stream, Tensor};

mod cuda;
mod differences;
mod trial;

pub use cuda::device as cuda_device;
use trial::{SINGLE, Trial, same};

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
    parameter: bool,
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
    Input { dims: dims.as_ref().to_vec(), values: Values::Normal(std), leaf: true, parameter: false }
}

/// Numbers below `n`, u32. With more elements than `n`, some repeat.
pub fn ids(n: u32, dims: impl AsRef<[usize]>) -> Input {
    Input { dims: dims.as_ref().to_vec(), values: Values::Ids(n), leaf: false, parameter: false }
}

impl Input {
    /// The same, but no gradient flows to it.
    pub fn constant(self) -> Input {
        Input { leaf: false, ..self }
    }

    /// The same, but it stays f32 where activations are bf16.
    pub fn parameter(self) -> Input {
        Input { parameter: true, ..self }
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

    /// Anything computed on a tape, on the device of its inputs, in the type that comes first; parameters are f32 where
    /// that is bf16.
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

    /// The inputs, in f64 where they are floats.
    fn inputs(&self) -> tensor::Result<Vec<Tensor>> {
        self.inputs.iter().enumerate().map(|(i, input)| input.tensor(i)).collect()
    }

    /// This case with activations of a type.
    fn trial(&self, dtype: DType) -> Trial<'_> {
        Trial { case: self, dtype, leaves: self.inputs.iter().map(|input| input.leaf).collect() }
    }
}

/// Runs a row of the table: the checks, for shapes drawn from `shapes`.
///
/// # Panics
/// If one fails; the message has the smallest shape that does.
pub fn row<S: Strategy>(name: &str, shapes: S, case: impl Fn(S::Value) -> Case) {
    tensor::storage::set_poison(true);
    let run = |what: &str, cases, check: &dyn Fn(&Case) -> Result<(), Failure>| {
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let tried = TestRunner::new_with_rng(config, rng).run(&shapes, |drawn| {
            check(&case(drawn)).map_err(|failure| TestCaseError::fail(failure.to_string()))
        });
        if let Err(failure) = tried {
            panic!("{name}{what}: {failure}");
        }
    };
    if let Some(device) = cuda::device(name) {
        run(" on CUDA", cases(CUDA_CASES), &|case| cuda::check(case, &device));
    }
    run("", cases(CPU_CASES), &check);
}

/// Shapes drawn a row.
const CPU_CASES: u32 = 24;
const CUDA_CASES: u32 = 64;

/// So many, or as many as `DISTILLIX_CASES` says: under a checker of memory a case takes minutes.
fn cases(usual: u32) -> u32 {
    match std::env::var("DISTILLIX_CASES") {
        Ok(cases) => cases.parse().unwrap_or_else(|_| panic!("DISTILLIX_CASES is {cases}, not a number")),
        Err(_) => usual,
    }
}

/// All checks of one case on the CPU.
pub fn check(case: &Case) -> Result<(), Failure> {
    let inputs = case.inputs()?;
    if case.differences {
        differences::check(case, &inputs)?;
    }
    let (single, trial) = (cast(&inputs, DType::F32)?, case.trial(DType::F32));
    let first = trial.outcome(&single, false)?;
    let double = case.trial(DType::F64).outcome(&cast(&single, DType::F64)?, false)?;
    trial.close(&first, &double, [SINGLE; 2])?;
    for pool in &*POOLS {
        let threads = pool.current_num_threads();
        same(&first, &pool.install(|| trial.outcome(&single, false))?, &format!("{threads} threads"))?;
    }
    trial.repeatable(&single, &first)
}

static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let pool = |n| ThreadPoolBuilder::new().num_threads(n).build().expect("threads start");
    [1, 2, 4].map(pool).into_iter().collect()
});

/// The inputs in a type, where they are floats.
fn cast(inputs: &[Tensor], dtype: DType) -> tensor::Result<Vec<Tensor>> {
    inputs.iter().map(|x| if x.dtype().is_float() { x.to_dtype(dtype) } else { Ok(x.clone()) }).collect()
}
