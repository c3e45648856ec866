//! Trains small ternary (1.58-bit) code models by distillation, and runs them.
//!
//! The program `distillix` is this crate's [`cli`]; the parts can be used without it:
//!
//! * [`smelter`] trains: its `data` turns text into batches, its `trainer` makes a step, its `train` a whole run with
//!   validation, checkpoints and metrics, all of it set by one [`smelter::config::Config`].
//! * [`foundry`] makes and cleans training sets.
//! * [`run`] loads the model of a run folder, completes text with it, and inspects its weights.
//! * [`tokenizer`] reads and makes Hugging Face `tokenizer.json` files.
//! * [`verify`] compares what this program computes with the dump of a reference.
//! * [`foundry`] makes training data from the answers of teachers.
//! * [`mod@bench`] times training steps.
//!
//! A run folder holds `config.json` (every key), `tokenizer.json`, `chat_template.jinja`, `model.safetensors` (f32, named as
//! in Hugging Face's Llama), `metrics.jsonl` and `checkpoints/`.
//!
//! ```no_run
//! use distillix::run::{Prompt, PromptText, RunModel, Sampling, Session};
//! use tensor::Device;
//!
//! let model = RunModel::load("runs/tiny".as_ref(), &Device::Cpu)?;
//! let context = model.student.config().max_seq;
//! let prompt = Prompt::new(PromptText::Start("def add(a, b):\n"), &model.tokenizer, context, 64)?;
//! let mut session = Session::new(&model.student, &model.tokenizer, prompt.ids.len() + 64)?;
//! let completion = session.complete(&prompt, 64, Sampling::default(), |_| {}, |_| Ok(true))?;
//! println!("{}", completion.text);
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod bench;
pub mod cli;
pub mod foundry;
pub mod run;
pub mod smelter;
pub mod tokenizer;
pub mod verify;
