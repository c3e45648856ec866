//! The trained tensors of a model: one list, in which modules hold places.

use crate::ops::{Add, Before, BitLinear, FusedBitLinear, Linear, RmsNorm, SwiGlu};
use crate::ternary::{CodeReport, Ternary, refresh_all};
use autograd::{Gradients, ParamId, Parameter, Tape, Var};
use smallvec::SmallVec;
use tensor::{DType, Device, Error, Result, Tensor};

/// What a parameter is, which decides how it is initialised and optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A matrix of a block, `[out, in]`; ternary or dense.
    Matrix,
    /// The embedding or the output head `[V, H]`, in full precision.
    Embedding,
    /// The gain of a norm.
    Norm,
}

/// One trained tensor.
#[derive(Debug)]
pub struct Param {
    /// Path, as in Hugging Face's Llama: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The full-precision value.
    pub parameter: Parameter,
    /// Codes and scale, if the forward pass uses ternary values.
    pub ternary: Option<Ternary>,
}

impl Param {
    /// What decides the place in memory; parameters of equal keys follow each other in order of id.
    pub(crate) fn memory_key(&self) -> (Role, &[usize]) {
        (self.role, self.parameter.value.dims())
    }

    /// The value with the codes made of it.
    pub(crate) fn quantized(&mut self) -> Option<(&Tensor, &mut Ternary)> {
        Some((&self.parameter.value, self.ternary.as_mut()?))
    }
}

/// All trained tensors of a model. Parameter i has the id i.
#[derive(Debug)]
pub struct Params {
    list: Vec<Param>,
}

/// Name, role and dimensions of a parameter, before memory is taken.
#[derive(Clone, Debug)]
pub struct Spec {
    /// See [`Param::name`].
    pub name: String,
    /// See [`Param::role`].
    pub role: Role,
    /// Dimensions.
    pub dims: Vec<usize>,
}

/// Collects the parameters of a model under construction.
#[derive(Debug, Default)]
pub struct Specs {
    list: Vec<Spec>,
}

impl Specs {
    /// Adds a parameter and returns its place.
    pub fn add(&mut self, name: String, role: Role, dims: &[usize]) -> ParamId {
        self.list.push(Spec { name, role, dims: dims.to_vec() });
        ParamId(self.list.len() - 1)
    }

    /// The parameters so far.
    pub fn list(&self) -> &[Spec] {
        &self.list
    }

    /// Takes memory for all: one allocation, in which parameters of one role and shape lie side by side. Norms are 1;
    /// the rest comes from `init`, which fills tensors on the CPU whatever the device.
    pub fn build(
        self,
        ternary: bool,
        device: &Device,
        mut init: impl FnMut(ParamId, &Spec, &mut Tensor) -> Result<()>,
    ) -> Result<Params> {
        let values = flat(self.list.iter().map(|spec| (spec.role, &spec.dims[..])), device)?;
        let mut list = Vec::with_capacity(values.len());
        for (i, (spec, mut value)) in self.list.into_iter().zip(values).enumerate() {
            match spec.role {
                Role::Norm => value.fill(1.0)?,
                _ if *device == Device::Cpu => init(ParamId(i), &spec, &mut value)?,
                _ => {
                    let mut made = Tensor::empty(&spec.dims, DType::F32, &Device::Cpu)?;
                    init(ParamId(i), &spec, &mut made)?;
                    value.copy_from_slice(made.as_slice::<f32>()?)?;
                }
            }
            let parameter = Parameter { id: ParamId(i), value };
            list.push(Param { name: spec.name, role: spec.role, parameter, ternary: None });
        }
        let mut params = Params { list };
        if ternary {
            params.make_codes(device)?;
        }
        Ok(params)
    }
}

/// Tensors of the given shapes in one allocation, those of equal role and shape side by side.
fn flat<'a>(shapes: impl Iterator<Item = (Role, &'a [usize])>, device: &Device) -> Result<Vec<Tensor>> {
    let shapes: Vec<(Role, &[usize])> = shapes.collect();
    let mut order: Vec<usize> = (0..shapes.len()).collect();
    order.sort_by_key(|&i| shapes[i]);
    let dims: Vec<&[usize]> = order.iter().map(|&i| shapes[i].1).collect();
    let total = dims.iter().map(|d| d.iter().product::<usize>()).sum();
    let parts = Tensor::empty(&[total], DType::F32, device)?.partition(&dims)?;
    let mut sorted: Vec<(usize, Tensor)> = order.into_iter().zip(parts).collect();
    sorted.sort_by_key(|&(i, _)| i);
    Ok(sorted.into_iter().map(|(_, tensor)| tensor).collect())
}

