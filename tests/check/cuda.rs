//! The same operations on a GPU: in f32 against the CPU, in bf16 against f64.

use super::trial::SINGLE;
use super::{Case, Failure, cast};
use std::io::Write;
use std::sync::LazyLock;
use tensor::{DType, Device, Tensor};

/// Largest relative L2 errors of outputs and gradients in bf16 against f64 from the same inputs.
const HALF: [f64; 2] = [5e-3, 1e-2];

/// The first GPU. Without one it says that `name` was skipped there, past the test harness's capture.
///
/// # Panics
/// Without one, if `DISTILLIX_REQUIRE_CUDA=1`.
pub fn device(name: &str) -> Option<Device> {
    static CUDA: LazyLock<Result<Device, String>> =
        LazyLock::new(|| Device::cuda(0).map_err(|error| error.to_string()));
    match &*CUDA {
        Ok(device) => Some(device.clone()),
        Err(error) => {
            let required = std::env::var("DISTILLIX_REQUIRE_CUDA").as_deref() == Ok("1");
            assert!(!required, "{name}: DISTILLIX_REQUIRE_CUDA=1, but {error}");
            let _ = writeln!(std::io::stderr(), "{name}: skipped: no CUDA device ({error})");
            None
        }
    }
}

/// All checks of one case on a GPU.
pub(super) fn check(case: &Case, device: &Device) -> Result<(), Failure> {
    let move_all = |inputs: &[Tensor]| -> tensor::Result<Vec<Tensor>> {
        inputs.iter().map(|x| x.to_device(device)).collect()
    };
    let inputs = case.inputs()?;
    let (single, trial) = (cast(&inputs, DType::F32)?, case.trial(DType::F32));
    let moved = move_all(&single)?;
    let first = trial.outcome(&moved, false)?;
    trial.close(&first, &trial.outcome(&single, false)?, [SINGLE; 2])?;
    trial.repeatable(&moved, &first)?;

    // The same numbers in both types: those that bf16 holds.
    let half = cast(&inputs, DType::BF16)?;
    let double = case.trial(DType::F64).outcome(&cast(&half, DType::F64)?, false)?;
    let trial = case.trial(DType::BF16);
    let parameters = cast(&half, DType::F32)?;
    let typed = case.inputs.iter().zip(half.into_iter().zip(parameters));
    let typed: Vec<Tensor> = typed.map(|(input, (x, wide))| if input.parameter { wide } else { x }).collect();
    let moved = move_all(&typed)?;
    let first = trial.outcome(&moved, false)?;
    trial.close(&first, &double, HALF)?;
    trial.repeatable(&moved, &first)
}
