//! Tensors in safetensors files (<https://huggingface.co/docs/safetensors>), read by memory map and written safely.

use crate::storage::{CpuBuffer, Storage};
use crate::{DType, Device, Error, Result, Tensor, with_element};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian and are mapped as they are");

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Its element type; booleans are u8. `None` for types that [`DType`] lacks, such as 8-bit floats.
    pub dtype: Option<DType>,
    /// Where its bytes lie in the file.
    range: Range<usize>,
}

/// An open safetensors file, checked as a whole when it was opened.
///
/// The file is mapped, so opening costs no more than its header, and tensors share the mapped pages. It must not be
/// changed in place while it is open or a tensor from it is alive (replacing it, as [`save`] does, is safe).
pub struct SafeTensors {
    path: PathBuf,
    map: Arc<Mmap>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl SafeTensors {
    /// Maps a file and checks its header: lengths, offsets, shapes and types must account for every byte, and no name
    /// may come twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| io_error(path, e))?;
        let size = file.metadata().map_err(|e| io_error(path, e))?.len();
        if size < 8 {
            return Err(format_error(path, format!("{size} bytes are too few for a safetensors file")));
        }
        // SAFETY: the file is not changed in place while it is mapped, which the type's documentation asks for.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(path, e))?;
        Self::from_map(path, map)
    }

    /// Reads a file's content from memory, with the same checks; its tensors share a copy.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let path = Path::new("safetensors in memory");
        if bytes.len() < 8 {
            let message = format!("{} bytes are too few for a safetensors file", bytes.len());
            return Err(format_error(path, message));
        }
        let mut map = memmap2::MmapMut::map_anon(bytes.len()).map_err(|e| io_error(path, e))?;
        map.copy_from_slice(bytes);
        Self::from_map(path, map.make_read_only().map_err(|e| io_error(path, e))?)
    }

    fn from_map(path: &Path, map: Mmap) -> Result<Self> {
        let (tensors, metadata) = parse(&map).map_err(|message| format_error(path, message))?;
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(SafeTensors { path: path.into(), map: Arc::new(map), tensors, index, metadata })
    }

    /// The tensors, in the order of their data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the file says of the tensor `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The file's free text entries.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor `name`, sharing the file's pages (and so read-only) where its data is aligned, else copied.
    ///
    /// # Errors
    /// If there is no such tensor, or [`DType`] lacks its type.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self
            .info(name)
            .ok_or_else(|| format_error(&self.path, format!("has no tensor named {name:?}")))?;
        let dtype = info.dtype.ok_or_else(|| {
            format_error(&self.path, format!("the type of tensor {name:?} is not supported"))
        })?;
        let bytes = &self.map[info.range.clone()];
        if bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            let storage = Storage::Cpu(CpuBuffer::mapped(&self.map, info.range.clone()));
            return Ok(Tensor::from_storage(storage, &info.dims, dtype));
        }
        let mut out = Tensor::empty(&info.dims, dtype, &Device::Cpu)?;
        with_element!(dtype, T => {
            bytemuck::cast_slice_mut::<T, u8>(out.as_mut_slice::<T>()?).copy_from_slice(bytes);
        });
        Ok(out)
    }
}

type Header = (Vec<TensorInfo>, BTreeMap<String, String>);

/// The header of a whole file of at least 8 bytes, or what is wrong with it.
fn parse(file: &[u8]) -> Result<Header, String> {
    let mut length = [0; 8];
    length.copy_from_slice(&file[..8]);
    let length = u64::from_le_bytes(length);
    let room = file.len() as u64 - 8;
    if length > room {
        return Err(format!("says its header has {length} bytes, but only {room} follow"));
    }
    let (length, header) = safetensors::SafeTensors::read_metadata(file).map_err(describe)?;
    let start = 8 + length;
    unique_names(&file[8..start])?;
    let mut tensors: Vec<TensorInfo> = Vec::new();
    for (name, info) in header.tensors() {
        // Checked already: the offsets follow each other without gaps and the last is where the file ends.
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        // A zero elsewhere can hide a product that overflows.
        if info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).is_none() {
            return Err(format!("the shape {:?} of tensor {name:?} overflows", info.shape));
        }
        tensors.push(TensorInfo { name, dims: info.shape.clone(), dtype: dtype(info.dtype), range });
    }
    tensors.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
    let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok((tensors, metadata))
}

