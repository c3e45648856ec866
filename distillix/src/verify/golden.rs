//! A golden file and its JSON, read with checks, and what of it was used.

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use tensor::io::SafeTensors;
use tensor::{DType, Device, Tensor};

/// The tensors of a golden file and the settings beside it.
pub(super) struct Golden {
    tensors: SafeTensors,
    device: Device,
    json: Map<String, Value>,
    unread: RefCell<BTreeSet<String>>,
}

/// Tokens as goldens hold them: I64.
pub(super) struct Tokens {
    pub dims: Vec<usize>,
    pub values: Vec<i64>,
    /// Where tensors of them go.
    device: Device,
}

impl Golden {
    /// Opens a file whose tensors are handed out on `device`.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let tensors = SafeTensors::open(path)?;
        let beside = path.with_extension("json");
        ensure!(beside != path, "{}: expected a safetensors file beside its JSON", path.display());
        let text = std::fs::read(&beside).with_context(|| beside.display().to_string())?;
        let json = serde_json::from_slice(&text).with_context(|| beside.display().to_string())?;
        let Value::Object(json) = json else { bail!("{}: is not a JSON object", beside.display()) };
        let unread = tensors.tensors().iter().map(|info| info.name.clone()).collect();
        Ok(Golden { tensors, device: device.clone(), json, unread: RefCell::new(unread) })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.tensors().iter().map(|info| info.name.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.info(name).is_some()
    }

    /// The parts of names between `prefix` and the next dot, each once: `x` of `muon.x.g` for `muon.`.
    pub fn parts(&self, prefix: &str) -> BTreeSet<String> {
        let parts = self.names().filter_map(|name| name.strip_prefix(prefix)?.split_once('.'));
        parts.map(|(part, _)| part.to_owned()).collect()
    }

    /// Dimensions of a tensor.
    pub fn dims(&self, name: &str) -> Result<&[usize]> {
        let info = self.tensors.info(name).with_context(|| format!("there is no tensor {name}"))?;
        Ok(&info.dims)
    }

    fn tensor(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.dims(name)?;
        let tensor = self.tensors.tensor(name)?;
        self.unread.borrow_mut().remove(name);
        ensure!(tensor.numel() > 0, "tensor {name} is empty: dims {:?}", tensor.dims());
        ensure!(tensor.dtype() == dtype, "tensor {name} is of type {}, expected {dtype}", tensor.dtype());
        Ok(tensor.to_device(&self.device)?)
    }

    /// An f32 tensor.
    pub fn floats(&self, name: &str) -> Result<Tensor> {
        self.tensor(name, DType::F32)
    }

    /// The elements of an f32 tensor.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.floats(name)?.to_vec()?)
    }

    /// An i8 tensor.
    pub fn codes(&self, name: &str) -> Result<Tensor> {
        self.tensor(name, DType::I8)
    }

    /// A mask: booleans or bytes.
    pub fn mask(&self, name: &str) -> Result<Vec<bool>> {
        Ok(self.tensor(name, DType::U8)?.to_vec::<u8>()?.into_iter().map(|x| x != 0).collect())
    }

    /// An I64 tensor.
    pub fn tokens(&self, name: &str) -> Result<Tokens> {
        let tensor = self.tensor(name, DType::I64)?;
        Ok(Tokens { dims: tensor.dims().to_vec(), values: tensor.to_vec()?, device: self.device.clone() })
    }

    /// Whether the JSON has a key.
    pub fn has_setting(&self, key: &str) -> bool {
        self.json.contains_key(key)
    }

    /// A value of the JSON, at a path of keys.
    pub fn setting<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        let missing = || format!("the JSON has no {}", path.join("."));
        let (first, rest) = path.split_first().with_context(missing)?;
        let value = rest.iter().try_fold(self.json.get(*first).with_context(missing)?, |value, key| {
            value.get(key).with_context(missing)
        })?;
        T::deserialize(value).with_context(|| format!("{} in the JSON", path.join(".")))
    }

    /// Keys of an object in the JSON.
    pub fn keys(&self, name: &str) -> Result<Vec<&str>> {
        let object = self.json.get(name).and_then(Value::as_object);
        let object = object.with_context(|| format!("the JSON has no object {name}"))?;
        Ok(object.keys().map(String::as_str).collect())
    }

    /// Fails if a tensor was never read: then not everything was compared.
    pub fn all_read(&self) -> Result<()> {
        let unread = self.unread.borrow();
        if let Some(first) = unread.first() {
            bail!("tensor {first} and {} more were compared with nothing", unread.len() - 1);
        }
        Ok(())
    }
}

impl Tokens {
    /// As u32 of dimensions `dims`, all below `vocab`.
    pub fn ids(&self, dims: &[usize], vocab: usize) -> Result<Tensor> {
        let ids: Vec<u32> = self
            .values
            .iter()
            .map(|&id| match u32::try_from(id) {
                Ok(small) if (small as usize) < vocab => Ok(small),
                _ => bail!("token id {id} in a vocabulary of {vocab}"),
            })
            .collect::<Result<_>>()?;
        Ok(Tensor::from_slice(&ids, dims, &self.device)?)
    }

    /// As targets, flat: i32, `ignore` turned into [`nn::ops::IGNORE`].
    pub fn targets(&self, ignore: i64, vocab: usize) -> Result<Tensor> {
        let targets: Vec<i32> = self
            .values
            .iter()
            .map(|&id| match i32::try_from(id) {
                _ if id == ignore => Ok(nn::ops::IGNORE),
                Ok(small) if small >= 0 && (small as usize) < vocab => Ok(small),
                _ => bail!("target {id} in a vocabulary of {vocab}"),
            })
            .collect::<Result<_>>()?;
        Ok(Tensor::from_slice(&targets, &[targets.len()], &self.device)?)
    }

    /// The `i`-th of the slices along the first axis.
    pub fn slice(&self, i: usize) -> Tokens {
        let dims = self.dims[1..].to_vec();
        let n: usize = dims.iter().product();
        Tokens { dims, values: self.values[i * n..][..n].to_vec(), device: self.device.clone() }
    }
}
