//! What was read, on its way to a record.

use super::fields::record_of;
use crate::foundry::record::Record;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What holds a record, not yet looked into.
pub enum Raw {
    /// A line of JSON.
    Line {
        /// The file.
        origin: Arc<str>,
        /// The line's number, from 1.
        number: u64,
        /// The line; empty if it was too long to read.
        bytes: Vec<u8>,
    },
    /// A row of Parquet.
    Row {
        /// The file.
        origin: Arc<str>,
        /// The row's number, from 1.
        number: u64,
        /// Its columns.
        columns: Map<String, Value>,
    },
    /// A file of code.
    File {
        /// Its path within the folder or archive.
        name: String,
        /// The file, or the archive.
        origin: Arc<str>,
        /// Its language, by its name.
        language: Option<&'static str>,
        /// Its size in bytes.
        size: u64,
        /// The content; empty if it was too large to read.
        bytes: Vec<u8>,
    },
    /// A file of a folder that cannot be read to its end.
    Broken {
        /// The file.
        origin: Arc<str>,
        /// What is wrong with it.
        error: String,
    },
}

/// Why something is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub place: String,
    /// What is wrong with it.
    pub reason: &'static str,
    /// What exactly.
    pub detail: String,
}

impl Raw {
    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        match self {
            Self::Line { bytes, .. } | Self::File { bytes, .. } => bytes.len(),
            Self::Row { columns, .. } => columns.values().map(size).sum(),
            Self::Broken { error, .. } => error.len(),
        }
    }

    /// True if it takes none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record.
    ///
    /// # Errors
    /// When it is no JSON object, has nothing to learn from, or is not text.
    pub fn into_record(self) -> Result<Record, Unreadable> {
        match self {
            Self::Line { origin, number, bytes } => {
                let place = format!("{origin}:{number}");
                let wrong = |reason, detail| Unreadable { place: place.clone(), reason, detail };
                if bytes.is_empty() {
                    return Err(wrong("too long", String::new()));
                }
                let text = utf8(&bytes).map_err(|detail| wrong("not UTF-8", detail))?;
                let value = serde_json::from_str(text.trim_start_matches('\u{feff}'));
                match value.map_err(|error| wrong("not JSON", error.to_string()))? {
                    Value::Object(fields) => {
                        record_of(fields, place.clone()).map_err(|detail| wrong("no record", detail))
                    }
                    _ => Err(wrong("not JSON", "it is no object".to_owned())),
                }
            }
            Self::Row { origin, number, columns } => {
                let place = format!("{origin}:{number}");
                let wrong = |detail| Unreadable { place: place.clone(), reason: "no record", detail };
                record_of(columns, place.clone()).map_err(wrong)
            }
            Self::Broken { origin, error } => {
                Err(Unreadable { place: origin.to_string(), reason: "broken file", detail: error })
            }
            Self::File { name, origin, language, size, bytes } => {
                let place = if origin.ends_with(name.as_str()) {
                    origin.to_string()
                } else {
                    format!("{origin}:{name}")
                };
                let wrong = |reason, detail| Unreadable { place: place.clone(), reason, detail };
                if bytes.is_empty() && size > 0 {
                    return Err(wrong("too large", format!("{size} bytes")));
                }
                let text = utf8(&bytes).map_err(|detail| wrong("not UTF-8", detail))?;
                if text.contains('\0') {
                    return Err(wrong("binary", String::new()));
                }
                let text = text.trim_start_matches('\u{feff}');
                let language = language.map(str::to_owned);
                Ok(Record { language, source: Some(place.clone()), ..Record::text(name, text) })
            }
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("at byte {}", error.valid_up_to() + 1))
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(size).sum(),
        Value::Object(all) => all.values().map(size).sum(),
        _ => 8,
    }
}
