//! `verify` on the golden files of `goldens/`, which `scripts/make_goldens.py` makes; and that it sees what is wrong.

use distillix::verify::{Report, verify};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tensor::io::SafeTensors;
use tensor::{DType, Device, Tensor};

const FILES: [(&str, &str); 5] = [
    ("losses", "losses"),
    ("model_no_caps", "model"),
    ("model_sub_norm", "model"),
    ("modules", "modules"),
    ("optim", "optimizers"),
];

/// Beside this file, or where the environment says if the tests were packed to run elsewhere.
fn folder() -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("goldens")
}

fn run(path: &Path) -> anyhow::Result<Report> {
    verify(path, &Device::Cpu)
}

#[test]
fn every_golden_is_reproduced() {
    for (name, kind) in FILES {
        let report = run(&folder().join(name).with_extension("safetensors")).unwrap();
        assert_eq!(report.kind, kind);
        let failed: Vec<_> = report.groups.iter().filter(|g| !g.ok).collect();
        assert!(report.ok() && failed.is_empty(), "{name}: {failed:?}");
    }
}

/// A golden file in memory, to be changed and written elsewhere.
struct Copy {
    tensors: BTreeMap<String, Tensor>,
    json: Value,
    folder: TempDir,
}

impl Copy {
    fn of(name: &str) -> Copy {
        let path = folder().join(name).with_extension("safetensors");
        let file = SafeTensors::open(&path).unwrap();
        let named = file.tensors().iter().map(|info| (info.name.clone(), file.tensor(&info.name).unwrap()));
        let json = std::fs::read(path.with_extension("json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Copy { tensors: named.collect(), json: serde_json::from_slice(&json).unwrap(), folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("copy.safetensors")
    }

    fn verify(&self) -> anyhow::Result<Report> {
        tensor::io::save(self.path(), &self.tensors, &BTreeMap::new()).unwrap();
        std::fs::write(self.path().with_extension("json"), self.json.to_string()).unwrap();
        run(&self.path())
    }

    /// The error of a copy that cannot be compared at all.
    fn error(&self) -> String {
        format!("{:#}", self.verify().expect_err("the copy is not a golden"))
    }
}

/// The tensor with another first and last element.
fn disturbed(x: &Tensor) -> Tensor {
    fn ends<T: tensor::Element>(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
        let mut values = x.to_vec::<T>().unwrap();
        for at in std::collections::BTreeSet::from([0, values.len() - 1]) {
            values[at] = T::from_f64(f(values[at].to_f64()));
        }
        Tensor::from_slice(&values, x.dims(), &Device::Cpu).unwrap()
    }
    match x.dtype() {
        DType::F32 => ends::<f32>(x, |x| 2.0 * x + 1.0),
        DType::I64 => ends::<i64>(x, |x| x + 1.0),
        DType::I8 => ends::<i8>(x, |x| if x == 0.0 { 1.0 } else { 0.0 }),
        DType::U8 => ends::<u8>(x, |x| 1.0 - x),
        other => panic!("goldens hold no {other}"),
    }
}

/// Nothing in a file goes uncompared: any tensor that is changed or missing is noticed.
#[test]
fn every_tensor_counts() {
    for (name, _) in FILES {
        let mut copy = Copy::of(name);
        assert!(copy.verify().unwrap().ok(), "{name}: the copy itself");
        for tensor in copy.tensors.keys().cloned().collect::<Vec<_>>() {
            let original = copy.tensors.remove(&tensor).unwrap();
            assert!(copy.verify().is_err(), "{name} without {tensor}");
            copy.tensors.insert(tensor.clone(), disturbed(&original));
            let noticed = copy.verify().map_or(true, |report| !report.ok());
            assert!(noticed, "{name} with another {tensor}");
            copy.tensors.insert(tensor, original);
        }
        copy.tensors.insert("stranger.x".to_owned(), Tensor::zeros(&[1], DType::F32, &Device::Cpu).unwrap());
        assert!(copy.error().contains("stranger.x"));
    }
}

#[test]
fn results_that_are_not_numbers_do_not_agree() {
    for (name, tensor) in [("model_no_caps", "logits"), ("losses", "dz.tvd.T1"), ("modules", "rms.y")] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut copy = Copy::of(name);
            let mut values = copy.tensors[tensor].to_vec::<f32>().unwrap();
            values[3] = bad;
            let dims = copy.tensors[tensor].dims().to_vec();
            copy.tensors.insert(tensor.to_owned(), Tensor::from_slice(&values, &dims, &Device::Cpu).unwrap());
            let report = copy.verify().unwrap();
            let failed: Vec<_> = report.groups.iter().filter(|g| !g.ok).collect();
            assert!(failed.len() == 1 && failed[0].worst.is_none(), "{name} {tensor} {bad}: {failed:?}");
        }
    }
}

