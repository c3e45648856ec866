//! Writing a set: JSONL, plain or compressed, or Parquet.

use super::record::Record;
use crate::smelter::run_folder::sync_folder;
use anyhow::{Context, Result, bail, ensure};
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes records into a file that appears under its name only once it is whole.
///
/// Until then it is called `NAME.partial`, locked against a second writer, and removed when the writer is dropped: a full disk or
/// a crash leaves what was there before.
pub struct SetWriter {
    path: PathBuf,
    partial: PathBuf,
    /// The same open file: its lock holds until the file has its name.
    lock: File,
    /// `None` once closed.
    form: Option<Form>,
    /// True as long as the partial file is to be removed.
    is_partial: bool,
}

enum Form {
    Plain(BufWriter<File>),
    Gzip(BufWriter<flate2::write::GzEncoder<File>>),
    Zstd(BufWriter<zstd::stream::write::Encoder<'static, File>>),
    Parquet(Box<Table>),
}

impl SetWriter {
    /// Begins a file. Its form follows from its name: `.jsonl`, `.jsonl.gz`, `.jsonl.zst` or `.parquet`.
    ///
    /// # Errors
    /// When the name says no form, another process writes the file, or it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let forms = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"];
        let Some(form) = forms.into_iter().find(|form| name.ends_with(form)) else {
            bail!("the name {} says no form: end it in {}", path.display(), forms.join(", "));
        };
        let partial = path.with_file_name(format!("{name}.partial"));
        let cannot = || format!("cannot write {}", partial.display());
        let busy = || format!("another process is writing {}", path.display());
        let file =
            File::options().write(true).create(true).truncate(false).open(&partial).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(busy()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        // Whoever wrote it may have put it in its place between the opening and the lock.
        ensure!(is_at(&file, &partial), busy());
        file.set_len(0).with_context(cannot)?;
        let lock = file.try_clone().with_context(cannot)?;
        let form = match form {
            ".jsonl" => Form::Plain(BufWriter::with_capacity(1 << 20, file)),
            ".jsonl.gz" => Form::Gzip(BufWriter::with_capacity(
                1 << 20,
                flate2::write::GzEncoder::new(file, flate2::Compression::default()),
            )),
            ".jsonl.zst" => Form::Zstd(BufWriter::with_capacity(
                1 << 20,
                zstd::stream::write::Encoder::new(file, 0).with_context(cannot)?,
            )),
            _ => Form::Parquet(Box::new(Table::new(file).with_context(cannot)?)),
        };
        Ok(Self { path: path.to_owned(), partial, lock, form: Some(form), is_partial: true })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When it cannot be written. The writer is of no use after that.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.push(record).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn push(&mut self, record: &Record) -> Result<()> {
        match &mut self.form {
            Some(Form::Plain(file)) => file.write_all(&record.to_line()?)?,
            Some(Form::Gzip(file)) => file.write_all(&record.to_line()?)?,
            Some(Form::Zstd(file)) => file.write_all(&record.to_line()?)?,
            Some(Form::Parquet(table)) => table.push(record)?,
            None => bail!("it is closed"),
        }
        Ok(())
    }

    /// Makes the file whole, puts it where its name says, and gives its size in bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<u64> {
        let folder =
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut work = || {
            let size = close(self.form.take())?;
            std::fs::rename(&self.partial, &self.path)?;
            sync_folder(folder)?;
            Ok(size)
        };
        let work: Result<u64> = work();
        let size = work.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.is_partial = false;
        // It ends with the file at the latest.
        let _ = self.lock.unlock();
        Ok(size)
    }

    /// Closes a file that is to have no more records, and puts it aside, as `stopped-NAME` in the same folder. For a run that was
    /// stopped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_aside(mut self) -> Result<PathBuf> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let aside = self.path.with_file_name(format!("stopped-{name}"));
        let mut work = || -> Result<()> {
            close(self.form.take())?;
            Ok(std::fs::rename(&self.partial, &aside)?)
        };
        work().with_context(|| format!("cannot write {}", aside.display()))?;
        self.is_partial = false;
        Ok(aside)
    }
}

