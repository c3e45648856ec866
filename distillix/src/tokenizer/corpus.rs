//! A tokenizer from the texts of files.

use super::train::train_byte_level_bpe;
use crate::smelter::data::builtin::SPECIAL_TOKENS;
use crate::smelter::data::for_each_text;
use anyhow::{Result, anyhow, ensure};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

/// Texts that are read ahead of the training.
const READ_AHEAD: usize = 1024;

/// Trains a byte-level BPE tokenizer with at most `vocab_size` tokens on the texts of `paths` (see
/// [`for_each_text`]), reading them once and holding few at a time. The first tokens are the start and end of a
/// document and the fill-in-the-middle tokens. Returns the bytes of its `tokenizer.json` and its number of tokens.
/// `on_read` is told the bytes read so far.
///
/// # Errors
/// When a file cannot be read or is malformed, there is no text, or `vocab_size` is too small.
pub fn train_on_files(
    paths: &[PathBuf],
    vocab_size: usize,
    mut on_read: impl FnMut(u64) + Send,
) -> Result<(Vec<u8>, usize)> {
    let (send, receive) = sync_channel::<String>(READ_AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<u64> {
            let mut total = 0;
            for path in paths {
                for_each_text(path, |text, bytes| {
                    total += bytes;
                    on_read(total);
                    // Nobody receives any more once training has failed, and its error is the one to tell.
                    let _ = send.send(text);
                    Ok(())
                })?;
            }
            Ok(total)
        });
        let trained = train_byte_level_bpe(receive.into_iter(), vocab_size, &SPECIAL_TOKENS);
        let read = reader.join().map_err(|_| anyhow!("reading the files failed"))??;
        ensure!(read > 0, "there is no text to train on");
        let tokenizer = trained.map_err(|error| anyhow!("{error}"))?;
        let json = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
        Ok((json.into_bytes(), tokenizer.get_vocab_size(true)))
    })
}
