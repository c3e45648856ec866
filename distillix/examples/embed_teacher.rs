//! Writes a run's model as the teacher that the program embeds: `embed_teacher RUN FOLDER`. Weights become bf16.

use anyhow::{Context, Result};
use distillix::run::RunModel;
use std::collections::BTreeMap;
use std::path::Path;
use tensor::{DType, Device};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (run, folder) = args.next().zip(args.next()).context("usage: embed_teacher RUN FOLDER")?;
    let model = RunModel::load(Path::new(&run), &Device::Cpu)?;
    let params = model.student.params();
    let weights = params
        .iter()
        .map(|param| Ok((param.name.clone(), param.parameter.value.to_dtype(DType::BF16)?)))
        .collect::<Result<Vec<_>>>()?;
    let folder = Path::new(&folder);
    let tensors = weights.iter().map(|(name, tensor)| (name.clone(), tensor));
    tensor::io::save(folder.join("model.safetensors"), tensors, &BTreeMap::new())?;
    std::fs::write(folder.join("config.json"), model.config.to_json()? + "\n")?;
    Ok(())
}
