//! Lists a safetensors file with the range of each tensor: `cargo run -p tensor --example safetensors -- FILE`.
//! Without an argument it first writes a small file to look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::io::{SafeTensors, save};
use tensor::{DType, Device, Result, Stream, Tensor};

fn main() {
    let result = match std::env::args_os().nth(1) {
        Some(path) => list(Path::new(&path)),
        None => write_sample().and_then(|path| list(&path)),
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn write_sample() -> Result<PathBuf> {
    let path = std::env::temp_dir().join("sample.safetensors");
    let weight = Tensor::normal(0.0, 0.02, &[64, 32], DType::BF16, &Device::Cpu, Stream::new(0))?;
    let ids = Tensor::from_slice(&[3u32, 1, 2], &[3], &Device::Cpu)?;
    let metadata = BTreeMap::from([("made_by".to_string(), "an example".to_string())]);
    save(&path, [("layer.weight", &weight), ("ids", &ids)], &metadata)?;
    Ok(path)
}

fn list(path: &Path) -> Result<()> {
    let file = SafeTensors::open(path)?;
    println!("{}", path.display());
    for (key, value) in file.metadata() {
        println!("  {key} = {value}");
    }
    for info in file.tensors() {
        let Some(dtype) = info.dtype else {
            println!("  {:<40} {:?} of a type this crate lacks", info.name, info.dims);
            continue;
        };
        let x = file.tensor(&info.name)?.to_dtype(DType::F64)?;
        let range = if x.numel() == 0 {
            "empty".to_string()
        } else {
            format!("{:.4} to {:.4}", x.min_all()?.item::<f64>()?, x.max_all()?.item::<f64>()?)
        };
        println!("  {:<40} {dtype} {:?}, {range}", info.name, info.dims);
    }
    Ok(())
}
