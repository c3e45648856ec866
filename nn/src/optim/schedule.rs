//! Learning-rate schedule.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after warmup.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// Half a cosine over all steps after warmup (Loshchilov & Hutter 2016).
    Cosine,
    /// Constant, then linear over the last `fraction` of the steps (warmup–stable–decay, Hu et al. 2024).
    WarmupStableDecay {
        /// Share of all steps that the final fall takes, 0 to 1.
        fraction: f64,
    },
}

/// Factor of the learning rates as a function of the step alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Steps of linear growth from 0.
    pub warmup: u64,
    /// Step at which the end is reached; later steps stay there.
    pub horizon: u64,
    /// Factor at the end.
    pub end: f64,
    /// Shape of the fall.
    pub decay: Decay,
}

impl Schedule {
    /// Factor for `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let span = |from: f64| {
            let length = self.horizon as f64 - from;
            // A fall that takes no steps happens at the horizon, not before.
            let done = f64::from(u8::from(step >= self.horizon));
            if length > 0.0 { ((step as f64 - from) / length).clamp(0.0, 1.0) } else { done }
        };
        let height = match self.decay {
            Decay::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * span(self.warmup as f64)).cos(),
            Decay::WarmupStableDecay { fraction } => {
                let start = self.horizon as f64 * (1.0 - fraction);
                1.0 - span(start.max(self.warmup as f64))
            }
        };
        self.end + (1.0 - self.end) * height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_end() {
        for decay in [Decay::Cosine, Decay::WarmupStableDecay { fraction: 0.25 }] {
            let schedule = Schedule { warmup: 10, horizon: 110, end: 0.1, decay };
            assert_eq!(schedule.factor(0), 0.1);
            assert_eq!(schedule.factor(4), 0.5);
            assert_eq!(schedule.factor(10), 1.0);
            assert!((schedule.factor(110) - 0.1).abs() < 1e-12);
            assert!((schedule.factor(999) - 0.1).abs() < 1e-12);
            assert!((10..110).all(|i| schedule.factor(i + 1) <= schedule.factor(i)));
        }
        let cosine = Schedule { warmup: 0, horizon: 100, end: 0.0, decay: Decay::Cosine };
        assert!((cosine.factor(50) - 0.5).abs() < 1e-12);
        let stable = Schedule { decay: Decay::WarmupStableDecay { fraction: 0.25 }, ..cosine };
        assert_eq!((stable.factor(74), stable.factor(76) < 1.0), (1.0, true));
        let constant = Schedule { decay: Decay::WarmupStableDecay { fraction: 0.0 }, ..cosine };
        assert_eq!((constant.factor(0), constant.factor(99), constant.factor(100)), (1.0, 1.0, 0.0));
    }

    #[test]
    fn no_steps_at_all_is_the_end() {
        let schedule = Schedule { warmup: 0, horizon: 0, end: 0.1, decay: Decay::Cosine };
        assert!((schedule.factor(0) - 0.1).abs() < 1e-12);
    }
}