impl Drop for SetWriter {
    fn drop(&mut self) {
        if self.is_partial {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Whether an open file is the one that has this path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(there)) => place(open) == place(there),
        _ => false,
    }
}

/// A file that is open cannot be renamed elsewhere.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Writes what is buffered, flushes it to the disk, and gives the file's size.
fn close(form: Option<Form>) -> Result<u64> {
    let file = match form {
        None => bail!("it is closed"),
        Some(Form::Plain(file)) => file.into_inner().map_err(|error| error.into_error())?,
        Some(Form::Gzip(file)) => file.into_inner().map_err(|error| error.into_error())?.finish()?,
        Some(Form::Zstd(file)) => file.into_inner().map_err(|error| error.into_error())?.finish()?,
        Some(Form::Parquet(table)) => table.finish()?,
    };
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// A column: its name, and a record's value in it. What has structure is JSON.
type Column = (&'static str, fn(&Record) -> Result<Option<String>>);

fn json(value: &impl serde::Serialize, is_empty: bool) -> Result<Option<String>> {
    Ok(if is_empty { None } else { Some(serde_json::to_string(value)?) })
}

const COLUMNS: [Column; 15] = [
    ("id", |r| Ok(Some(r.id.clone()))),
    ("text", |r| Ok(r.text.clone())),
    ("prompt", |r| Ok(r.prompt.clone())),
    ("response", |r| Ok(r.response.clone())),
    ("messages", |r| json(&r.messages, r.messages.is_none())),
    ("teacher", |r| Ok(r.teacher.clone())),
    ("model", |r| Ok(r.model.clone())),
    ("sample", |r| json(&r.sample, r.sample.is_none())),
    ("finish", |r| Ok(r.finish.clone())),
    ("language", |r| Ok(r.language.clone())),
    ("tests", |r| Ok(r.tests.clone())),
    ("source", |r| Ok(r.source.clone())),
    ("checks", |r| json(&r.checks, r.checks.is_empty())),
    ("fim_spans", |r| json(&r.fim_spans, r.fim_spans.is_empty())),
    ("extra", |r| json(&r.extra, r.extra.is_empty())),
];

/// Rows and bytes of text in a row group: enough to compress well, little enough to hold.
const GROUP_ROWS: usize = 32_768;
const GROUP_BYTES: usize = 64 << 20;

/// A Parquet file of text columns.
struct Table {
    writer: SerializedFileWriter<File>,
    columns: Vec<Vec<Option<String>>>,
    bytes: usize,
}

impl Table {
    fn new(file: File) -> Result<Self> {
        let column = |(name, _): &Column| {
            let column = Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(ConvertedType::UTF8);
            Ok(Arc::new(column.build()?))
        };
        let columns = COLUMNS.iter().map(column).collect::<Result<_>>()?;
        let schema = Arc::new(Type::group_type_builder("record").with_fields(columns).build()?);
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        Ok(Self { writer, columns: vec![Vec::new(); COLUMNS.len()], bytes: 0 })
    }

    fn push(&mut self, record: &Record) -> Result<()> {
        for ((_, value), column) in COLUMNS.iter().zip(&mut self.columns) {
            let value = value(record)?;
            self.bytes += value.as_ref().map_or(0, String::len);
            column.push(value);
        }
        if self.columns[0].len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.columns[0].is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { bail!("the schema lacks a column") };
            let levels: Vec<i16> = column.iter().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<ByteArray> =
                column.drain(..).flatten().map(|value| ByteArray::from(value.into_bytes())).collect();
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            writer.close()?;
        }
        group.close()?;
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<File> {
        self.flush()?;
        Ok(self.writer.into_inner()?)
    }
}
