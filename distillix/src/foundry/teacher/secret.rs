//! Keys and passwords.

use crate::foundry::config::TeacherConfig;
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use std::fmt;

/// Bytes of the shortest key that is worth keeping.
const SHORTEST: usize = 8;

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// The key of a teacher: from its `key_file`, else from the variable `key_env`, else from `variable` if that is set.
    ///
    /// # Errors
    /// When the file cannot be read or the variable that the config names is not set.
    pub fn of(config: &TeacherConfig, variable: Option<&str>) -> Result<Option<Secret>> {
        let text = if let Some(path) = &config.key_file {
            let path = path.display();
            std::fs::read_to_string(path.to_string())
                .with_context(|| format!("cannot read the key in {path}"))?
        } else if let Some(name) = &config.key_env {
            std::env::var(name).with_context(|| {
                format!("the key of {} should be in the environment variable {name}", config.name())
            })?
        } else {
            match variable.and_then(|name| std::env::var(name).ok()) {
                Some(text) => text,
                None => return Ok(None),
            }
        };
        let text = text.trim();
        ensure!(!text.is_empty(), "the key of {} is empty", config.name());
        ensure!(
            text.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "the key of {} has characters that no key has",
            config.name()
        );
        Ok(Some(Secret(text.to_owned())))
    }

    /// The text itself, for a header.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with the secret blotted out, and with what a header makes of it for `user` too. What local servers take for a key
    /// (`none`, `EMPTY`, `ollama`) is too short to be one and stays: it is part of other words.
    pub(super) fn blot(&self, text: &str, user: Option<&str>) -> String {
        if self.0.len() < SHORTEST {
            return text.to_owned();
        }
        let text = text.replace(&self.0, "***");
        match user {
            Some(user) => text.replace(&STANDARD.encode(format!("{user}:{}", self.0)), "***"),
            None => text,
        }
    }
}
