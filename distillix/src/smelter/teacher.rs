//! The teacher of a run: another run's model, or the one inside the program.

use super::config::{Config, DistillationConfig};
use super::train::{EMBEDDED, embedded_tokenizer};
use crate::run::{LoadedModel, load_model};
use anyhow::{Context, Result};
use nn::model::Student;
use std::path::Path;
use tensor::Device;
use tensor::io::SafeTensors;

/// Weights of the embedded teacher in bf16, and its config; see `scripts/make_teacher.sh`.
const WEIGHTS: &[u8] = include_bytes!("teacher/model.safetensors");
const CONFIG: &str = include_str!("teacher/config.json");

/// The teacher that the config names, if any.
pub fn load(config: &DistillationConfig) -> Result<Option<LoadedModel>> {
    match config.teacher.as_deref() {
        None => Ok(None),
        Some(EMBEDDED) => embedded().map(Some).context("the embedded teacher"),
        Some(path) => load_model(Path::new(path)).map(Some).with_context(|| format!("the teacher {path}")),
    }
}

fn embedded() -> Result<LoadedModel> {
    let config = Config::default().with_json(CONFIG, "config.json")?;
    let tokenizer = embedded_tokenizer()?;
    let mut model = Student::new(config.model, tokenizer.len(), &Device::Cpu, |_, _, _| Ok(()))?;
    let file = SafeTensors::from_bytes(WEIGHTS)?;
    model.params_mut().load(|name| file.info(name).map(|_| file.tensor(name)).transpose())?;
    Ok(LoadedModel { model, tokenizer, template: None })
}
