//! Losses over the vocabulary, one a file, and the attention-relation loss.
//!
//! A row loss takes the student's logits `z [V]` of one position and what the teacher or the data says of it, and
//! gives the loss and its gradient. P is the teacher's distribution `softmax(y/T)`, Q the student's `softmax(z/T)`.
//! Distribution losses carry the factor T² that keeps the gradient's size (Hinton et al. 2015), except [`Uld`].

mod cross_entropy;
mod focal;
mod forward_kl;
mod jsd;
mod relation_kl;
mod reverse_kl;
mod skew_forward_kl;
mod skew_reverse_kl;
mod softmax;
mod top_k_forward_kl;
mod tvd;
mod uld;

pub use cross_entropy::CrossEntropy;
pub use focal::Focal;
pub use forward_kl::ForwardKl;
pub use jsd::Jsd;
pub use relation_kl::RelationKl;
pub use reverse_kl::ReverseKl;
pub use skew_forward_kl::SkewForwardKl;
pub use skew_reverse_kl::SkewReverseKl;
pub use top_k_forward_kl::TopKForwardKl;
pub use tvd::Tvd;
pub use uld::Uld;

use serde::{Deserialize, Serialize};
use softmax::log_softmax;
use tensor::{Error, Float, Result};

/// What a position's logits are compared with.
#[derive(Clone, Copy, Debug)]
pub enum RowTarget<'a, T> {
    /// The next token.
    Token(usize),
    /// A teacher's logits `[V]`; for [`Uld`] of any vocabulary.
    Logits(&'a [T]),
    /// A teacher's likeliest tokens and their log-probabilities over the whole vocabulary, at the loss's temperature.
    TopK {
        /// Token ids, each once.
        ids: &'a [u32],
        /// Log-probabilities, as many.
        log_probs: &'a [T],
    },
}

/// Work memory of row losses, reused from row to row.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    student: Vec<T>,
    teacher: Vec<T>,
    slope: Vec<T>,
    order: Vec<u32>,
}

/// A loss of one row of logits. Implemented by the structs of this module, one a file.
pub trait RowLoss {
    /// The loss; adds `weight · ∂loss/∂z` to `dz`.
    ///
    /// # Errors
    /// If the target is not of the kind that this loss takes.
    fn row<T: Float>(
        &self,
        z: &[T],
        target: RowTarget<'_, T>,
        weight: T,
        dz: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Result<T>;
}

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Any row loss, as a configuration names it.
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
        pub enum Loss {
            $($(#[$doc])* $name($name),)*
        }
        impl RowLoss for Loss {
            #[inline(always)]
            fn row<T: Float>(
                &self, z: &[T], target: RowTarget<'_, T>, weight: T, dz: &mut [T], scratch: &mut Scratch<T>,
            ) -> Result<T> {
                match self {
                    $(Loss::$name(loss) => loss.row(z, target, weight, dz, scratch),)*
                }
            }
        }
        $(impl From<$name> for Loss {
            fn from(loss: $name) -> Self {
                Loss::$name(loss)
            }
        })*
    };
}
losses! {
    /// Cross-entropy with label smoothing.
    CrossEntropy,
    /// Focal cross-entropy.
    Focal,
    /// KL(teacher‖student).
    ForwardKl,
    /// KL(student‖teacher).
    ReverseKl,
    /// Generalised Jensen–Shannon divergence.
    Jsd,
    /// KL(teacher‖mixture).
    SkewForwardKl,
    /// KL(student‖mixture).
    SkewReverseKl,
    /// Total variation distance.
    Tvd,
    /// Forward KL from a teacher's top k.
    TopKForwardKl,
    /// Universal logit distillation.
    Uld,
}

fn teacher_logits<'a, T>(loss: &'static str, z: &[T], target: RowTarget<'a, T>) -> Result<&'a [T]> {
    match target {
        RowTarget::Logits(y) if y.len() == z.len() => Ok(y),
        RowTarget::Logits(y) => {
            let message = format!("teacher has {} logits, student {}", y.len(), z.len());
            Err(Error::shape(loss, message))
        }
        _ => Err(Error::argument(loss, "needs a teacher's logits")),
    }
}

/// What every loss between the two distributions begins with.
struct Distributions<'a, T> {
    /// T.
    t: T,
    /// `log Q`, `[V]`.
    lq: &'a [T],
    /// `log P`, `[V]`.
    lp: &'a [T],
    /// Memory for a slope.
    slope: &'a mut Vec<T>,
}

#[inline(always)]
fn distributions<'a, T: Float>(
    loss: &'static str,
    z: &[T],
    target: RowTarget<'_, T>,
    temperature: f64,
    scratch: &'a mut Scratch<T>,
) -> Result<Distributions<'a, T>> {
    let y = teacher_logits(loss, z, target)?;
    let t = T::from_f64(temperature);
    let Scratch { student, teacher, slope, .. } = scratch;
    log_softmax(z, t, student);
    log_softmax(y, t, teacher);
    Ok(Distributions { t, lq: &student[..z.len()], lp: &teacher[..z.len()], slope })
}

fn token<T>(loss: &'static str, z: &[T], target: RowTarget<'_, T>) -> Result<usize> {
    match target {
        RowTarget::Token(id) if id < z.len() => Ok(id),
        RowTarget::Token(id) => {
            Err(Error::argument(loss, format!("target {id} in a vocabulary of {}", z.len())))
        }
        _ => Err(Error::argument(loss, "needs a target token")),
    }
}
