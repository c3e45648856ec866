//! What a model consists of, and whether its weights are well.

use super::RunModel;
use crate::smelter::config::HealthConfig;
use crate::smelter::health::{self, LayerHealth};
use anyhow::Result;
use nn::params::{Param, Params, Role};
use serde::Serialize;
use tensor::Device;

/// Bits of a packed ternary weight.
const PACKED_BITS: usize = 2;
/// Bits of any other weight, as bf16.
const OTHER_BITS: usize = 16;

/// What a model consists of.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Number of weights.
    pub parameters: usize,
    /// Of these, ternary ones.
    pub ternary_parameters: usize,
    /// Size with 2 bits a ternary weight and 16 any other, in bits.
    pub packed_bits: usize,
    /// Tokens of the tokenizer.
    pub tokens: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The weights, in the order of the model.
    pub weights: Vec<Weight>,
    /// What is outside the bounds of `training.health`, in words.
    pub warnings: Vec<String>,
}

/// One weight.
#[derive(Clone, Debug, Serialize)]
pub struct Weight {
    /// Its path.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Root of the mean square of the full-precision values.
    pub rms: f64,
    /// Largest magnitude of a full-precision value.
    pub max: f32,
    /// Scale of the codes, if ternary.
    pub gamma: Option<f32>,
    /// Shares of -1, 0 and +1, if ternary.
    pub shares: Option<[f64; 3]>,
}

/// Looks at the weights of a loaded model.
pub fn inspect(model: &RunModel) -> Result<Inspection> {
    let params = model.student.params();
    let layers = health::layers(params, params.code_report()?)?;
    let health_of = |param: &Param| layers.iter().find(|layer| layer.layer == param.name);
    let weights = params.iter().map(|param| weight(param, health_of(param))).collect::<Result<_>>()?;
    let ternary_parameters = params
        .iter()
        .filter(|param| param.role == Role::Matrix && param.ternary.is_some())
        .map(|param| param.parameter.value.numel())
        .sum();
    Ok(Inspection {
        parameters: params.numel(),
        ternary_parameters,
        packed_bits: ternary_parameters * PACKED_BITS + (params.numel() - ternary_parameters) * OTHER_BITS,
        tokens: model.student.vocab(),
        vocab_size: model.config.model.vocab_size,
        weights,
        warnings: warnings(params, &layers, &model.config.training.health)?,
    })
}

fn weight(param: &Param, health: Option<&LayerHealth>) -> Result<Weight> {
    let value = param.parameter.value.to_device(&Device::Cpu)?;
    let (mut squares, mut max) = (0.0, 0f32);
    for block in value.as_slice::<f32>()?.chunks(4096) {
        squares += block.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        max = block.iter().fold(max, |max, x| max.max(x.abs()));
    }
    Ok(Weight {
        name: param.name.clone(),
        dims: value.dims().to_vec(),
        rms: (squares / value.numel().max(1) as f64).sqrt(),
        max,
        gamma: health.map(|h| h.gamma),
        shares: health.map(|h| h.shares),
    })
}

fn warnings(params: &Params, layers: &[LayerHealth], bounds: &HealthConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for layer in layers {
        let findings = health::findings(layer, bounds, false);
        warnings.extend(
            findings.into_iter().filter(|f| f.1).map(|(_, _, words)| format!("{}: {words}", layer.layer)),
        );
    }
    for param in params.iter().filter(|param| param.ternary.is_none()) {
        if param.parameter.value.to_vec::<f32>()?.iter().all(|x| *x == 0.0) {
            warnings.push(format!("{}: all values are 0", param.name));
        }
    }
    Ok(warnings)
}
