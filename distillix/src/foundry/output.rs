//! Files of records: JSONL, JSONL in zstd, and Parquet. The same records make the same bytes.

use super::record::Record;
use crate::smelter::run_folder::sync_folder;
use anyhow::{Context, Result, bail};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Forms of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// The same, compressed.
    JsonlZst,
    /// Columns of texts; what is neither a text nor a number is JSON in a text.
    Parquet,
}

impl Format {
    /// The form that a file's name asks for.
    ///
    /// # Errors
    /// When it ends in nothing known.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let forms =
            [(".jsonl", Format::Jsonl), (".jsonl.zst", Format::JsonlZst), (".parquet", Format::Parquet)];
        match forms.into_iter().find(|(end, _)| name.ends_with(end)) {
            Some((_, format)) => Ok(format),
            None => {
                bail!("{} must end in .jsonl, .jsonl.zst or .parquet, which says its form", path.display())
            }
        }
    }
}

/// Writes records into a file that takes its name when all are in it.
pub struct RecordWriter {
    path: PathBuf,
    partial: PathBuf,
    sink: Option<Sink>,
    records: u64,
}

enum Sink {
    Jsonl(BufWriter<File>),
    JsonlZst(zstd::Encoder<'static, BufWriter<File>>),
    Parquet(Box<Columns>),
}

impl RecordWriter {
    /// Begins a file; the end of its name says its form.
    ///
    /// # Errors
    /// When the name says none, or the file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let format = Format::of(path)?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        let sink = match format {
            Format::Jsonl => Sink::Jsonl(file),
            Format::JsonlZst => Sink::JsonlZst(zstd::Encoder::new(file, 6)?),
            Format::Parquet => Sink::Parquet(Box::new(Columns::new(file)?)),
        };
        Ok(RecordWriter { path: path.to_owned(), partial, sink: Some(sink), records: 0 })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.records += 1;
        let name = self.partial.display().to_string();
        let done = match &mut self.sink {
            Some(Sink::Jsonl(file)) => file.write_all(&record.to_line()?).map_err(Into::into),
            Some(Sink::JsonlZst(file)) => file.write_all(&record.to_line()?).map_err(Into::into),
            Some(Sink::Parquet(columns)) => columns.push(record),
            None => Ok(()),
        };
        done.with_context(|| format!("cannot write {name}"))
    }

    /// Ends the file, and puts it in the place of an older one. Returns the number of records.
    ///
    /// # Errors
    /// When the disk cannot be written; the older file is then as it was.
    pub fn finish(mut self) -> Result<u64> {
        let end = |sink: Option<Sink>| -> Result<()> {
            let file = match sink {
                Some(Sink::Jsonl(file)) => file,
                Some(Sink::JsonlZst(file)) => file.finish()?,
                Some(Sink::Parquet(columns)) => columns.finish()?,
                None => return Ok(()),
            };
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&self.partial, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            sync_folder(folder.unwrap_or(Path::new(".")))?;
            Ok(())
        };
        end(self.sink.take()).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self.records)
    }
}

impl Drop for RecordWriter {
    /// What was not finished is no file.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// A row of Parquet, in the order of the schema.
const SCHEMA: &str = "message records {
    REQUIRED BYTE_ARRAY id (UTF8);
    OPTIONAL BYTE_ARRAY text (UTF8);
    OPTIONAL BYTE_ARRAY messages (JSON);
    OPTIONAL BYTE_ARRAY prompt (UTF8);
    OPTIONAL BYTE_ARRAY response (UTF8);
    OPTIONAL BYTE_ARRAY teacher (UTF8);
    OPTIONAL BYTE_ARRAY model (UTF8);
    OPTIONAL BYTE_ARRAY finish (UTF8);
    OPTIONAL BYTE_ARRAY language (UTF8);
    OPTIONAL BYTE_ARRAY tests (UTF8);
    OPTIONAL BYTE_ARRAY source (UTF8);
    OPTIONAL BYTE_ARRAY checks (JSON);
    OPTIONAL BYTE_ARRAY fim_spans (JSON);
    OPTIONAL BYTE_ARRAY extra (JSON);
    OPTIONAL INT32 sample;
}";
/// Columns of texts; the last one is of numbers.
const TEXTS: usize = 14;
/// Bytes and rows of a group.
const GROUP_BYTES: usize = 32 << 20;
const GROUP_ROWS: usize = 100_000;

struct Columns {
    writer: SerializedFileWriter<BufWriter<File>>,
    texts: [Vec<Option<ByteArray>>; TEXTS],
    samples: Vec<Option<i32>>,
    bytes: usize,
}

