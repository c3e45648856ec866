//! Descriptions of matrices for the copy engine of Hopper and later cards.

use super::{Cuda, library};
use crate::{DType, Error, Result, Tensor};
use cudarc::driver::sys;
use std::ffi::c_void;

/// A matrix in device memory, and the box of it that one copy moves: some rows of 128 bytes, which lie in shared memory
/// in the 128-byte swizzle. Parts of a box outside of the matrix
/// read as 0.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(pub(super) [u64; 16]);

/// Bytes of a row of a box.
const BOX_BYTES: usize = 128;
const OP: &str = "tensor_map";

impl Cuda {
    /// Describes the rows (last axis) of a contiguous tensor, i8 or bf16, in boxes of `box_rows` rows, at most 256.
    /// For kernels that read. `None` if the copy engine cannot move them: card or driver too old, or rows that are no
    /// multiple of 16 bytes.
    ///
    /// # Errors
    /// If the tensor is not contiguous, of another type, or not on this GPU.
    pub fn tensor_map(self, tensor: &Tensor, box_rows: u32) -> Result<Option<TensorMap>> {
        if !tensor.is_contiguous() {
            return Err(tensor.not_contiguous(OP));
        }
        let data_type = match tensor.dtype() {
            DType::I8 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            other => return Err(Error::dtype(OP, "i8 or bf16", other)),
        };
        let (address, size, cols) =
            (tensor.device_address(self, OP)?, tensor.dtype().size(), tensor.last_dim());
        let row = cols * size;
        let fits = tensor.numel() > 0 && row.is_multiple_of(16) && address.is_multiple_of(16);
        // The driver has it since CUDA 12.0; the bindings would panic on an older one.
        type Encode = unsafe extern "C" fn(
            *mut sys::CUtensorMap,
            sys::CUtensorMapDataType,
            u32,
            *mut c_void,
            *const u64,
            *const u64,
            *const u32,
            *const u32,
            sys::CUtensorMapInterleave,
            sys::CUtensorMapSwizzle,
            sys::CUtensorMapL2promotion,
            sys::CUtensorMapFloatOOBfill,
        ) -> sys::CUresult;
        // SAFETY: the function has had this signature since it exists.
        let encode = unsafe { library::driver()?.get::<Encode>(b"cuTensorMapEncodeTiled") };
        let (Ok(encode), true, true) = (encode, fits, self.arch() >= 90) else { return Ok(None) };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let dims = [cols as u64, (tensor.numel() / cols) as u64];
        let (strides, steps) = ([row as u64], [1u32, 1]);
        let in_box = [(BOX_BYTES / size) as u32, box_rows];
        // SAFETY: the arrays have the two dimensions (one stride) that the call reads; the map is written only.
        unsafe {
            encode(
                &mut map,
                data_type,
                2,
                address as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                in_box.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|e| self.failed(&format!("describing dims {:?} to the copy engine", tensor.dims()), e))?;
        Ok(Some(TensorMap(map.opaque)))
    }

    /// As [`Cuda::tensor_map`], for kernels that write; parts of a box outside of the matrix are dropped.
    ///
    /// # Errors
    /// Also if another tensor shares the memory.
    pub fn tensor_map_mut(self, tensor: &mut Tensor, box_rows: u32) -> Result<Option<TensorMap>> {
        tensor.device_address_mut(self, OP)?;
        self.tensor_map(tensor, box_rows)
    }
}
