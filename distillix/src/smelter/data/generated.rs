//! Sources that make their examples when they are asked for.

use super::shard::Split;

/// A prompt, and the response that is trained on. They follow each other with nothing between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What is given.
    pub prompt: String,
    /// What is to be learned.
    pub response: String,
}

/// An endless source of examples.
pub trait ExampleGenerator: Send + Sync {
    /// Example `index` of a split: a function of its arguments alone. The validation split has no example of the
    /// training split, and should not depend on the run's seed.
    fn example(&self, split: Split, index: u64) -> Example;
}
