//! From CUDA C++ to an image for one architecture, through NVRTC.

use super::cache;
use cudarc::nvrtc::{result as nvrtc, sys};
use std::ffi::CString;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The source of a kernel file, named without its extension.
pub fn source(file: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(name, _)| name.strip_suffix(".cu") == Some(file)).map(|(_, text)| *text)
}

/// Names of all kernel files, without extension.
pub fn files() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().filter_map(|(name, _)| name.strip_suffix(".cu"))
}

/// The image of `file` compiled with `defines` (`NAME=VALUE`) for compute capability `arch`: from the disk cache, or
/// compiled and put there.
pub fn image(file: &str, defines: &[&str], arch: u32) -> Result<Vec<u8>, String> {
    let text = source(file).ok_or_else(|| format!("there is no kernel file {file}.cu"))?;
    let (major, minor) = version()?;
    let options = options(defines, arch)?;
    let mut parts = vec![file.to_owned(), text.to_owned(), format!("{major}.{minor}")];
    parts.extend(HEADERS.iter().map(|(_, text)| (*text).to_owned()));
    parts.extend(options.iter().cloned());
    let path = cache::path(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    if let Some(image) = path.as_deref().and_then(cache::load) {
        return Ok(image);
    }
    let image = compile(file, text, &options)?;
    if let Some(path) = path {
        // Without the cache only the next start is slower.
        let _ = cache::store(&path, &image);
    }
    Ok(image)
}

fn version() -> Result<(i32, i32), String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded, and writes two integers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(|e| format!("NVRTC: {e}"))?;
    Ok((major, minor))
}

/// Options for `arch`: machine code if this NVRTC knows it, else PTX of the newest architecture it knows, which the
/// driver translates.
fn options(defines: &[&str], arch: u32) -> Result<Vec<String>, String> {
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().map_err(|e| format!("NVRTC: {e}"))?;
    let mut known = vec![0i32; count.max(0) as usize];
    // SAFETY: writes `count` integers.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().map_err(|e| format!("NVRTC: {e}"))?;
    let target = if known.contains(&(arch as i32)) {
        // The variant with the instructions of Hopper alone.
        format!("sm_{arch}{}", if arch == 90 { "a" } else { "" })
    } else {
        let newest = known.iter().filter(|&&a| a < arch as i32).max();
        let newest = newest
            .ok_or_else(|| format!("this NVRTC compiles for no GPU as old as {}.{}", arch / 10, arch % 10))?;
        format!("compute_{newest}")
    };
    let mut options =
        vec![format!("--gpu-architecture={target}"), "--std=c++17".into(), "-default-device".into()];
    options.extend(defines.iter().map(|define| format!("-D{define}")));
    Ok(options)
}

/// A program of the compiler, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `nvrtcCreateProgram` and destroyed once.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn compile(file: &str, text: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let c = |text: &str| CString::new(text).map_err(|_| format!("{file}.cu holds a NUL"));
    let (text, name) = (c(text)?, c(&format!("{file}.cu"))?);
    let headers: Vec<(CString, CString)> =
        HEADERS.iter().map(|(name, text)| Ok((c(name)?, c(text)?))).collect::<Result<_, String>>()?;
    let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
    let texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings live until the program is destroyed, which is declared after them.
    unsafe {
        sys::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            name.as_ptr(),
            headers.len() as i32,
            texts.as_ptr(),
            names.as_ptr(),
        )
    }
    .result()
    .map_err(|e| format!("NVRTC on {file}.cu: {e}"))?;
    let program = Program(program);
    // SAFETY: the program is alive.
    if let Err(error) = unsafe { nvrtc::compile_program(program.0, options) } {
        // SAFETY: as above.
        let log = unsafe { nvrtc::get_program_log(program.0) }.unwrap_or_default();
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
        let log = String::from_utf8_lossy(&log);
        return Err(format!("{file}.cu does not compile ({error}):\n{}", log.trim_end()));
    }
    let ptx = options.iter().any(|option| option.contains("=compute_"));
    let failed = |e| format!("NVRTC on {file}.cu: {e}");
    let mut len = 0;
    // SAFETY: the program is compiled; the calls write a size, then so many bytes.
    unsafe {
        if ptx {
            sys::nvrtcGetPTXSize(program.0, &mut len)
        } else {
            sys::nvrtcGetCUBINSize(program.0, &mut len)
        }
        .result()
        .map_err(failed)?;
        let mut image = vec![0u8; len];
        let to = image.as_mut_ptr().cast();
        if ptx { sys::nvrtcGetPTX(program.0, to) } else { sys::nvrtcGetCUBIN(program.0, to) }
            .result()
            .map_err(failed)?;
        Ok(image)
    }
}