impl Params {
    /// Every parameter, in order of id.
    pub fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.list.iter()
    }

    /// Every parameter, for changing.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Param> {
        self.list.iter_mut()
    }

    /// Every parameter, in the order in which they lie in memory, as [`Params::like`] lays out others too.
    pub(crate) fn in_memory_order(&mut self) -> Vec<&mut Param> {
        let mut list: Vec<&mut Param> = self.list.iter_mut().collect();
        list.sort_by(|a, b| a.memory_key().cmp(&b.memory_key()));
        list
    }

    /// As [`Params::in_memory_order`], for reading.
    pub(crate) fn memory_order(&self) -> Vec<&Param> {
        let mut list: Vec<&Param> = self.list.iter().collect();
        list.sort_by(|a, b| a.memory_key().cmp(&b.memory_key()));
        list
    }

    /// Name of the parameter that holds the element of a place, counted in order of memory.
    pub(crate) fn name_at(&self, place: u64) -> Option<&str> {
        let mut end = 0;
        let holds = |param: &&Param| {
            end += param.parameter.value.numel() as u64;
            place < end
        };
        self.memory_order().into_iter().find(holds).map(|param| &*param.name)
    }

    /// Codes for the matrices.
    fn make_codes(&mut self, device: &Device) -> Result<()> {
        let mut matrices = self.in_memory_order();
        matrices.retain(|param| param.role == Role::Matrix);
        let shapes: Vec<&[usize]> = matrices.iter().map(|param| param.parameter.value.dims()).collect();
        let blank = Ternary::blank(&shapes, device)?;
        for (param, ternary) in matrices.into_iter().zip(blank) {
            param.ternary = Some(ternary);
        }
        self.renew_codes()
    }

    /// Quantizes every matrix as if for the first time: no code has flipped.
    fn renew_codes(&mut self) -> Result<()> {
        let mut matrices: Vec<_> = self.in_memory_order().into_iter().filter_map(Param::quantized).collect();
        // The second time finds what the first left.
        refresh_all(&mut matrices)?;
        refresh_all(&mut matrices)
    }

    /// γ and spread of every ternary weight, in order of id; from a GPU they arrive later.
    pub fn code_report(&self) -> Result<CodeReport> {
        let weights = self.memory_order().into_iter();
        let weights = weights.filter_map(|param| Some((param.parameter.id, param.ternary.as_ref()?)));
        CodeReport::of(&weights.collect::<Vec<_>>())
    }

    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Number of trained elements.
    pub fn numel(&self) -> usize {
        self.list.iter().map(|p| p.parameter.value.numel()).sum()
    }

    /// The parameter at a place.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|p| p.name == name)
    }

    /// Memory for something as large as the parameters: gradients, optimizer states.
    pub fn like(&self, wanted: impl Fn(&Param) -> bool) -> Result<Vec<Option<Tensor>>> {
        let Some(first) = self.list.first() else { return Ok(Vec::new()) };
        let wanted: Vec<bool> = self.list.iter().map(wanted).collect();
        let shapes = self.list.iter().zip(&wanted).filter(|(_, w)| **w);
        let shapes = shapes.map(|(p, _)| (p.role, p.parameter.value.dims()));
        let mut tensors = flat(shapes, &first.parameter.value.device())?.into_iter();
        Ok(wanted.into_iter().map(|w| if w { tensors.next() } else { None }).collect())
    }

    /// Memory for the gradients.
    pub fn gradients(&self) -> Result<Gradients> {
        Ok(Gradients::new(self.like(|_| true)?.into_iter().flatten().collect()))
    }

    /// Overwrites values from `source` by name, and refreshes the codes.
    ///
    /// # Errors
    /// If a parameter is missing, has other dimensions, or holds a number that is not finite.
    pub fn load(&mut self, mut source: impl FnMut(&str) -> Result<Option<Tensor>>) -> Result<()> {
        for param in &mut self.list {
            let Some(value) = source(&param.name)? else {
                return Err(Error::argument("load", format!("there is no tensor {}", param.name)));
            };
            let target = &mut param.parameter.value;
            if value.dims() != target.dims() {
                let (got, want) = (value.dims(), target.dims());
                let message = format!("tensor {} has dims {got:?}, the model needs {want:?}", param.name);
                return Err(Error::shape("load", message));
            }
            let value = value.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
            if let Some(i) = value.as_slice::<f32>()?.iter().position(|x| !x.is_finite()) {
                let message =
                    format!("tensor {} holds a number that is not finite at element {i}", param.name);
                return Err(Error::argument("load", message));
            }
            target.copy_from_slice(value.as_slice::<f32>()?)?;
        }
        self.renew_codes()
    }

    /// Applies the matrices at `ids` to x `[…, K]`: ternary or dense, one op for all.
    pub fn project<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        x: &Var,
        ids: &[ParamId],
    ) -> Result<SmallVec<[Var; 4]>> {
        let weights: SmallVec<[Var; 4]> = ids.iter().map(|&id| tape.param(&self.get(id).parameter)).collect();
        let inputs: SmallVec<[&Var; 5]> = std::iter::once(x).chain(&weights).collect();
        match self.ternary(ids) {
            Some(weights) => tape.apply_n(BitLinear { weights }, &inputs),
            None => tape.apply_n(Linear, &inputs),
        }
    }

    /// Codes of the matrices at `ids`, if they are ternary.
    fn ternary(&self, ids: &[ParamId]) -> Option<SmallVec<[&Ternary; 4]>> {
        ids.iter().map(|&id| self.get(id).ternary.as_ref()).collect()
    }

    /// The sum of x and delta (x itself without one), and the matrices at `ids` applied to its norm with the gain at
    /// `gain`: three matrices at most. One op on a GPU if the matrices are ternary.
    pub fn project_normed<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        x: &Var,
        delta: Option<&Var>,
        (gain, eps): (ParamId, f64),
        ids: &[ParamId],
    ) -> Result<(Var, SmallVec<[Var; 4]>)> {
        let gain = tape.param(&self.get(gain).parameter);
        if let (Device::Cuda(_), Some(_)) = (x.device(), self.ternary(ids)) {
            let before = if delta.is_some() { Before::AddNorm(eps) } else { Before::Norm(eps) };
            let inputs: SmallVec<[&Var; 4]> = [Some(x), delta, Some(&gain)].into_iter().flatten().collect();
            let mut outputs = self.project_fused(tape, before, &inputs, ids)?;
            let sum = if delta.is_some() { outputs.remove(0) } else { x.clone() };
            return Ok((sum, outputs));
        }
        let sum = match delta {
            Some(delta) => tape.apply(Add, &[x, delta])?,
            None => x.clone(),
        };
        let normed = tape.apply(RmsNorm { eps }, &[&sum, &gain])?;
        let outputs = self.project(tape, &normed, ids)?;
        Ok((sum, outputs))
    }

    /// The matrices at `ids` applied to `gate·σ(gate)·up`. One op on a GPU if they are ternary.
    pub fn project_gated<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        [gate, up]: [&Var; 2],
        ids: &[ParamId],
    ) -> Result<SmallVec<[Var; 4]>> {
        if let (Device::Cuda(_), Some(_)) = (gate.device(), self.ternary(ids)) {
            return self.project_fused(tape, Before::SwiGlu, &[gate, up], ids);
        }
        let y = tape.apply(SwiGlu, &[gate, up])?;
        self.project(tape, &y, ids)
    }

    fn project_fused<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        before: Before,
        inputs: &[&Var],
        ids: &[ParamId],
    ) -> Result<SmallVec<[Var; 4]>> {
        let weights: SmallVec<[Var; 4]> = ids.iter().map(|&id| tape.param(&self.get(id).parameter)).collect();
        let inputs: SmallVec<[&Var; 6]> = inputs.iter().copied().chain(&weights).collect();
        let weights = self.ternary(ids).unwrap_or_default();
        tape.apply_n(FusedBitLinear { before, weights }, &inputs)
    }
}
