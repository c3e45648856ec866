//! The teacher of a run: another run's model, or the one inside the program.

use super::config::{Config, DistillationConfig};
use super::data::builtin;
use crate::run::RunModel;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result};
use nn::model::Student;
use std::path::Path;
use tensor::Device;
use tensor::io::SafeTensors;

/// Name of the teacher inside the program.
pub const EMBEDDED: &str = "embedded";

/// Weights of the embedded teacher in bf16, and its config; see `scripts/make_teacher.sh`.
const WEIGHTS: &[u8] = include_bytes!("teacher/model.safetensors");
const CONFIG: &str = include_str!("teacher/config.json");

/// The teacher that the config names, if any.
pub fn load(config: &DistillationConfig, device: &Device) -> Result<Option<RunModel>> {
    match config.teacher.as_deref() {
        None => Ok(None),
        Some(name) => model(Path::new(name), device).map(Some).context("the teacher"),
    }
}

/// The model of a run folder, or the one inside the program if `path` is [`EMBEDDED`].
pub fn model(path: &Path, device: &Device) -> Result<RunModel> {
    if path == Path::new(EMBEDDED) {
        return embedded(device).context("the embedded model");
    }
    RunModel::load(path, device)
}

fn embedded(device: &Device) -> Result<RunModel> {
    let config = Config::default().with_json(CONFIG, "config.json")?;
    let tokenizer = embedded_tokenizer()?;
    let mut student = Student::new(config.model.clone(), tokenizer.len(), device, |_, _, _| Ok(()))?;
    let file = SafeTensors::from_bytes(WEIGHTS)?;
    student.params_mut().load(|name| file.info(name).map(|_| file.tensor(name)).transpose())?;
    Ok(RunModel { config, tokenizer, student, template: None })
}

/// The tokenizer of the built-in curriculum.
pub fn embedded_tokenizer() -> Result<Tokenizer> {
    Tokenizer::from_bytes(builtin::TOKENIZER_JSON.as_bytes(), None).context("the embedded tokenizer")
}
