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

/// A hash of the teacher's weights and dimensions, if there is one.
pub fn hash(config: &DistillationConfig) -> Result<Option<String>> {
    let Some(name) = config.teacher.as_deref() else { return Ok(None) };
    let mut hasher = blake3::Hasher::new();
    if name == EMBEDDED {
        hasher.update(CONFIG.as_bytes()).update(WEIGHTS);
    } else {
        let folder = Path::new(name);
        let model = Config::default().with_file(&folder.join("config.json"))?.model;
        hasher.update(serde_json::to_string(&model)?.as_bytes());
        let weights = folder.join("model.safetensors");
        std::fs::File::open(&weights)
            .and_then(|file| hasher.update_reader(file).map(drop))
            .with_context(|| format!("cannot read {}", weights.display()))?;
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

/// The tokenizer of the built-in curriculum.
pub fn embedded_tokenizer() -> Result<Tokenizer> {
    Tokenizer::from_bytes(builtin::TOKENIZER_JSON.as_bytes(), None).context("the embedded tokenizer")
}
