//! The `distillation` section of a config.

use anyhow::{Result, bail, ensure};
use nn::losses::{ForwardKl, Loss, RelationKl};
use serde::{Deserialize, Serialize};

/// What to learn from a teacher. The loss is `alpha · loss + (1 - alpha) · cross-entropy`, on the tokens trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillationConfig {
    /// A run folder with the same tokenizer, `embedded` for the one in the program, `null` or `none` for none.
    #[serde(deserialize_with = "teacher")]
    pub teacher: Option<String>,
    /// Whether the student starts from those of the teacher's weights that have the same name and dimensions in it;
    /// ternary matrices are rounded from them. Else from random ones.
    pub init: bool,
    /// Weight of the teacher against the data, 0 to 1.
    pub alpha: f64,
    /// How the student's distribution is compared with the teacher's.
    pub loss: Loss,
    /// Also compare attention relations; `null` for not.
    pub relation: Option<RelationConfig>,
}

fn teacher<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(Option::deserialize(value)?.filter(|name| name != "none"))
}

/// The losses against a teacher that runs along with the student.
const KINDS: &str = "forward_kl, reverse_kl, jsd, skew_forward_kl, skew_reverse_kl, tvd, uld";

impl Default for DistillationConfig {
    fn default() -> Self {
        DistillationConfig {
            teacher: None,
            init: false,
            alpha: 0.5,
            loss: ForwardKl { temperature: 2.0 }.into(),
            relation: None,
        }
    }
}

/// A comparison of attention relations between one layer of the student and one of the teacher; see [`RelationKl`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelationConfig {
    /// Weight in the whole loss.
    pub weight: f64,
    /// The student's layer, counted from 0; `null` for the last.
    pub layer: Option<usize>,
    /// The teacher's layer, counted from 0; `null` for the last.
    pub teacher_layer: Option<usize>,
    /// Number of relation heads; divides `heads · head_dim` and `kv_heads · head_dim` of both models.
    pub heads: usize,
    /// Whether a position relates to earlier ones only.
    pub causal: bool,
}

impl Default for RelationConfig {
    fn default() -> Self {
        RelationConfig { weight: 1.0, layer: None, teacher_layer: None, heads: 4, causal: true }
    }
}

impl RelationConfig {
    /// The loss, with equal weights for q, k and v.
    pub fn loss(&self) -> RelationKl {
        RelationKl { relation_heads: self.heads, causal: self.causal, weights: [self.weight; 3] }
    }
}

impl DistillationConfig {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self, layers: usize) -> Result<()> {
        ensure!(
            (0.0..=1.0).contains(&self.alpha),
            "distillation.alpha is {}, it must be from 0 to 1",
            self.alpha
        );
        let temperature = match self.loss {
            Loss::CrossEntropy(_) | Loss::Focal(_) => bail!(
                "distillation.loss compares with a teacher, which cross_entropy and focal do not; choose one of {KINDS}"
            ),
            Loss::TopKForwardKl(_) => bail!(
                "distillation.loss top_k_forward_kl needs a cache of a teacher's logits, a teacher that runs along gives \
                 all of them; choose one of {KINDS}"
            ),
            Loss::ForwardKl(loss) => loss.temperature,
            Loss::ReverseKl(loss) => loss.temperature,
            Loss::Jsd(loss) => loss.temperature,
            Loss::SkewForwardKl(loss) => loss.temperature,
            Loss::SkewReverseKl(loss) => loss.temperature,
            Loss::Tvd(loss) => loss.temperature,
            Loss::Uld(loss) => loss.temperature,
        };
        ensure!(
            temperature.is_finite() && temperature > 0.0,
            "distillation.loss.temperature is {temperature}, it must be above 0"
        );
        let unit = match self.loss {
            Loss::Jsd(loss) => Some(("beta", loss.beta)),
            Loss::SkewForwardKl(loss) => Some(("alpha", loss.alpha)),
            Loss::SkewReverseKl(loss) => Some(("alpha", loss.alpha)),
            _ => None,
        };
        if let Some((key, x)) = unit {
            ensure!((0.0..=1.0).contains(&x), "distillation.loss.{key} is {x}, it must be from 0 to 1");
        }
        if let Some(relation) = &self.relation {
            let weight = relation.weight;
            ensure!(
                weight.is_finite() && weight >= 0.0,
                "distillation.relation.weight is {weight}, it must be a number from 0 up"
            );
            ensure!(relation.heads > 0, "distillation.relation.heads is 0, it must be at least 1");
            if let Some(layer) = relation.layer {
                ensure!(
                    layer < layers,
                    "distillation.relation.layer is {layer}, but model.layers is {layers} (layers count from 0)"
                );
            }
        }
        Ok(())
    }
}
