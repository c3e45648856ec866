//! Data: sources of documents, their way to tokens, and batches.
//!
//! * A document is plain (code or text, all of it trained on) or answered (a prompt with a response, or a conversation; only the
//!   responses are trained on). Each becomes BOS … EOS; EOS is trained on, and the position of EOS predicts nothing.
//! * Half of the plain documents (`data.fim_rate`) become fill-ins, once, when they are tokenized. FIM tokens are never targets: they are
//!   what a user writes, not what a model answers. Answered documents never become fill-ins; where one's
//!   response is code with `fim_spans`, a fill-in of that code is added at the same rate.
//! * About 1% of documents, by the hash of their content, are held out: the same ones for every seed, copies included, and never as
//!   fill-ins.
//! * Sources are tokenized once, into memory-mapped shards in a cache folder.
//! * Rows of exactly `seq_len` positions are packed from whole documents where these fit; a longer one is cut, and each later piece starts
//!   a segment that does not see the earlier ones. Every token is an input exactly once an epoch, and a target once unless it
//!   is its document's first or not trained on.
//! * The rows of a step are a function of seed and step alone, each source having its weight's share of them.

mod batch;
pub mod builtin;
mod cache;
mod code;
mod config;
mod dataset;
mod document;
mod fim;
mod generated;
pub mod jsonl;
mod order;
mod pack;
mod prefetch;
pub(crate) mod random;
mod shard;
mod template;
mod texts;
mod tokenize;

pub use batch::{Batch, IGNORE};
pub use code::language_of_file;
pub use config::{DataConfig, SourceConfig, SourceKind};
pub use dataset::{Dataset, SourceReport, Step};
pub use document::{Code, Document, Encoding, Sequence};
pub use generated::{Example, ExampleGenerator};
pub use jsonl::open as open_lines;
pub use prefetch::Prefetch;
pub use shard::{Meta, Split};
pub use template::{DEFAULT as DEFAULT_TEMPLATE, Message, Piece, Template};
pub use texts::for_each_text;
pub use tokenize::{OnProgress, Progress};
