//! Which shard belongs to a source, and making it when there is none.
//!
//! In the cache folder:
//!
//! * `KEY/` a shard; the key is a hash of the content of the source's files and of all that decides how they become tokens.
//! * `warm/PRINT` a file that holds the key for files of these paths, sizes and times of change, so that a warm start reads none of them.
//! * `KEY.lock` held while a shard is made. `KEY.partial/` is one that is not complete; the next maker removes it.

use super::config::SourceConfig;
use super::document::Encoding;
use super::shard::{FORMAT, Shard};
use super::template::Template;
use super::tokenize::{OnProgress, content_hash, fingerprint, tokenize};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Opens the shard of a source, tokenizing it first where that was not done before.
///
/// # Errors
/// When the source cannot be read or tokenized, or the cache not written.
pub fn open_shard(
    source: &SourceConfig,
    template: &Template,
    encoding: &Encoding,
    cache: &Path,
    on_progress: OnProgress,
) -> Result<Shard> {
    let settings = settings_hash(source, template, encoding);
    let before = fingerprint(source)?;
    let print = combine(&[settings, before.hash]);
    let warm = cache.join("warm").join(print.to_hex().as_str());
    if let Ok(key) = fs::read_to_string(&warm)
        && key.len() == 64
        && key.bytes().all(|b| b.is_ascii_hexdigit())
        && let folder = cache.join(&key)
        && folder.is_dir()
    {
        return Shard::open(&folder);
    }
    let key = combine(&[settings, content_hash(source, before.bytes, on_progress)?]).to_hex();
    let folder = cache.join(key.as_str());
    fs::create_dir_all(cache.join("warm"))
        .with_context(|| format!("cannot create the cache folder {} (data.cache_dir)", cache.display()))?;
    let lock_path = cache.join(format!("{key}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if !folder.is_dir() {
        let partial = cache.join(format!("{key}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let made = tokenize(source, template, encoding, &partial, before.bytes, on_progress).and_then(|_| {
            if fingerprint(source)? != before {
                bail!("files of {} changed while they were read: run it again", source.name());
            }
            sync_folder(&partial)?;
            fs::rename(&partial, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
            sync_folder(cache)
        });
        if let Err(error) = made {
            // Only to free the space: a partial folder that stays does no harm.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    }
    let shard = Shard::open(&folder)?;
    write_aside(&warm, |file| file.write_all(key.as_bytes()))?;
    Ok(shard)
}

/// Everything but the files that decides the tokens of a shard.
fn settings_hash(source: &SourceConfig, template: &Template, encoding: &Encoding) -> blake3::Hash {
    let SourceConfig { languages, min_file_bytes, max_file_bytes, keep_failed, path: _, weight: _, kind: _ } =
        source;
    let fim = (encoding.fim_rate > 0.0).then_some((encoding.fim_rate, encoding.seed, encoding.seq_len));
    let settings = format!(
        "{FORMAT} {:?} {languages:?} {min_file_bytes} {max_file_bytes} {keep_failed} {:?} {:?} {fim:?} {}",
        source.resolved_kind(),
        template.source(),
        encoding.validation_fraction,
        encoding.tokenizer.hash(),
    );
    blake3::hash(settings.as_bytes())
}

fn combine(hashes: &[blake3::Hash]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for hash in hashes {
        hasher.update(hash.as_bytes());
    }
    hasher.finalize()
}

/// Writes a file under another name, and gives it its own when it is complete and durable.
///
/// # Errors
/// When it cannot be written.
pub fn write_aside(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", std::process::id()));
    let written = File::create(&aside).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn sync_folder(folder: &Path) -> Result<()> {
    // Windows cannot open a folder as a file, and needs no sync of it.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {}", folder.display()))?;
    }
    Ok(())
}
