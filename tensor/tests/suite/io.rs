use crate::support::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use tensor::io::{SafeTensors, save};
use tensor::{DType, Error, Tensor};

/// A file with this header and data.
fn write(path: &Path, header: &[u8], data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    std::fs::write(path, bytes).unwrap();
}

/// A small file of three tensors, as bytes.
fn sample(folder: &Path) -> Vec<u8> {
    let path = folder.join("sample.safetensors");
    let a = Tensor::from_slice(&[1f32, 2.0, 3.0], &[3], &CPU).unwrap();
    let b = Tensor::from_slice(&[1i8, -2, 3, 4], &[2, 2], &CPU).unwrap();
    let c = Tensor::zeros(&[0, 5], DType::I64, &CPU).unwrap();
    save(&path, [("a", &a), ("b", &b), ("c", &c)], &BTreeMap::from([("k".into(), "v".into())])).unwrap();
    std::fs::read(path).unwrap()
}

proptest! {
    #[test]
    fn what_is_saved_is_read_back(d in proptest::collection::vec(dims(0..=3), 0..6), seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let types = [DType::F32, DType::BF16, DType::F64, DType::I8, DType::U8, DType::U32, DType::I32, DType::F16, DType::I64];
        let drawn: Vec<(String, Tensor)> = (0u64..)
            .zip(&d)
            .map(|(i, d)| {
                let dtype = types[((seed >> 8) + i) as usize % types.len()];
                (format!("layer.{i}.\"ü\"\n"), draw(d, dtype, &CPU, seed ^ i).tensor)
            })
            .collect();
        let notes = BTreeMap::from([("format".to_string(), "pt".to_string()), ("ö".into(), "\\".into())]);
        save(&path, drawn.iter().map(|(n, t)| (n.clone(), t)), &notes).unwrap();
        let file = SafeTensors::open(&path).unwrap();
        prop_assert_eq!(file.metadata(), &notes);
        prop_assert_eq!(file.tensors().len(), drawn.len());
        for (name, tensor) in &drawn {
            let back = file.tensor(name).unwrap();
            prop_assert_eq!(file.info(name).unwrap().dtype, Some(tensor.dtype()));
            check(&back, tensor.dims(), tensor.dtype(), &values(tensor), 0.0);
        }
        // Order of the arguments does not matter, and nothing is left beside the file.
        let first = std::fs::read(&path).unwrap();
        save(&path, drawn.iter().rev().map(|(n, t)| (n.clone(), t)), &notes).unwrap();
        prop_assert_eq!(first, std::fs::read(&path).unwrap());
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_files_give_errors_and_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        truncate: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = sample(folder.path());
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        let path = folder.path().join("damaged");
        std::fs::write(&path, &bytes).unwrap();
        match SafeTensors::open(&path) {
            Ok(file) => {
                prop_assert!(!truncate);
                for info in file.tensors() {
                    if let Ok(tensor) = file.tensor(&info.name) {
                        prop_assert_eq!(values(&tensor).len(), tensor.numel());
                    }
                }
            }
            Err(error) => prop_assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}"),
        }
    }
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile");
    let one = |shape: &str, dtype: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |a: &str, b: &str, name: &str| {
        format!(
            r#"{{"x":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"{name}":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
        )
    };
    // Eight tensors that reach to 2^64 - 8, so that a sum without care wraps around.
    let size = (1u64 << 61) - 1;
    let huge = |i: u64| {
        format!(r#""{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{},{}]}}"#, i * size, (i + 1) * size)
    };
    let wrapping = format!("{{{}}}", (0..8).map(huge).collect::<Vec<_>>().join(","));
    let nested = format!("{}1{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
    let cases: Vec<(String, usize, &str)> = vec![
        (two("[0,4]", "[2,6]", "y"), 6, "overlaps"),
        (two("[0,4]", "[6,10]", "y"), 10, "gap"),
        (two("[0,4]", "[0,4]", "x"), 4, "\"x\" comes twice"),
        (one("[4]", "U8", "[0,4]"), 3, "truncated"),
        (one("[4]", "U8", "[0,4]"), 5, "longer"),
        (one("[4]", "U8", "[4,0]"), 4, "overlaps"),
        (one("[4]", "F32", "[0,4]"), 4, "shape and type"),
        (one("[18446744073709551615,2]", "U8", "[0,4]"), 4, "overflows"),
        (one("[0,18446744073709551615,2]", "U8", "[0,0]"), 0, "overflows"),
        (one("[4611686018427387905]", "F32", "[0,4]"), 4, "overflows"),
        (one("[-1]", "U8", "[0,4]"), 4, "header"),
        (one("[4]", "X9", "[0,4]"), 4, "X9"),
        (wrapping, 0, "longer or shorter"),
        (nested, 0, "header"),
        ("[]".into(), 0, "header"),
        ("{".into(), 0, "header"),
        (String::new(), 0, "header"),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "header"),
    ];
    for (header, data, reason) in cases {
        write(&path, header.as_bytes(), &vec![0; data]);
        refused(&path, reason);
    }
    write(&path, b"{\"\xff\":1}", &[]);
    refused(&path, "UTF-8");
    std::fs::write(&path, []).unwrap();
    refused(&path, "0 bytes");
    std::fs::write(&path, [1, 0, 0, 0, 0, 0, 0]).unwrap();
    refused(&path, "7 bytes");
    std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    refused(&path, "18446744073709551615 bytes");
    std::fs::remove_file(&path).unwrap();
    refused(&path, "No such file");
    refused(folder.path(), "");
}

