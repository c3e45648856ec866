//! Checkpoints: everything a run needs to go on as if it had never stopped.

use super::config::Config;
use super::run_folder::{RunFolder, file_hash, sync_folder, write_whole};
use super::trainer::{Progress, Trainer};
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tensor::Device;
use tensor::io::SafeTensors;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// BLAKE3 hashes of the three files above, by name: what a disk has changed is not trained on.
const CHECKSUMS: &str = "checksums.json";
const PREFIX: &str = "step-";
const PARTIAL: &str = ".partial-";
const REPLACED: &str = ".replaced-";
const BROKEN: &str = "broken-";

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// How far the run is.
    pub progress: Progress,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Whether a validation was due at this step and left out to stop sooner; it comes first when the run goes on.
    #[serde(default)]
    pub validation_due: bool,
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
/// whole; then all but the newest `training.keep_checkpoints` and the best go. The run's `model.safetensors` becomes
/// this one's.
///
/// # Errors
/// If a weight is not finite or something cannot be written; what was saved before is then as it was.
pub fn save(run: &RunFolder, config: &Config, trainer: &Trainer, state: &State) -> Result<PathBuf> {
    let step = state.progress.step;
    let target = folder(run, step);
    let partial = run.checkpoints().join(format!("{PARTIAL}{step:08}"));
    let write = || -> Result<()> {
        check_finite(trainer)?;
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        save_model(trainer, &partial.join(MODEL))?;
        tensor::io::save(partial.join(OPTIMIZER), trainer.optimizer_state(), &BTreeMap::new())?;
        write_whole(&partial.join("config.json"), config.to_json()?.as_bytes())?;
        let tokenizer = run.tokenizer();
        let content = fs::read(&tokenizer).with_context(|| format!("cannot read {}", tokenizer.display()))?;
        write_whole(&partial.join("tokenizer.json"), &content)?;
        write_whole(&partial.join(STATE), serde_json::to_string_pretty(state)?.as_bytes())?;
        write_whole(
            &partial.join(CHECKSUMS),
            serde_json::to_string_pretty(&checksums(&partial)?)?.as_bytes(),
        )?;
        let replaced = run.checkpoints().join(format!("{REPLACED}{step:08}"));
        if target.exists() {
            fs::rename(&target, &replaced)?;
        }
        fs::rename(&partial, &target)?;
        sync_folder(&run.checkpoints())?;
        if replaced.exists() {
            fs::remove_dir_all(&replaced)?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        let _ = fs::remove_dir_all(&partial);
        return Err(error).with_context(|| {
            format!("the checkpoint of step {step} could not be saved (earlier ones are whole)")
        });
    }
    publish(run, &target)?;
    prune(run, state, config.training.keep_checkpoints)?;
    Ok(target)
}

/// Hashes of the files that a resumed run reads.
fn checksums(folder: &Path) -> Result<BTreeMap<String, String>> {
    [MODEL, OPTIMIZER, STATE]
        .into_par_iter()
        .map(|name| {
            let path = folder.join(name);
            let hash = file_hash(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((name.to_owned(), hash))
        })
        .collect()
}

/// An update from finite gradients can still overflow where rates are absurd; such weights must not replace good ones.
fn check_finite(trainer: &Trainer) -> Result<()> {
    for param in trainer.student().params().iter() {
        let value = param.parameter.value.to_device(&Device::Cpu)?;
        let finite = value.as_slice::<f32>()?.iter().all(|x| x.is_finite());
        ensure!(finite, "{} has overflowed: lower the learning rates", param.name);
    }
    Ok(())
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
    let (from, to) = (checkpoint.join(MODEL), run.model());
    let partial = to.with_extension("partial");
    let _ = fs::remove_file(&partial);
    if fs::hard_link(&from, &partial).is_err() {
        fs::copy(&from, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::File::open(&partial)?.sync_all()?;
    }
    fs::rename(&partial, &to).with_context(|| format!("cannot write {}", to.display()))?;
    // Where both names are the same file already, a rename does nothing.
    let _ = fs::remove_file(&partial);
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

/// Prepares a folder without a config for a run's first step: what a start that did not get that far has left goes.
///
/// # Errors
/// If there are checkpoints of later steps, which must belong to a run that has lost its config.
pub fn begin(run: &RunFolder) -> Result<()> {
    clean(run)?;
    let steps = list(run)?;
    ensure!(
        steps.iter().all(|&step| step == 0),
        "{} has checkpoints but no config.json: copy that of a checkpoint and use --resume, or choose another --out",
        run.path().display()
    );
    steps.iter().try_for_each(|&step| remove(run, step))
}

/// Removes what an interrupted save or removal left.
fn clean(run: &RunFolder) -> Result<()> {
    for name in names(&run.checkpoints())? {
        let path = run.checkpoints().join(&name);
        let context = || format!("cannot clear {}", path.display());
        if let Some(step) = name.strip_prefix(REPLACED) {
            let target = run.checkpoints().join(format!("{PREFIX}{step}"));
            if target.exists() {
                fs::remove_dir_all(&path).with_context(context)?;
            } else {
                fs::rename(&path, &target).with_context(context)?;
            }
        } else if name.starts_with(PARTIAL) {
            fs::remove_dir_all(&path).with_context(context)?;
        }
    }
    Ok(())
}

/// Loads the newest checkpoint that is whole into the trainer. `None` if there is none. `warn` hears of broken newer
/// ones, which are renamed, so that they neither count as kept nor stand where new ones will be.
pub fn resume(run: &RunFolder, trainer: &mut Trainer, mut warn: impl FnMut(String)) -> Result<Option<State>> {
    clean(run)?;
    let steps = list(run)?;
    for &step in steps.iter().rev() {
        match load(&folder(run, step), step, trainer) {
            Ok(state) => {
                for &newer in steps.iter().filter(|&&newer| newer > step) {
                    let aside = run.checkpoints().join(format!("{BROKEN}{newer:08}"));
                    let _ = fs::remove_dir_all(&aside);
                    fs::rename(folder(run, newer), &aside)
                        .with_context(|| format!("cannot rename to {}", aside.display()))?;
                }
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
    let path = folder.join(CHECKSUMS);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let saved: BTreeMap<String, String> =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let found = checksums(folder)?;
    if let Some(name) = found.keys().find(|&name| saved.get(name) != found.get(name)) {
        bail!("{} is damaged: it is not what was saved", folder.join(name).display());
    }
    let path = folder.join(STATE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let state: State =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    if state.progress.step != step {
        bail!("{} is of step {}", path.display(), state.progress.step);
    }
    let model = SafeTensors::open(folder.join(MODEL))?;
    let optimizer = SafeTensors::open(folder.join(OPTIMIZER))?;
    let get = |file: &SafeTensors, name: &str| file.info(name).map(|_| file.tensor(name)).transpose();
    trainer.restore(state.progress, |name| get(&model, name), |name| get(&optimizer, name))?;
    Ok(state)
}