/// Settings that fit nothing, or would take the machine's memory, are errors that say what is wrong.
#[test]
fn nonsense_is_refused_in_words() {
    let model = |change: &dyn Fn(&mut Copy)| {
        let mut copy = Copy::of("model_no_caps");
        change(&mut copy);
        copy.error()
    };
    let set = |key: &str, value: Value| model(&|copy| copy.json["config"][key] = value.clone());
    assert!(set("hidden", json!(16_000_000)).contains("dims"));
    assert!(set("vocab_size", json!(1u64 << 60)).contains("vocab_size"));
    assert!(set("layers", json!(1000)).contains("layers"));
    assert!(set("layers", json!(0)).contains("layers"));
    assert!(set("heads", json!(3)).contains("kv_heads"));
    assert!(set("head_dim", json!("six")).contains("config"));
    assert!(set("norm_eps", json!(-1.0)).contains("norm_eps"));
    assert!(set("colour", json!(1)).contains("colour"));
    assert!(model(&|copy| copy.json["config"] = json!([])).contains("config"));
    assert!(model(&|copy| copy.json["optimizer"]["betas"] = json!([0.9])).contains("optimizer"));
    assert!(
        model(&|copy| drop(copy.json.as_object_mut().unwrap().remove("traj_loss"))).contains("traj_loss")
    );
    assert!(model(&|copy| copy.json["traj_loss"] = json!([1.0])).contains("traj_loss"));
    let put = |name: &str, dims: &[usize], value: f64, dtype| {
        let tensor = Tensor::full(value, dims, dtype, &Device::Cpu).unwrap();
        model(&|copy| drop(copy.tensors.insert(name.to_owned(), tensor.clone())))
    };
    assert!(put("ids", &[3, 7], 41.0, DType::I64).contains("token id 41"));
    assert!(put("ids", &[3, 7], -1.0, DType::I64).contains("token id -1"));
    assert!(put("targets", &[3, 7], 99.0, DType::I64).contains("target 99"));
    assert!(put("ids", &[3, 7], 0.0, DType::F32).contains("ids is of type f32"));
    assert!(put("ids", &[7], 0.0, DType::I64).contains("ids"));
    assert!(put("traj.ids", &[21], 0.0, DType::I64).contains("traj.ids"));
    assert!(put("w.norm.weight", &[22], f64::NAN, DType::F32).contains("norm.weight holds"));
    assert!(put("w.norm.weight", &[23], 1.0, DType::F32).contains("norm.weight"));
    assert!(put("logits", &[0], 0.0, DType::F32).contains("logits is empty"));
    assert!(put("greedy.prompt", &[], 0.0, DType::I64).contains("greedy.prompt"));

    let other = |file: &str, name: &str, dims: &[usize], dtype| {
        let mut copy = Copy::of(file);
        copy.tensors.insert(name.to_owned(), Tensor::full(1.0, dims, dtype, &Device::Cpu).unwrap());
        copy.error()
    };
    for dims in
        [&[][..], &[2], &[2, 3], &[2, 6, 13, 12, 1], &[1, 6, 13, 12], &[2, 5, 13, 12], &[2, 6, 13, 11]]
    {
        for name in ["attn_cap50.q", "attn_cap50.k", "attn_cap50.dy", "rope0.x", "rope0.dy", "rms.x", "rms.w"]
        {
            assert!(!other("modules", name, dims, DType::F32).is_empty());
        }
        for name in ["swiglu.up", "bitlinear.random.x", "bitlinear.random.w", "bitlinear.random.s"] {
            assert!(!other("modules", name, dims, DType::F32).is_empty());
        }
        for name in ["z", "y", "y_other_vocab", "topk_logp.T1", "relation.s_q", "relation.t_k"] {
            assert!(!other("losses", name, dims, DType::F32).is_empty());
        }
        for name in ["muon.5x13.g", "muon.5x13.p0", "muon.5x13.buf0", "adamw.g", "adamw.p0"] {
            assert!(!other("optim", name, dims, DType::F32).is_empty());
        }
    }
    assert!(!other("modules", "rope0.pos", &[3], DType::I64).is_empty());
    assert!(!other("losses", "targets", &[3], DType::I64).is_empty());
    assert!(!other("losses", "topk_idx.T1", &[3], DType::I64).is_empty());
    let mut copy = Copy::of("losses");
    copy.json["cases"]["hinge.T1"] = json!({"value": 1.0, "T": 1.0});
    assert!(copy.error().contains("hinge.T1"));
}

/// Files that are no safetensors, or have no JSON that can be read.
#[test]
fn broken_files_are_refused_in_words() {
    let copy = Copy::of("optim");
    copy.verify().unwrap();
    let (path, json) = (copy.path(), copy.path().with_extension("json"));
    let error = || format!("{:#}", run(&path).expect_err("the file is broken"));
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(error().contains("copy.safetensors"), "{length} bytes");
    }
    for header in [0, 1, u64::MAX, 1 << 40] {
        let mut bytes = bytes.clone();
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert!(error().contains("copy.safetensors"), "header of {header} bytes");
    }
    std::fs::write(&path, &bytes).unwrap();
    for text in ["", "[]", "{", "\u{0}", "{\"muon\": 1}"] {
        std::fs::write(&json, text).unwrap();
        assert!(!error().is_empty());
    }
    std::fs::remove_file(&json).unwrap();
    assert!(error().contains("copy.json"));
}