fn refused(path: &Path, reason: &str) {
    let error = SafeTensors::open(path).map(|f| f.tensors().to_vec()).expect_err(reason).to_string();
    assert!(error.starts_with(path.to_str().unwrap()) && error.contains(reason), "{error:?} for {reason:?}");
    assert!(error.lines().count() == 1 && error.len() < 400, "{error}");
}

#[test]
fn mapped_tensors_share_the_file_and_are_read_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let x = draw(&[7, 9], DType::F32, &CPU, 3);
    save(&path, [("x", &x.tensor)], &BTreeMap::new()).unwrap();
    let file = SafeTensors::open(&path).unwrap();
    let mut back = file.tensor("x").unwrap();
    let again = file.tensor("x").unwrap();
    assert_eq!(back.as_slice::<f32>().unwrap().as_ptr(), again.as_slice::<f32>().unwrap().as_ptr());
    drop(again);
    assert!(matches!(back.fill(0.0), Err(Error::Shared { op: "fill" })));
    // Replacing the file leaves the old pages to whoever has them mapped.
    save(&path, [("x", &Tensor::zeros(&[2], DType::U8, &CPU).unwrap())], &BTreeMap::new()).unwrap();
    drop(file);
    check(&back, &[7, 9], DType::F32, &x.values, 0.0);
}

#[test]
fn unaligned_data_is_copied_and_unknown_types_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let header = br#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"c":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[9,10]},"d":{"dtype":"BOOL","shape":[2],"data_offsets":[10,12]}}"#;
    let mut data = vec![7u8];
    data.extend([1.5f32, -2.5].iter().flat_map(|x| x.to_le_bytes()));
    data.extend([0, 1, 0]);
    write(&path, header, &data);
    let file = SafeTensors::open(&path).unwrap();
    assert_eq!(file.tensor("b").unwrap().to_vec::<f32>().unwrap(), [1.5, -2.5]);
    assert_eq!(file.tensor("d").unwrap().to_vec::<u8>().unwrap(), [1, 0]);
    let names: Vec<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!((names, file.info("c").unwrap().dtype), (vec!["a", "b", "c", "d"], None));
    assert!(file.tensor("c").unwrap_err().to_string().contains("\"c\" is not supported"));
    assert!(file.tensor("e").unwrap_err().to_string().contains("no tensor named \"e\""));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let x = Tensor::zeros(&[2], DType::F32, &CPU).unwrap();
    save(&path, [("x", &x)], &BTreeMap::new()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let twice = save(&path, [("x", &x), ("x", &x)], &BTreeMap::new()).unwrap_err();
    assert!(twice.to_string().contains("two tensors named \"x\""), "{twice}");
    let reserved = save(&path, [("__metadata__", &x)], &BTreeMap::new()).unwrap_err();
    assert!(reserved.to_string().contains("__metadata__"), "{reserved}");
    // Its place beside the file is taken by a folder.
    std::fs::create_dir(folder.path().join("x.partial")).unwrap();
    assert!(matches!(save(&path, [("y", &x)], &BTreeMap::new()), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(save(folder.path().join("none/x"), [("x", &x)], &BTreeMap::new()).is_err());
}
