//! Checkpoints: everything a run needs to go on as if it had never stopped.

use super::run_folder::{RunFolder, sync_folder, write_whole};
use super::trainer::{Progress, Trainer};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tensor::io::SafeTensors;

const PREFIX: &str = "step-";
const PARTIAL: &str = ".partial-";

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// How far the run is.
    pub progress: Progress,
    /// The best validation so far.
    pub best: Option<Best>,
}

/// A validation result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps done.
    pub step: u64,
    /// Cross-entropy, nats a token.
    pub loss: f64,
}

/// Folder of the checkpoint of a step.
pub fn folder(run: &RunFolder, step: u64) -> PathBuf {
    run.checkpoints().join(format!("{PREFIX}{step:08}"))
}

/// Steps of the finished checkpoints, oldest first.
pub fn list(run: &RunFolder) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    for name in names(&run.checkpoints())? {
        steps.extend(name.strip_prefix(PREFIX).and_then(|step| step.parse::<u64>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Saves the trainer's state: beside, flushed to the disk, then renamed. Older checkpoints stay until this one is
/// whole; then all but the newest `keep` and the best go. The run's `model.safetensors` becomes this one's.
pub fn save(run: &RunFolder, trainer: &Trainer, state: &State, keep: usize) -> Result<PathBuf> {
    let step = state.progress.step;
    let target = folder(run, step);
    if target.exists() {
        return Ok(target);
    }
    let partial = run.checkpoints().join(format!("{PARTIAL}{step:08}"));
    let write = || -> Result<()> {
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        save_model(trainer, &partial.join("model.safetensors"))?;
        tensor::io::save(partial.join("optimizer.safetensors"), trainer.optimizer_state(), &BTreeMap::new())?;
        for file in [run.config(), run.tokenizer()] {
            let name = file.file_name().context("a run's file has a name")?;
            fs::copy(&file, partial.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
            fs::File::open(partial.join(name))?.sync_all()?;
        }
        write_whole(&partial.join("state.json"), serde_json::to_string_pretty(state)?.as_bytes())?;
        sync_folder(&partial)?;
        fs::rename(&partial, &target)?;
        sync_folder(&run.checkpoints())?;
        Ok(())
    };
    if let Err(error) = write() {
        let _ = fs::remove_dir_all(&partial);
        return Err(error).with_context(|| {
            format!("the checkpoint of step {step} could not be saved (earlier ones are whole)")
        });
    }
    publish(run, &target)?;
    prune(run, state, keep)?;
    Ok(target)
}

/// Writes the student's weights as Hugging Face names them.
fn save_model(trainer: &Trainer, path: &Path) -> Result<()> {
    let params = trainer.student().params();
    let tensors = params.iter().map(|p| (p.name.clone(), &p.parameter.value));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(tensor::io::save(path, tensors, &metadata)?)
}

/// Makes a checkpoint's weights the run's, without a second copy on the disk where links are possible.
pub fn publish(run: &RunFolder, checkpoint: &Path) -> Result<()> {
    let (from, to) = (checkpoint.join("model.safetensors"), run.model());
    let partial = to.with_extension("partial");
    let _ = fs::remove_file(&partial);
    if fs::hard_link(&from, &partial).is_err() {
        fs::copy(&from, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::File::open(&partial)?.sync_all()?;
    }
    fs::rename(&partial, &to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(sync_folder(run.path())?)
}

fn prune(run: &RunFolder, state: &State, keep: usize) -> Result<()> {
    let steps = list(run)?;
    let best = state.best.map(|best| best.step);
    for &step in steps.iter().rev().skip(keep).filter(|&&step| Some(step) != best) {
        remove(run, step)?;
    }
    Ok(())
}

/// Removes a checkpoint so that no moment sees half of it under its name.
fn remove(run: &RunFolder, step: u64) -> Result<()> {
    let aside = run.checkpoints().join(format!("{PARTIAL}{step:08}"));
    let _ = fs::remove_dir_all(&aside);
    fs::rename(folder(run, step), &aside)?;
    Ok(fs::remove_dir_all(&aside)?)
}

/// Removes what an interrupted save or removal left.
pub fn clean(run: &RunFolder) -> Result<()> {
    for name in names(&run.checkpoints())?.iter().filter(|name| name.starts_with(PARTIAL)) {
        let path = run.checkpoints().join(name);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Loads the newest checkpoint that is whole into the trainer. `None` if there is none. `warn` hears of broken ones.
pub fn resume(run: &RunFolder, trainer: &mut Trainer, mut warn: impl FnMut(String)) -> Result<Option<State>> {
    let steps = list(run)?;
    for &step in steps.iter().rev() {
        match load(&folder(run, step), step, trainer) {
            Ok(state) => {
                publish(run, &folder(run, step))?;
                return Ok(Some(state));
            }
            Err(error) => warn(format!("the checkpoint of step {step} cannot be used: {error:#}")),
        }
    }
    ensure!(steps.is_empty(), "no checkpoint in {} can be used", run.checkpoints().display());
    Ok(None)
}

fn load(folder: &Path, step: u64, trainer: &mut Trainer) -> Result<State> {
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let state: State =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    if state.progress.step != step {
        bail!("{} is of step {}", path.display(), state.progress.step);
    }
    let model = SafeTensors::open(folder.join("model.safetensors"))?;
    let optimizer = SafeTensors::open(folder.join("optimizer.safetensors"))?;
    let get = |file: &SafeTensors, name: &str| file.info(name).map(|_| file.tensor(name)).transpose();
    trainer.restore(state.progress, |name| get(&model, name), |name| get(&optimizer, name))?;
    Ok(state)
}
