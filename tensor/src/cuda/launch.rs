//! Kernel launches.

use super::{Cuda, TensorMap};
use crate::{DType, Error, Result, Tensor};
use cudarc::driver::result as driver;
use smallvec::SmallVec;
use std::borrow::Cow;

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
}

impl Grid {
    /// One block a row.
    pub fn rows(rows: usize, threads: u32) -> Self {
        Self::blocks(rows, threads)
    }

    /// `blocks` blocks along x.
    pub fn blocks(blocks: usize, threads: u32) -> Self {
        Grid { blocks: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], threads, shared: 0 }
    }

    /// Blocks of 256 threads for `items` of work, no more than fill the card a few times: the kernel strides over the grid.
    pub fn strided(gpu: Cuda, items: usize) -> Self {
        let threads = 256;
        let blocks = items.div_ceil(threads).clamp(1, gpu.multiprocessors() as usize * 16);
        Self::blocks(blocks, threads as u32)
    }

    /// With `bytes` of dynamic shared memory a block.
    pub fn with_shared(self, bytes: usize) -> Self {
        Grid { shared: bytes as u32, ..self }
    }
}

/// Largest argument passed by value.
const LARGEST_VALUE: usize = 256;

/// A kernel and the arguments collected so far, in the order of its parameters. It borrows the tensors that the kernel
/// reads: were one dropped before the launch, another thread's operation could take its memory.
pub struct Launch<'a> {
    gpu: Cuda,
    file: &'static str,
    defines: &'a [&'a str],
    entry: Cow<'static, str>,
    /// The arguments' bytes, each from a multiple of 8.
    bytes: SmallVec<[u64; 32]>,
    /// Where each argument begins, in words.
    starts: SmallVec<[usize; 24]>,
}

/// An error of `op` unless elements are of a type that a GPU computes with.
pub(crate) fn check_float(op: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(()),
        other => Err(Error::dtype(op, "f32 or bf16 on a GPU", other)),
    }
}

impl Cuda {
    /// The kernel `entry` of `kernels/<file>.cu` for elements of `dtype`: `<entry>_f32` or `<entry>_bf16`.
    ///
    /// # Errors
    /// If `dtype` is neither.
    pub fn kernel(self, file: &'static str, entry: &'static str, dtype: DType) -> Result<Launch<'static>> {
        check_float(entry, dtype)?;
        Ok(self.launch(file, &[], Cow::Owned(format!("{entry}_{dtype}"))))
    }

    /// The kernel `<file>_<op>_<dtype>` of `kernels/<file>.cu`, for an operation on f32 or bf16, which an error names.
    pub(crate) fn operation(
        self,
        file: &'static str,
        op: &'static str,
        dtype: DType,
    ) -> Result<Launch<'static>> {
        check_float(op, dtype)?;
        Ok(self.launch(file, &[], Cow::Owned(format!("{file}_{op}_{dtype}"))))
    }

    /// The kernel `entry` of `kernels/<file>.cu`.
    pub fn entry(self, file: &'static str, entry: impl Into<Cow<'static, str>>) -> Launch<'static> {
        self.launch(file, &[], entry.into())
    }

    /// The kernel `entry` of `kernels/<file>.cu` compiled with `defines`, each `NAME=VALUE`.
    pub fn entry_with<'a>(
        self,
        file: &'static str,
        defines: &'a [&'a str],
        entry: impl Into<Cow<'static, str>>,
    ) -> Launch<'a> {
        self.launch(file, defines, entry.into())
    }

    fn launch<'a>(self, file: &'static str, defines: &'a [&'a str], entry: Cow<'static, str>) -> Launch<'a> {
        Launch { gpu: self, file, defines, entry, bytes: SmallVec::new(), starts: SmallVec::new() }
    }
}

impl<'a> Launch<'a> {
    /// The address of a contiguous tensor that the kernel reads.
    pub fn read(self, tensor: &'a Tensor) -> Result<Self> {
        if !tensor.is_contiguous() {
            return Err(tensor.not_contiguous(self.file));
        }
        self.strided(tensor)
    }

    /// As [`Launch::read`], or a null pointer.
    pub fn read_optional(self, tensor: Option<&'a Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.read(tensor),
            None => Ok(self.value(0u64)),
        }
    }

    /// The address of the first element of a tensor with any strides, which the kernel reads.
    pub fn strided(self, tensor: &'a Tensor) -> Result<Self> {
        let address = tensor.device_address(self.gpu, self.file)?;
        Ok(self.value(address))
    }

    /// The address of a contiguous tensor that the kernel writes, all of it or in place.
    ///
    /// # Errors
    /// If another tensor shares the memory.
    pub fn write(self, tensor: &mut Tensor) -> Result<Self> {
        let address = tensor.device_address_mut(self.gpu, self.file)?;
        Ok(self.value(address))
    }

    /// As [`Launch::write`], or a null pointer.
    pub fn write_optional(self, tensor: Option<&mut Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.write(tensor),
            None => Ok(self.value(0u64)),
        }
    }

    /// A value of at most 256 bytes; its type must have the layout of the kernel's parameter.
    pub fn value<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        const { assert!(size_of::<T>() <= LARGEST_VALUE) };
        self.starts.push(self.bytes.len());
        for word in bytemuck::bytes_of(&value).chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.bytes.push(u64::from_ne_bytes(bytes));
        }
        self
    }

    /// A `const __grid_constant__` tensor map.
    pub fn map(self, map: &TensorMap) -> Self {
        self.value(map.0)
    }

    /// Launches the kernel. A grid without blocks or threads does nothing.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, in order and type, and it must stay within the tensors it was given,
    /// for this grid.
    pub unsafe fn run(self, grid: Grid) -> Result<()> {
        if grid.threads == 0 || grid.blocks.contains(&0) {
            return Ok(());
        }
        let gpu = self.gpu;
        gpu.bind()?;
        let function = gpu.0.modules.function(gpu, self.file, self.defines, &self.entry, grid.shared)?;
        let mut pointers: SmallVec<[*mut std::ffi::c_void; 24]> = self
            .starts
            .iter()
            .map(|&start| std::ptr::from_ref(&self.bytes[start]).cast_mut().cast())
            .collect();
        let [x, y, z] = grid.blocks;
        gpu.timed(self.file, || {
            // SAFETY: promised by the caller; the driver copies the arguments before it returns.
            unsafe {
                driver::launch_kernel(
                    function.handle,
                    (x, y, z),
                    (grid.threads, 1, 1),
                    grid.shared,
                    gpu.stream(),
                    &mut pointers,
                )
            }
            .map_err(|e| gpu.failed(&format!("launching {} with {grid:?}", self.entry), e))
        })
    }
}
