//! Tar archives.

use super::{Kind, Packing, Raw, Sink, code, lines};
use anyhow::{Context, Result};
use std::io::Read;
use std::sync::Arc;

/// Reads the files of an archive that are code or JSON lines, in its order. Links are not followed, and nothing is unpacked.
pub fn read(file: impl Read, origin: &Arc<str>, sink: Sink<'_>) -> Result<()> {
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries()? {
        let entry = entry.context("the archive is broken")?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let name = path.to_string_lossy().into_owned();
        match Kind::of(&path) {
            Some(Kind::Code) => {
                let size = entry.size();
                let raw: Raw = code(entry, size, &name, origin).with_context(|| name.clone())?;
                sink(raw)?;
            }
            Some(Kind::Lines(packing)) => {
                let member: Arc<str> = format!("{origin}:{name}").into();
                let read: Result<()> = match packing {
                    Packing::None => lines::read(entry, &member, sink),
                    Packing::Gzip => lines::read(flate2::read::MultiGzDecoder::new(entry), &member, sink),
                    Packing::Zstd => lines::read(zstd::stream::read::Decoder::new(entry)?, &member, sink),
                };
                read.with_context(|| name)?;
            }
            Some(Kind::Tar(_) | Kind::Parquet) | None => {}
        }
    }
    Ok(())
}
