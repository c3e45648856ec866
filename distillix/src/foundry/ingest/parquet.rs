//! Parquet, as data sets on the Hugging Face hub are stored.

use super::{Raw, Sink};
use anyhow::{Context, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads the rows of a file; `read` counts its bytes in proportion.
pub fn read(file: File, origin: &Arc<str>, read: &AtomicU64, sink: Sink<'_>) -> Result<()> {
    let size = file.metadata()?.len();
    let reader = SerializedFileReader::new(file).context("it is not Parquet, or incomplete")?;
    let rows = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
    let mut counted = 0;
    for (number, row) in (1..).zip(reader.get_row_iter(None)?) {
        let columns = object(row.with_context(|| format!("row {number}"))?);
        let done = (u128::from(size) * u128::from(number) / u128::from(rows)) as u64;
        read.fetch_add(done - counted, Ordering::Relaxed);
        counted = done;
        sink(Raw::Row { origin: Arc::clone(origin), number, columns })?;
    }
    Ok(())
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// A field as JSON. Bytes that are no text, and dates, are left out: the foundry has no use for them.
fn value(field: Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Bool(bit) => bit.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => float(f64::from(number)),
        Field::Float(number) => float(f64::from(number)),
        Field::Double(number) => float(number),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            let entries = map.entries().iter().cloned().filter_map(|(key, entry)| match value(key) {
                Value::String(key) => Some((key, value(entry))),
                _ => None,
            });
            Value::Object(entries.collect())
        }
        _ => Value::Null,
    }
}
