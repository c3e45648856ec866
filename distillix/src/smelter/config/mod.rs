//! The config of a run: one JSON object with the sections `model`, `training`, `distillation`, `data` and `foundry`.
//!
//! A config is put together from a preset, a file that changes some of its keys, and single settings
//! (`training.steps=100`). A run folder's `config.json` has every key.

mod distillation;
mod presets;
mod read;
mod training;

pub use distillation::{DistillationConfig, RelationConfig};
pub use presets::{PRESETS, Preset};
pub use read::{ReadError, read, suggestion};
pub use training::{HealthConfig, TrainingConfig};

use super::data::DataConfig;
use crate::foundry::config::FoundryConfig;
use anyhow::{Context, Result, anyhow, ensure};
use nn::model::ModelConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Everything that decides a run. The default is the 125m preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Dimensions and switches of the model.
    pub model: ModelConfig,
    /// How to train.
    pub training: TrainingConfig,
    /// What to learn from a teacher.
    pub distillation: DistillationConfig,
    /// What to train on.
    pub data: DataConfig,
    /// How to make data from teachers.
    pub foundry: FoundryConfig,
}

impl Config {
    /// The preset `name`.
    ///
    /// # Errors
    /// Names the presets that exist.
    pub fn preset(name: &str) -> Result<Self> {
        let preset = PRESETS.iter().find(|preset| preset.name == name);
        let names = PRESETS.map(|preset| preset.name);
        let preset = preset
            .ok_or_else(|| anyhow!("there is no preset {name:?}: the presets are {}", names.join(", ")))?;
        Ok(preset.config())
    }

    /// This config with the keys that a JSON object gives. `origin` names it in errors. Ranges are not checked.
    ///
    /// # Errors
    /// When it is not JSON, or has a key or a value that a config has not.
    pub fn with_json(&self, text: &str, origin: &str) -> Result<Self> {
        let changes: Value = serde_json::from_str(text).with_context(|| format!("{origin} is not JSON"))?;
        ensure!(changes.is_object(), "{origin} is no JSON object with the sections of a config");
        self.with(changes).with_context(|| origin.to_owned())
    }

    /// This config with the keys that a JSON file gives. Ranges are not checked.
    ///
    /// # Errors
    /// As [`Config::with_json`], and when the file cannot be read.
    pub fn with_file(&self, path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        self.with_json(&text, &name)
    }

    /// This config with one key changed: `training.steps=100`. A value that is not JSON is a string. Ranges are
    /// not checked.
    ///
    /// # Errors
    /// When there is no `=`, or a config has not the key or not such a value.
    pub fn with_setting(&self, setting: &str) -> Result<Self> {
        let (key, value) = setting.split_once('=').with_context(|| {
            format!("{setting:?} is no setting: write key=value, as in training.steps=100")
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        let nest = |value, part: &str| Value::Object(Map::from_iter([(part.to_owned(), value)]));
        let changes = key.trim().split('.').rev().fold(value, nest);
        self.with(changes).with_context(|| format!("the setting {setting}"))
    }

    fn with(&self, changes: Value) -> Result<Self> {
        let mut value = serde_json::to_value(self)?;
        merge(&mut value, changes);
        Ok(read(value)?)
    }

    /// The whole config as indented JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Keys whose values differ between two configs, as `training.steps: 100 against 200`.
    pub fn differences(&self, other: &Config) -> Result<Vec<String>> {
        let mut found = Vec::new();
        differences("", &serde_json::to_value(self)?, &serde_json::to_value(other)?, &mut found);
        Ok(found)
    }

    /// Checks ranges and combinations of all sections.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.training.validate()?;
        self.distillation.validate(self.model.layers)?;
        self.data.validate()?;
        self.foundry.validate()?;
        ensure!(
            self.training.seq_len <= self.model.max_seq,
            "training.seq_len is {}, it must be at most model.max_seq {}",
            self.training.seq_len,
            self.model.max_seq
        );
        Ok(())
    }
}

/// Puts `changes` over `base`, key by key. An object whose `kind` changes replaces the old one, since the other
/// keys belong to the old kind.
fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes))
            if changes.get("kind").is_none_or(|kind| base.get("kind") == Some(kind)) =>
        {
            for (key, change) in changes {
                match base.get_mut(&key) {
                    Some(old) => merge(old, change),
                    None => {
                        base.insert(key, change);
                    }
                }
            }
        }
        (base, changes) => *base = changes,
    }
}

