//! What a run reads from outside of its folder: a resumed run must find it as it was.

use super::config::DistillationConfig;
use super::data::SourceReport;
use super::run_folder::{RunFolder, write_whole};
use super::teacher;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Hashes of what lies outside, as `inputs.json` holds them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The teacher's weights and dimensions.
    pub teacher: Option<String>,
    /// By source, the content of its files and how they become tokens.
    pub data: BTreeMap<String, String>,
}

impl Inputs {
    /// Those of a run that has its data open.
    ///
    /// # Errors
    /// When the teacher cannot be read.
    pub fn of(config: &DistillationConfig, reports: &[SourceReport]) -> Result<Self> {
        let data = reports.iter().filter_map(|report| Some((report.name.clone(), report.key.clone()?)));
        Ok(Inputs { teacher: teacher::hash(config)?, data: data.collect() })
    }

    /// Writes them into the folder of a run that begins.
    pub fn save(&self, run: &RunFolder) -> Result<()> {
        write_whole(&run.inputs(), serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// Compares with what a run began with.
    ///
    /// # Errors
    /// Names what has changed.
    pub fn check(&self, run: &RunFolder) -> Result<()> {
        let path = run.inputs();
        let begun =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let begun: Inputs =
            serde_json::from_str(&begun).with_context(|| format!("{} is damaged", path.display()))?;
        if begun.teacher != self.teacher {
            bail!(
                "the teacher is not the one that the run in {} began with: its weights have changed",
                run.path().display()
            );
        }
        if let Some((name, _)) = self.data.iter().find(|(name, key)| begun.data.get(*name) != Some(key)) {
            bail!("the data in {name} is not what the run in {} began with", run.path().display());
        }
        Ok(())
    }
}
