//! Compiled kernels on disk.

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

const DIGEST: usize = blake3::OUT_LEN;

/// Folder of the compiled kernels, `$XDG_CACHE_HOME/distillix/kernels`; `None` if there is no place for it.
fn folder() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|p| !p.is_empty()).map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(Path::new(&env::var_os("HOME").filter(|p| !p.is_empty())?).join(".cache")))?;
    Some(cache.join("distillix").join("kernels"))
}

/// Place of an image that follows from `parts`.
pub fn path(parts: &[&str]) -> Option<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    Some(folder()?.join(format!("{}.image", hasher.finalize().to_hex())))
}

/// The image at `path`, unless it is missing or damaged.
pub fn load(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let image = bytes.split_off(bytes.len().min(DIGEST));
    (blake3::hash(&image).as_bytes()[..] == bytes[..]).then_some(image)
}

/// Writes aside and renames, so that no reader sees half an image.
pub fn store(path: &Path, image: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let aside = path.with_extension(format!("{}.part", process::id()));
    let written = fs::write(&aside, [&blake3::hash(image).as_bytes()[..], image].concat());
    let stored = written.and_then(|()| fs::rename(&aside, path));
    if stored.is_err() {
        let _ = fs::remove_file(&aside);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_image_is_not_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new/one.image");
        assert_eq!(load(&file), None);
        store(&file, b"an image").expect("it can be written");
        assert_eq!(load(&file).as_deref(), Some(&b"an image"[..]));
        let mut bytes = fs::read(&file).expect("it is there");
        bytes[DIGEST + 2] ^= 1;
        fs::write(&file, &bytes).expect("it can be written");
        assert_eq!(load(&file), None);
        fs::write(&file, b"short").expect("it can be written");
        assert_eq!(load(&file), None);
    }

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(path(&["ab", "c"]), path(&["a", "bc"]));
    }
}