/// Places where two JSON values differ, as `training.steps: 100 against 200`.
pub(crate) fn differences(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(
                    &path,
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (a, b) if a != b => found.push(format!("{path}: {a} against {b}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::losses::{Jsd, Loss};

    #[test]
    fn presets_survive_json_and_are_valid() -> Result<()> {
        for preset in PRESETS {
            let config = preset.config();
            config.validate()?;
            let json = config.to_json()?;
            assert_eq!(Config::default().with_json(&json, "it")?, config, "{}", preset.name);
            assert_eq!(Config::preset(preset.name)?, config);
        }
        assert!(Config::preset("7b").unwrap_err().to_string().contains("tiny, 50m, 125m, 300m"));
        Ok(())
    }

    #[test]
    fn sizes_are_what_the_names_say() {
        let millions = PRESETS.map(|preset| preset.config().model.parameters() as f64 / 1e6);
        assert!(millions[0] < 2.0, "{millions:?}");
        assert!((45.0..55.0).contains(&millions[1]), "{millions:?}");
        // 125m counts the output head, which is tied to the embedding.
        let head = 32_064.0 * 768.0 / 1e6;
        assert!((120.0..130.0).contains(&(millions[2] + head)), "{millions:?}");
        assert!((285.0..315.0).contains(&millions[3]), "{millions:?}");
    }

    fn error(result: Result<Config>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[track_caller]
    fn assert_has(message: String, part: &str) {
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let config = Config::default();
        assert_eq!(
            error(config.with_json(r#"{"training": {"muon_lrr": 1}}"#, "a.json")),
            "a.json: training.muon_lrr: there is no such key, did you mean muon_lr?"
        );
        let set = |setting| error(config.with_setting(setting));
        assert_has(set("trainin.steps=1"), "trainin: there is no such key, did you mean training?");
        assert_has(set("model.head_dims=1"), "model.head_dims: there is no such key, did you mean head_dim?");
        assert_has(
            set("distillation.loss.temprature=1"),
            "loss.temprature: there is no such key, did you mean temperature?",
        );
        assert_has(
            set("data.sources=[{},{\"wight\":1}]"),
            "data.sources[1].wight: there is no such key, did you mean weight?",
        );
        assert_has(set("training.health.gamma=1"), "did you mean min_gamma?");
        assert_has(set("training.zzzzzz=1"), "it is one of steps, batch_size,");
    }

    #[test]
    fn wrong_values_name_the_key() {
        let set = |setting| error(Config::default().with_setting(setting));
        assert_has(set("training.steps=many"), ": training.steps: invalid type");
        assert_has(set("training.steps=-1"), ": training.steps: invalid value");
        assert_has(set("training.adamw_betas=[0.9]"), ": training.adamw_betas: invalid length 1");
        assert_has(set("training.adamw_betas=[0.9, \"x\"]"), ": training.adamw_betas[1]: invalid type");
        assert_has(
            set("distillation.loss.kind=forward_kd"),
            "distillation.loss.kind: \"forward_kd\" is not known, did you mean forward_kl?",
        );
        assert_has(set("model.linear=dence"), "model.linear: \"dence\" is not known, did you mean dense?");
        assert_has(set("model.linear=3"), "model.linear: it must be one of ternary, dense");
        assert_has(set("training"), "write key=value");
    }

    #[test]
    fn settings_change_one_key() -> Result<()> {
        let base = Config::default();
        let changed = base.with_setting("training.muon_lr=1")?.with_setting("distillation.teacher=runs/a")?;
        assert_eq!(changed.training.muon_lr, 1.0);
        assert_eq!(changed.distillation.teacher.as_deref(), Some("runs/a"));
        let found = base.differences(&changed)?;
        assert_eq!(
            found,
            ["training.muon_lr: 0.02 against 1.0", "distillation.teacher: null against \"runs/a\""]
        );
        // Another kind of loss brings its own defaults; the same kind keeps what was set.
        let jsd = base.with_setting("distillation.loss.kind=jsd")?;
        assert_eq!(jsd.distillation.loss, Loss::Jsd(Jsd::default()));
        let jsd = jsd.with_setting("distillation.loss.beta=0.25")?;
        let jsd = jsd.with_setting("distillation.loss={\"kind\":\"jsd\",\"temperature\":3}")?;
        assert_eq!(jsd.distillation.loss, Loss::Jsd(Jsd { beta: 0.25, temperature: 3.0 }));
        let relation = base.with_setting("distillation.relation.heads=2")?.distillation.relation;
        assert_eq!(relation, Some(RelationConfig { heads: 2, ..RelationConfig::default() }));
        Ok(())
    }

    #[test]
    fn ranges_and_combinations_are_checked() {
        for (setting, key) in [
            ("model.kv_heads=5", "model.heads is 12 and model.kv_heads 5"),
            ("training.micro_batch=3", "training.micro_batch is 3, it must divide training.batch_size 32"),
            ("training.seq_len=4096", "training.seq_len is 4096"),
            ("training.clip_norm=-1", "training.clip_norm is -1"),
            ("distillation.alpha=2", "distillation.alpha is 2"),
            ("distillation.loss.temperature=0", "distillation.loss.temperature is 0"),
            ("distillation.relation.layer=12", "distillation.relation.layer is 12"),
            ("data.fim_rate=1.5", "data.fim_rate is 1.5"),
        ] {
            let config = Config::default().with_setting(setting).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{setting}: {message}");
        }
    }
}
