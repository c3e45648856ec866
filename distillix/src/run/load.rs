//! Reading a run folder: config, tokenizer, weights, chat template.

use crate::smelter::config::Config;
use crate::smelter::data::Template;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use nn::model::{ModelConfig, Student};
use std::io::ErrorKind;
use std::path::Path;
use tensor::io::SafeTensors;
use tensor::{DType, Device};

/// Longest context that memory is taken for.
const MAX_CONTEXT: usize = 1 << 20;

/// A model as a run folder holds it.
pub struct RunModel {
    /// The run's config.
    pub config: Config,
    /// The tokenizer that the model was trained with.
    pub tokenizer: Tokenizer,
    /// The model.
    pub student: Student,
    /// The template that renders conversations, if the folder has one.
    pub template: Option<Template>,
}

impl RunModel {
    /// Loads the model of the run folder `path`: `config.json`, `tokenizer.json`, `model.safetensors`, and
    /// `chat_template.jinja` if there is one. All that the files say is checked before memory is taken for it.
    ///
    /// # Errors
    /// When a file is missing or damaged, or they do not belong together.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::read(path, device).with_context(|| format!("cannot load the model {}", path.display()))
    }

    fn read(path: &Path, device: &Device) -> Result<Self> {
        ensure!(path.exists(), "there is no such folder");
        ensure!(path.is_dir(), "it is a file; name the folder of a run, which holds config.json");
        for (name, what) in [
            ("config.json", "it is not the folder of a run"),
            ("tokenizer.json", "a model needs its tokenizer"),
            ("model.safetensors", "the run has saved no weights yet"),
        ] {
            ensure!(path.join(name).is_file(), "there is no {name} in it: {what}");
        }
        let config = Config::default().with_file(&path.join("config.json"))?;
        let tokenizer = Tokenizer::load(path)?;
        let vocab = vocabulary(&tokenizer, &config.model)?;
        let student = load_weights(&config.model, vocab, &path.join("model.safetensors"), device)?;
        let template_file = path.join("chat_template.jinja");
        let template = match std::fs::read_to_string(&template_file) {
            Ok(text) => {
                let name = || template_file.display().to_string();
                Some(Template::new(&text).with_context(name)?)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", template_file.display()));
            }
        };
        Ok(RunModel { config, tokenizer, student, template })
    }
}

/// Tokens of the model: all of the tokenizer's that fit, which must be all that its file has.
fn vocabulary(tokenizer: &Tokenizer, model: &ModelConfig) -> Result<usize> {
    let (len, own) = (tokenizer.len(), tokenizer.own_len());
    ensure!(
        own <= model.vocab_size,
        "the tokenizer has {own} tokens, more than model.vocab_size {}: it is not this model's tokenizer",
        model.vocab_size
    );
    Ok(if len <= model.vocab_size { len } else { own })
}

/// A model with the weights of a safetensors file, under the names of Hugging Face's Llama.
///
/// # Errors
/// When the file is damaged, has other tensors than the model, or a weight that is not finite.
fn load_weights(config: &ModelConfig, vocab: usize, path: &Path, device: &Device) -> Result<Student> {
    let name = path.display();
    let file = SafeTensors::open(path)?;
    config.validate()?;
    // Before anything grows with what the config says.
    ensure!(
        config.layers <= file.tensors().len(),
        "{name} has {} tensors, too few for model.layers {}",
        file.tensors().len(),
        config.layers
    );
    ensure!(
        config.max_seq <= MAX_CONTEXT,
        "model.max_seq is {}, at most {MAX_CONTEXT} can be used",
        config.max_seq
    );
    let specs = Student::specs(config)?;
    for spec in &specs {
        let Some(info) = file.info(&spec.name) else {
            bail!("{name} has no tensor {}, which the model of config.json needs", spec.name);
        };
        ensure!(
            info.dims == spec.dims,
            "tensor {} of {name} has dims {:?}, the model of config.json needs {:?}",
            spec.name,
            info.dims,
            spec.dims
        );
        ensure!(
            matches!(info.dtype, Some(DType::F32 | DType::BF16 | DType::F16 | DType::F64)),
            "tensor {} of {name} does not hold floating-point numbers",
            spec.name
        );
    }
    if file.tensors().len() > specs.len() {
        let known: std::collections::HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        if let Some(extra) = file.tensors().iter().find(|tensor| !known.contains(tensor.name.as_str())) {
            bail!("{name} has a tensor {}, which the model of config.json has not", extra.name);
        }
    }
    let mut student = Student::new(config.clone(), vocab, device, |_, _, value| value.fill(0.0))?;
    student.params_mut().load(|tensor| file.tensor(tensor).map(Some)).with_context(|| name.to_string())?;
    Ok(student)
}