impl Columns {
    fn new(file: BufWriter<File>) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(6)?))
            .set_created_by(concat!("distillix ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        Ok(Columns { writer, texts: Default::default(), samples: Vec::new(), bytes: 0 })
    }

    fn push(&mut self, record: &Record) -> Result<()> {
        let text = |text: &Option<String>| text.as_deref().map(ByteArray::from);
        let json = |value: Option<Value>| value.map(|value| ByteArray::from(value.to_string().into_bytes()));
        let row = [
            Some(ByteArray::from(record.id.as_str())),
            text(&record.text),
            json(record.messages.as_ref().map(serde_json::to_value).transpose()?),
            text(&record.prompt),
            text(&record.response),
            text(&record.teacher),
            text(&record.model),
            text(&record.finish),
            text(&record.language),
            text(&record.tests),
            text(&record.source),
            json((!record.checks.is_empty()).then(|| serde_json::to_value(&record.checks)).transpose()?),
            json(
                (!record.fim_spans.is_empty())
                    .then(|| serde_json::to_value(&record.fim_spans))
                    .transpose()?,
            ),
            json((!record.extra.is_empty()).then(|| Value::Object(record.extra.clone()))),
        ];
        for (column, value) in self.texts.iter_mut().zip(row) {
            self.bytes += value.as_ref().map_or(0, ByteArray::len);
            column.push(value);
        }
        self.samples.push(record.sample.and_then(|sample| i32::try_from(sample).ok()));
        if self.bytes >= GROUP_BYTES || self.samples.len() >= GROUP_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.samples.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for (i, column) in self.texts.iter_mut().enumerate() {
            let levels: Vec<i16> = column.iter().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<ByteArray> = column.drain(..).flatten().collect();
            // The first column is required, and has no levels.
            write_column::<ByteArrayType>(&mut group, &values, (i > 0).then_some(&levels))?;
        }
        let levels: Vec<i16> = self.samples.iter().map(|value| i16::from(value.is_some())).collect();
        let values: Vec<i32> = self.samples.drain(..).flatten().collect();
        write_column::<Int32Type>(&mut group, &values, Some(&levels))?;
        group.close()?;
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<BufWriter<File>> {
        self.flush()?;
        Ok(self.writer.into_inner()?)
    }
}

fn write_column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    values: &[T::T],
    levels: Option<&Vec<i16>>,
) -> Result<()> {
    let mut column = group.next_column()?.context("the schema has fewer columns than a record")?;
    column.typed::<T>().write_batch(values, levels.map(Vec::as_slice), None)?;
    column.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    fn records() -> Vec<Record> {
        let mut a = Record::answer("a", "p", "r\n");
        a.sample = Some(1);
        a.fim_spans = vec![(0, 1)];
        a.checks.insert("tests".into(), "pass".into());
        let mut b = Record::text("b", "x".repeat(1000));
        b.extra.insert("topic".into(), "lists".into());
        vec![a, b]
    }

    fn written(path: &Path) -> Result<Vec<u8>> {
        let mut writer = RecordWriter::create(path)?;
        for record in records() {
            writer.write(&record)?;
        }
        assert_eq!(writer.finish()?, 2);
        Ok(std::fs::read(path)?)
    }

    #[test]
    fn the_same_records_make_the_same_bytes_in_every_form() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in ["a.jsonl", "a.jsonl.zst", "a.parquet"] {
            let path = folder.path().join(name);
            let first = written(&path)?;
            assert_eq!(first, written(&path)?, "{name}");
        }
        let lines = std::fs::read(folder.path().join("a.jsonl"))?;
        let read: Vec<Record> =
            lines.split_inclusive(|b| *b == b'\n').map(serde_json::from_slice).collect::<Result<_, _>>()?;
        assert_eq!(read, records());
        assert_eq!(zstd::decode_all(File::open(folder.path().join("a.jsonl.zst"))?)?, lines);
        let reader = SerializedFileReader::new(File::open(folder.path().join("a.parquet"))?)?;
        let rows = reader.get_row_iter(None)?.collect::<Result<Vec<_>, _>>()?;
        assert_eq!((rows[0].get_string(4)?.as_str(), rows[0].get_int(14)?), ("r\n", 1));
        assert_eq!(rows[0].get_string(12)?, "[[0,1]]");
        assert_eq!(rows[1].get_string(1)?, &"x".repeat(1000));
        assert!(rows[1].get_string(4).is_err(), "null");
        Ok(())
    }

    #[test]
    fn what_is_not_finished_leaves_the_old_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "old")?;
        let mut writer = RecordWriter::create(&path)?;
        writer.write(&records()[0])?;
        drop(writer);
        assert_eq!(std::fs::read(&path)?, b"old");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        assert!(RecordWriter::create(&folder.path().join("a.csv")).is_err());
        Ok(())
    }
}
