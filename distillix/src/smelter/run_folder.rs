//! The folder of a run: what lies where, and who may write.

use super::config::Config;
use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A run's folder, locked for this process until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    is_new: bool,
    _lock: File,
}

impl Drop for RunFolder {
    /// Removes a folder of our making in which no run has begun, so that a mistyped command leaves nothing.
    fn drop(&mut self) {
        let only_lock = || -> std::io::Result<bool> {
            let mut entries = std::fs::read_dir(&self.path)?;
            Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)))
        };
        if self.is_new && only_lock().unwrap_or(false) {
            let _ = std::fs::remove_file(self.path.join(LOCK));
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

const LOCK: &str = ".lock";

impl RunFolder {
    /// Creates the folder if need be, and locks it.
    ///
    /// # Errors
    /// If another process trains in it, or it cannot be written.
    pub fn lock(path: &Path) -> Result<Self> {
        let is_new = !path.exists();
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot create the folder {}", path.display()))?;
        let lock_path = path.join(LOCK);
        let lock =
            File::create(&lock_path).with_context(|| format!("cannot write {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunFolder { path: path.to_owned(), is_new, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another process is training in {}: wait for it, or choose another --out",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", lock_path.display()))
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The config, with every key.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// How its steps run on the device.
    pub fn plan(&self) -> PathBuf {
        self.path.join("plan.json")
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// The template that renders conversations.
    pub fn chat_template(&self) -> PathBuf {
        self.path.join("chat_template.jinja")
    }

    /// The newest weights.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// What the run reads from outside; see [`super::inputs`].
    pub fn inputs(&self) -> PathBuf {
        self.path.join("inputs.json")
    }

    /// One JSON line every few steps.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// One folder a checkpoint.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The config of a run that has begun here.
    pub fn saved_config(&self) -> Result<Option<Config>> {
        let path = self.config();
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Config::default().with_file(&path)?))
    }
}

/// Writes a file aside, flushes it to the disk and renames it, so that `path` holds the old or the new content.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    // The parent of a bare file name is empty, not the current folder.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        sync_folder(folder)
    };
    let done: std::io::Result<()> = write();
    if done.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    done.with_context(|| format!("cannot write {}", path.display()))
}

/// BLAKE3 hash of a file's content, in hexadecimal.
pub fn file_hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Makes renames within a folder last.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
