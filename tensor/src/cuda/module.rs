//! Loaded kernels.

use super::{Cuda, Handle, compile};
use crate::{Error, Result};
use cudarc::driver::{result as driver, sys};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::RwLock;

/// Modules by file and defines, and their functions by entry.
#[derive(Default)]
pub(super) struct Modules(RwLock<HashMap<String, Module>>);

struct Module {
    handle: Handle<sys::CUmod_st>,
    functions: HashMap<String, Function>,
}

/// A kernel.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub handle: sys::CUfunction,
    /// Dynamic shared memory it was prepared for, in bytes.
    pub shared: u32,
}
// SAFETY: the driver's handles are not bound to a thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Blocks may use this much dynamic shared memory without being asked to.
const USUAL_SHARED: u32 = 48 << 10;

fn key(file: &str, defines: &[&str]) -> String {
    let mut key = file.to_owned();
    for define in defines {
        key.push(' ');
        key.push_str(define);
    }
    key
}

impl Modules {
    /// Loads every kernel file in its default form, compiling what the cache lacks in parallel.
    pub fn prepare(&self, gpu: Cuda) -> Result<()> {
        let files: Vec<&str> = compile::files().collect();
        self.load_all(gpu, &files.iter().map(|file| (*file, &[][..])).collect::<Vec<_>>())
    }

    fn load_all(&self, gpu: Cuda, wanted: &[(&str, &[&str])]) -> Result<()> {
        let missing: Vec<_> = {
            let loaded = self.0.read().unwrap_or_else(|e| e.into_inner());
            wanted.iter().filter(|(file, defines)| !loaded.contains_key(&key(file, defines))).collect()
        };
        let images: Vec<_> = missing
            .par_iter()
            .map(|(file, defines)| compile::image(file, defines, gpu.arch()))
            .collect::<Result<_, String>>()
            .map_err(|message| Error::device(gpu.to_string(), message))?;
        gpu.bind()?;
        for ((file, defines), image) in missing.into_iter().zip(images) {
            // SAFETY: the image is one that the compiler made, and is copied by the driver.
            let handle = unsafe { driver::module::load_data(image.as_ptr().cast()) }
                .map_err(|e| gpu.failed(&format!("loading {file}.cu"), e))?;
            let module = Module { handle: Handle(handle), functions: HashMap::new() };
            self.0.write().unwrap_or_else(|e| e.into_inner()).entry(key(file, defines)).or_insert(module);
        }
        Ok(())
    }

    /// The kernel `entry` of a file, prepared for `shared` bytes of dynamic shared memory.
    pub fn function(
        &self,
        gpu: Cuda,
        file: &str,
        defines: &[&str],
        entry: &str,
        shared: u32,
    ) -> Result<Function> {
        let key = key(file, defines);
        {
            let modules = self.0.read().unwrap_or_else(|e| e.into_inner());
            let found = modules.get(&key).and_then(|module| module.functions.get(entry));
            if let Some(function) = found.filter(|f| f.shared >= shared) {
                return Ok(*function);
            }
        }
        self.load_all(gpu, &[(file, defines)])?;
        let mut modules = self.0.write().unwrap_or_else(|e| e.into_inner());
        let unknown = || Error::device(gpu.to_string(), format!("{file}.cu has no kernel {entry}"));
        let module = modules.get_mut(&key).ok_or_else(unknown)?;
        let name = CString::new(entry).map_err(|_| unknown())?;
        // SAFETY: the module stays loaded for the life of the process.
        let handle = unsafe { driver::module::get_function(module.handle.0, name) }.map_err(|_| unknown())?;
        if shared > USUAL_SHARED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            unsafe { driver::function::set_function_attribute(handle, attribute, shared as i32) }
                .map_err(|e| gpu.failed(&format!("{entry} with {shared} bytes of shared memory"), e))?;
        }
        let function = Function { handle, shared: shared.max(USUAL_SHARED) };
        module.functions.insert(entry.to_owned(), function);
        Ok(function)
    }
}
