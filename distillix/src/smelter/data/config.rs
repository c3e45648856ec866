//! The `data` section of a config.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Where examples come from. Without any, the built-in curriculum.
    pub sources: Vec<SourceConfig>,
    /// A `tokenizer.json` or a folder that holds one; `null` for that of `--init` or the teacher, else the built-in
    /// curriculum's.
    pub tokenizer: Option<PathBuf>,
    /// What the built-in curriculum writes.
    pub builtin: super::builtin::Options,
    /// Share of plain documents that are turned into fill-in-the-middle form, half of them prefix-suffix-middle and
    /// half suffix-prefix-middle. Prompt/response documents are never; those with `fim_spans` get one of their response beside
    /// them.
    pub fim_rate: f64,
    /// Jinja template that renders `messages` and `prompt`/`response` lines, in the form of Hugging Face chat templates.
    /// It sees `messages`, `bos_token`, `eos_token`, `add_generation_prompt`, and `prompt` and `response` where a
    /// line has them.
    pub template: String,
    /// Share of documents, chosen by their hash, that are held out for validation.
    pub validation_fraction: f64,
    /// At most this many rows are evaluated in one validation.
    pub validation_rows: usize,
    /// Where tokenized shards are kept; `null` for `distillix` in the user's cache folder.
    pub cache_dir: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            sources: vec![SourceConfig::default()],
            tokenizer: None,
            builtin: super::builtin::Options::default(),
            fim_rate: 0.5,
            template: super::template::DEFAULT.to_owned(),
            validation_fraction: 0.01,
            validation_rows: 64,
            cache_dir: None,
        }
    }
}

/// One source of documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// What the source is.
    pub kind: SourceKind,
    /// A file or folder; none for the built-in curriculum.
    pub path: Option<PathBuf>,
    /// Share of the training rows, relative to the other sources' weights.
    pub weight: f64,
    /// Languages to take from a folder of code (`python`, `rust`, …); empty for all that are known.
    pub languages: Vec<String>,
    /// Smaller files of code are left out, in bytes.
    pub min_file_bytes: u64,
    /// Larger files of code are left out, in bytes.
    pub max_file_bytes: u64,
    /// Train on lines too whose `checks` say that `foundry` would drop them: code that failed its tests, truncated answers, …
    pub keep_failed: bool,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            kind: SourceKind::Auto,
            path: None,
            weight: 1.0,
            languages: Vec::new(),
            min_file_bytes: 32,
            max_file_bytes: 500_000,
            keep_failed: false,
        }
    }
}

/// Kinds of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Without a path the built-in curriculum; a file is JSONL, a folder is code.
    #[default]
    Auto,
    /// The built-in curriculum of small Python functions.
    Builtin,
    /// A JSONL file, or a folder of them: `text`, `messages`, or `prompt` and `response` a line; `.gz` and `.zst` too.
    Jsonl,
    /// A folder of source code.
    Code,
}

impl SourceConfig {
    /// A source that reads `path`.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// The kind, decided by the path where it is `auto`; never [`SourceKind::Auto`].
    pub fn resolved_kind(&self) -> SourceKind {
        match (self.kind, &self.path) {
            (SourceKind::Auto, None) => SourceKind::Builtin,
            (SourceKind::Auto, Some(path)) if super::jsonl::is_folder_of_jsonl(path) => SourceKind::Jsonl,
            (SourceKind::Auto, Some(path)) if path.is_dir() => SourceKind::Code,
            (SourceKind::Auto, Some(_)) => SourceKind::Jsonl,
            (kind, _) => kind,
        }
    }

    /// How messages call the source.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "builtin".to_owned(), |path| path.display().to_string())
    }

    /// The path of a source that reads files.
    ///
    /// # Errors
    /// When there is none.
    pub fn required_path(&self) -> Result<&Path> {
        self.path.as_deref().with_context(|| format!("a data source of kind {:?} needs a `path`", self.kind))
    }
}

impl DataConfig {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.sources.is_empty(), "data.sources is empty: name at least one source");
        ensure!(
            (0.0..=1.0).contains(&self.fim_rate),
            "data.fim_rate is {}, it must be from 0 to 1",
            self.fim_rate
        );
        ensure!(
            (0.0..1.0).contains(&self.validation_fraction),
            "data.validation_fraction is {}, it must be from 0 to below 1",
            self.validation_fraction
        );
        for (index, source) in self.sources.iter().enumerate() {
            let key = format!("data.sources[{index}]");
            ensure!(
                source.weight.is_finite() && source.weight > 0.0,
                "{key}.weight is {}, it must be above 0",
                source.weight
            );
            match source.resolved_kind() {
                SourceKind::Builtin if source.path.is_some() => {
                    bail!("{key} is of kind builtin, which takes no `path`")
                }
                SourceKind::Builtin => {}
                _ => {
                    let path = source.required_path()?;
                    ensure!(path.exists(), "{key}.path: there is no {}", path.display());
                }
            }
            super::code::extensions(&source.languages).with_context(|| format!("{key}.languages"))?;
        }
        super::template::Template::new(&self.template).context("data.template")?;
        Ok(())
    }

    /// The folder for tokenized shards.
    ///
    /// # Errors
    /// When none is set and the environment names no home.
    pub fn cache_folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.cache_dir {
            return Ok(folder.clone());
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .or_else(|| set("LOCALAPPDATA"))
            .context("there is no HOME to keep tokenized data in: set data.cache_dir")?;
        Ok(base.join("distillix").join("shards"))
    }
}
