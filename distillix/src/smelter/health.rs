//! Whether the ternary weights are well: how they are spread, and how many flip.

use super::config::HealthConfig;
use autograd::ParamId;
use nn::params::Params;
use nn::ternary::{CodeReport, CodeStats};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// The weights of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerHealth {
    /// Path of the weight.
    pub layer: String,
    /// Share of -1, of 0 and of +1.
    pub shares: [f64; 3],
    /// Scale of the codes.
    pub gamma: f32,
    /// Share of the codes that the last update changed.
    pub flips: f64,
}

/// The state of every ternary matrix of a model.
pub fn layers(params: &Params, report: CodeReport) -> tensor::Result<Vec<LayerHealth>> {
    let health = |(id, gamma, stats): (ParamId, f32, CodeStats)| {
        let total = stats.counts.iter().sum::<usize>().max(1) as f64;
        LayerHealth {
            layer: params.get(id).name.clone(),
            shares: stats.counts.map(|n| n as f64 / total),
            gamma,
            flips: stats.flips as f64 / total,
        }
    };
    Ok(report.get()?.into_iter().map(health).collect())
}

/// What may be wrong with a matrix: a name for it, whether it is, and the words for it. Flips count if `flips_count`.
pub fn findings(
    health: &LayerHealth,
    bounds: &HealthConfig,
    flips_count: bool,
) -> [(&'static str, bool, String); 4] {
    let LayerHealth { shares, gamma, flips, .. } = health;
    let zero = shares[1];
    let percent = |x: f64| format!("{:.1}%", 100.0 * x);
    [
        ("many zeros", zero > bounds.max_zero_share, {
            let limit = percent(bounds.max_zero_share);
            format!("{} of the weights are 0 (limit {limit}): the layer is dying out", percent(zero))
        }),
        ("few zeros", zero < bounds.min_zero_share, {
            let limit = percent(bounds.min_zero_share);
            format!("only {} of the weights are 0 (limit {limit}): it has become binary", percent(zero))
        }),
        ("flips", flips_count && *flips > bounds.max_flip_share, {
            let limit = percent(bounds.max_flip_share);
            format!(
                "{} of the weights flipped in one step (limit {limit}): lower training.muon_lr, and keep \
                 training.muon_weight_decay at 0",
                percent(*flips)
            )
        }),
        ("gamma", f64::from(*gamma) < bounds.min_gamma, {
            format!(
                "the scale has shrunk to {gamma:.1e} (limit {:.1e}): keep training.muon_weight_decay at 0",
                bounds.min_gamma
            )
        }),
    ]
}

/// Finds layers outside the bounds, and tells of each once until it is well again.
#[derive(Debug)]
pub struct Watch {
    bounds: HealthConfig,
    warmup: u64,
    /// The highest γ of each layer after warmup.
    highest: HashMap<String, f32>,
    told: HashSet<(String, &'static str)>,
}

impl Watch {
    /// Watches with `bounds`; flips and falls count from step `warmup` on.
    pub fn new(bounds: HealthConfig, warmup: u64) -> Self {
        Watch { bounds, warmup, highest: HashMap::new(), told: HashSet::new() }
    }

    /// Warnings about what went wrong since the last call, in words.
    pub fn check(&mut self, step: u64, layers: &[LayerHealth]) -> Vec<String> {
        let mut warnings = Vec::new();
        for health in layers {
            let layer = &health.layer;
            let warm = step > self.warmup;
            let findings = findings(health, &self.bounds, warm);
            let fall = warm.then(|| self.fall(health));
            for (kind, found, words) in findings.into_iter().chain(fall) {
                let key = (layer.clone(), kind);
                if !found {
                    self.told.remove(&key);
                } else if self.told.insert(key) {
                    warnings.push(format!("step {step}: {layer}: {words}"));
                }
            }
        }
        warnings
    }

    /// Masters only grow while they are trained, since an update is of one size whatever theirs is. A γ that falls means
    /// that something draws them to 0, where each update flips more codes. In warmup, while the first updates are still
    /// small and take away from the random start, healthy layers fall too: by a tenth in a run of the preset `125m`.
    fn fall(&mut self, health: &LayerHealth) -> (&'static str, bool, String) {
        let LayerHealth { layer, gamma, .. } = health;
        let highest = self.highest.entry(layer.clone()).or_insert(*gamma);
        *highest = highest.max(*gamma);
        let fall = 1.0 - f64::from(*gamma) / f64::from(*highest);
        let limit = self.bounds.max_gamma_fall;
        let words = format!(
            "the scale has fallen by {:.1}% from its highest after warmup (limit {:.1}%): keep training.muon_weight_decay at 0",
            100.0 * fall,
            100.0 * limit
        );
        ("fall", fall > limit, words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(zero: f64, gamma: f32, flips: f64) -> Vec<LayerHealth> {
        let side = (1.0 - zero) / 2.0;
        vec![LayerHealth { layer: "q".into(), shares: [side, zero, side], gamma, flips }]
    }

    #[test]
    fn each_finding_is_told_once_until_it_is_well_again() {
        let mut watch = Watch::new(HealthConfig::default(), 10);
        assert!(watch.check(20, &layer(0.3, 0.01, 0.01)).is_empty());
        assert_eq!(watch.check(21, &layer(0.95, 0.01, 0.01)).len(), 1);
        assert!(watch.check(22, &layer(0.95, 0.01, 0.01)).is_empty());
        assert!(watch.check(23, &layer(0.3, 0.01, 0.01)).is_empty());
        assert!(watch.check(24, &layer(0.95, 0.01, 0.01))[0].contains("step 24: q: 95.0%"));
        assert_eq!(watch.check(25, &layer(0.01, 1e-6, 0.2)).len(), 4);
    }

    #[test]
    fn a_falling_scale_is_told() {
        let mut watch = Watch::new(HealthConfig::default(), 10);
        for (step, gamma) in [(1, 0.030), (10, 0.010), (11, 0.010), (12, 0.020), (13, 0.0195)] {
            assert!(watch.check(step, &layer(0.3, gamma, 0.01)).is_empty(), "{step}");
        }
        assert!(watch.check(14, &layer(0.3, 0.018, 0.01))[0].contains("fallen by 10.0%"));
    }

    #[test]
    fn flips_count_after_warmup_only() {
        let mut watch = Watch::new(HealthConfig::default(), 10);
        assert!(watch.check(10, &layer(0.3, 0.01, 0.5)).is_empty());
        assert!(watch.check(11, &layer(0.3, 0.01, 0.5))[0].contains("50.0% of the weights flipped"));
    }
}
