//! Trains byte-level BPE tokenizers.

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// How text is cut before pairs are merged; no merge crosses a cut. In order: a newline; a run of spaces or
/// of tabs, so that an indentation is one token; a single
/// digit with the space before it; a word with the space or underscore before
/// it; a run of punctuation with the space before it; whatever white space is left.
const PATTERN: &str = r"\r?\n| {2,}|\t+| ?\p{N}|[ _]?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s";

/// Trains a byte-level BPE tokenizer with at most `vocab_size` tokens on `texts`.
///
/// Any text survives `decode(encode(text))`, because every byte is a token. `special_tokens` take the first
/// ids, in order. The result depends only on the arguments. It has fewer tokens than asked for when no pair
/// is left to merge.
///
/// # Errors
/// When `vocab_size` is too small for the 256 bytes and the special tokens, or a text cannot be cut.
pub fn train_byte_level_bpe<S: AsRef<str> + Send>(
    texts: impl Iterator<Item = S> + Send,
    vocab_size: usize,
    special_tokens: &[&str],
) -> tokenizers::Result<Tokenizer> {
    let least = 256 + special_tokens.len();
    if vocab_size < least {
        return Err(format!(
            "a byte-level vocabulary of {vocab_size} cannot hold 256 bytes and {} special tokens: ask for \
             {least} or more",
            special_tokens.len()
        )
        .into());
    }
    let split = Split::new(SplitPattern::Regex(PATTERN.to_owned()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Split(split),
            PreTokenizerWrapper::ByteLevel(bytes),
        ])))
        .with_decoder(Some(ByteLevelDecoder::new(false, false, false)));
    let mut trainer = TrainerWrapper::from(
        BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(special_tokens.iter().map(|t| AddedToken::from(*t, true)).collect())
            .build(),
    );
    tokenizer.train(&mut trainer, texts)?;
    Ok(tokenizer)
}
