//! Embeds the CUDA sources of the folder `kernels`, whatever files it holds, so that no list of them is kept.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../kernels");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    let mut code = String::new();
    for (list, extension) in [("SOURCES", "cu"), ("HEADERS", "cuh")] {
        let _ = writeln!(code, "pub(super) const {list}: &[(&str, &str)] = &[");
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == extension)) {
            let file = fs::canonicalize(file)?;
            let name = file.file_name().unwrap_or_default();
            let _ = writeln!(code, "    ({name:?}, include_str!({file:?})),");
            println!("cargo::rerun-if-changed={}", file.display());
        }
        code.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.rs");
    fs::write(out, code)
}
