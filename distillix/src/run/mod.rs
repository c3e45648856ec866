//! Running a trained model: loading a run folder, choosing tokens, and generating text.

mod inspect;
mod load;
mod prompt;
mod sampler;
mod session;

pub use inspect::{Inspection, Weight, inspect};
pub use load::RunModel;
pub use prompt::{Prompt, PromptText};
pub use sampler::{Sampler, Sampling};
pub use session::{Completion, Finish, Generation, Session};
