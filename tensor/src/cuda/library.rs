//! Finds the libraries that CUDA consists of, and says what is missing.

use crate::{Error, Result};
use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

/// Oldest driver that has all we call, as `cuDriverGetVersion` counts: 11.4 (R470).
const OLDEST_DRIVER: i32 = 11040;

/// What we call of the driver. The bindings look symbols up when they are first called and panic if one is missing, so
/// all are looked up before.
const DRIVER_SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventQuery",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGetErrorName",
];

/// The driver's library.
///
/// # Errors
/// If it is not on this machine or lacks a function.
pub fn driver() -> Result<&'static Library> {
    static DRIVER: OnceLock<Result<Library, String>> = OnceLock::new();
    let found = DRIVER.get_or_init(|| {
        let names = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];
        // SAFETY: the driver's library may be loaded by anyone.
        let library = names.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
        let library = library.ok_or("no NVIDIA driver on this machine (libcuda.so.1 is not found)")?;
        for symbol in DRIVER_SYMBOLS {
            // SAFETY: the symbol is only looked up.
            if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
                return Err(format!(
                    "the NVIDIA driver lacks {symbol}: version {} or newer is needed",
                    version(OLDEST_DRIVER)
                ));
            }
        }
        Ok(library)
    });
    found.as_ref().map_err(|message| Error::device("cuda", message))
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The CUDA version that the driver supports.
fn driver_version() -> i32 {
    let mut found = 0;
    // SAFETY: the driver is initialised, and writes one integer.
    let _ = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut found) };
    found
}

pub fn check_driver_version() -> Result<()> {
    let found = driver_version();
    if found >= OLDEST_DRIVER {
        return Ok(());
    }
    let message = format!(
        "the NVIDIA driver supports CUDA {}, and {} is needed: install a newer driver",
        version(found),
        version(OLDEST_DRIVER)
    );
    Err(Error::device("cuda", message))
}

/// The run-time compiler. Its newest version that the driver can run is taken.
pub fn nvrtc() -> Result<()> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| load("nvrtc", "nvidia-cuda-nvrtc")).clone().map_err(|m| Error::device("cuda", m))
}

/// The library of matrix products.
pub fn cublas_lt() -> Result<()> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| load("cublasLt", "nvidia-cublas")).clone().map_err(|m| Error::device("cuda", m))
}

/// Loads `name` and keeps it, so that the bindings, which load by name, find it loaded.
fn load(name: &str, package: &str) -> Result<(), String> {
    let newest = driver_version() / 1000;
    let majors: Vec<i32> = (11..=newest.min(13)).rev().collect();
    let mut tried = Vec::new();
    for major in &majors {
        let file = format!("lib{name}.so.{major}");
        let by_path = folders().into_iter().map(|folder| folder.join(&file)).filter(|path| path.exists());
        for path in by_path.chain([PathBuf::from(&file)]) {
            match open_global(&path) {
                Ok(()) => return Ok(()),
                Err(error) if path.is_absolute() => tried.push(format!("{}: {error}", path.display())),
                Err(_) => {}
            }
        }
    }
    let package = match newest {
        12 => format!("{package}-cu12"),
        11 => format!("{package}-cu11"),
        _ => package.to_owned(),
    };
    let tried = if tried.is_empty() { String::new() } else { format!(" ({})", tried.join("; ")) };
    Err(format!(
        "lib{name} is not found{tried}: `pip install {package}` brings it, or set DISTILLIX_CUDA_LIBS to its folder"
    ))
}

#[cfg(unix)]
fn open_global(path: &Path) -> Result<(), libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: NVIDIA's libraries may be loaded by anyone. It stays loaded for the life of the process.
    std::mem::forget(unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?);
    Ok(())
}

#[cfg(not(unix))]
fn open_global(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: as above.
    std::mem::forget(unsafe { Library::new(path) }?);
    Ok(())
}

/// Where the libraries may lie: what the user says, toolkits, then Python packages.
fn folders() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> =
        env::var_os("DISTILLIX_CUDA_LIBS").iter().flat_map(env::split_paths).collect();
    for root in [env::var_os("CUDA_HOME"), env::var_os("CUDA_PATH"), Some("/usr/local/cuda".into())]
        .into_iter()
        .flatten()
    {
        out.push(Path::new(&root).join("lib64"));
    }
    out.extend(env::var_os("CONDA_PREFIX").map(|root| Path::new(&root).join("lib")));
    for packages in site_packages() {
        // `nvidia/cu13/lib`, `nvidia/cublas/lib`, `nvidia/cuda_nvrtc/lib`
        out.extend(children(&packages.join("nvidia")).into_iter().map(|folder| folder.join("lib")));
    }
    out
}

fn site_packages() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(env::var_os).map(PathBuf::from).collect();
    // The prefix of the `python3` that would run.
    let python =
        env::var_os("PATH").iter().flat_map(env::split_paths).map(|p| p.join("python3")).find(|p| p.exists());
    roots.extend(python.and_then(|p| Some(p.parent()?.parent()?.to_owned())));
    roots.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut out = Vec::new();
    for lib in roots.iter().map(|root| root.join("lib")) {
        for python in children(&lib)
            .into_iter()
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")))
        {
            out.extend([python.join("site-packages"), python.join("dist-packages")]);
        }
    }
    out
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    out.sort();
    out
}