fn describe(error: SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooLarge => "its header is larger than 100 MB".into(),
        SafeTensorError::InvalidHeader(e) => format!("its header is not UTF-8: {e}"),
        SafeTensorError::InvalidHeaderDeserialization(e) => {
            format!("its header is not a safetensors header: {e}")
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("the data of tensor {name:?} overlaps another's or leaves a gap")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's data is not as long as its shape and type say".into()
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "its data is longer or shorter than its header says (truncated?)".into()
        }
        other => format!("is not a valid safetensors file: {other}"),
    }
}

/// Refuses a JSON object in which a key comes twice; maps elsewhere keep only the last of such entries.
fn unique_names(json: &[u8]) -> Result<(), String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if let Some(name) = seen.replace(name) {
                    twice = Some(name);
                }
            }
            Ok(twice)
        }
    }
    match serde_json::Deserializer::from_slice(json).deserialize_map(Names) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(format!("the name {name:?} comes twice")),
        Err(e) => Err(format!("its header is not a safetensors header: {e}")),
    }
}

fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        Dtype::I8 => DType::I8,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        Dtype::U32 => DType::U32,
        Dtype::I32 => DType::I32,
        Dtype::F16 => DType::F16,
        Dtype::I64 => DType::I64,
        _ => return None,
    })
}

/// Writes named tensors to a safetensors file, one at a time, without holding the file in memory.
///
/// The same tensors and metadata give the same bytes: data is ordered by element size, largest first, then by name.
/// The file is written beside `path` with `.partial` added to its name, flushed to the disk and then renamed, so that
/// `path` always holds either the old or the whole new file, even after a power failure. Only one writer may work on
/// a path at a time.
///
/// # Errors
/// If a name comes twice or is `__metadata__`, or the system cannot write; `path` is then as it was before.
pub fn save<'a, N: Into<String>>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<(String, &Tensor)> = tensors.into_iter().map(|(n, t)| (n.into(), t)).collect();
    tensors.sort_by(|(a, x), (b, y)| y.dtype().size().cmp(&x.dtype().size()).then_with(|| a.cmp(b)));
    let mut names = HashSet::new();
    if let Some((name, _)) = tensors.iter().find(|(n, _)| n == METADATA_KEY || !names.insert(n.as_str())) {
        return Err(format_error(path, format!("cannot hold two tensors named {name:?}")));
    }
    let header = header(&tensors, metadata).map_err(|e| format_error(path, e.to_string()))?;
    replace(path, |file| {
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(|e| io_error(path, e));
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        for (_, tensor) in &tensors {
            let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
            with_element!(tensor.dtype(), T => write(bytemuck::cast_slice(tensor.as_slice::<T>()?))?);
        }
        Ok(())
    })
}

const METADATA_KEY: &str = "__metadata__";

/// The header's JSON, padded with spaces so that the data after it is aligned for any element and vector.
fn header(tensors: &[(String, &Tensor)], metadata: &BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    let mut object = serde_json::Map::new();
    if !metadata.is_empty() {
        object.insert(METADATA_KEY.into(), serde_json::to_value(metadata)?);
    }
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.numel() * tensor.dtype().size();
        let info = serde_json::json!({
            "dtype": tensor.dtype().name().to_uppercase(),
            "shape": tensor.dims(),
            "data_offsets": [start, end],
        });
        object.insert(name.clone(), info);
        start = end;
    }
    let mut json = serde_json::to_vec(&object)?;
    json.resize((8 + json.len()).next_multiple_of(64) - 8, b' ');
    Ok(json)
}

/// Puts what `write` writes in place of the file at `path`: written aside, flushed to the disk, renamed.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".partial");
    let finish = |file: BufWriter<File>| -> io::Result<()> {
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&aside, path)?;
        // The rename itself lasts only once the folder is on the disk.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    };
    let mut file = BufWriter::new(File::create(&aside).map_err(|e| io_error(path, e))?);
    let result = write(&mut file).and_then(|()| finish(file).map_err(|e| io_error(path, e)));
    if result.is_err() {
        // The error that matters is the first one; after the rename nothing is left to remove.
        let _ = std::fs::remove_file(&aside);
    }
    result
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}

fn format_error(path: &Path, message: impl Into<String>) -> Error {
    Error::Format { path: path.display().to_string(), message: message.into() }
}
