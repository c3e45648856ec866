//! Trained tensors and where their gradients are collected.

use tensor::{Error, Result, Tensor};

/// Index of a parameter in its [`Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// A trained tensor. Modules own these; a tape borrows them.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its place in [`Gradients`].
    pub id: ParamId,
    /// The value.
    pub value: Tensor,
}

/// The gradients of all parameters, summed over the backward passes since [`Gradients::clear`].
#[derive(Debug, Default)]
pub struct Gradients {
    /// `None` only while an op writes the tensor.
    pub(crate) tensors: Vec<Option<Tensor>>,
    pub(crate) written: Vec<bool>,
}

impl Gradients {
    /// Collects into these tensors; the first contribution overwrites what they hold. Gradient `i` belongs to the
    /// parameter with id `i`.
    pub fn new(tensors: Vec<Tensor>) -> Self {
        let written = vec![false; tensors.len()];
        Gradients { tensors: tensors.into_iter().map(Some).collect(), written }
    }

    /// Forgets every contribution. Touches no memory: the next contribution overwrites.
    pub fn clear(&mut self) {
        self.written.fill(false);
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The gradient of a parameter, or `None` if no backward pass contributed to it.
    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        if !*self.written.get(id.0)? { None } else { self.tensors[id.0].as_ref() }
    }

    /// The gradient of a parameter for writing in place (clipping), or `None` if nothing contributed.
    pub fn get_mut(&mut self, id: ParamId) -> Option<&mut Tensor> {
        if !*self.written.get(id.0)? { None } else { self.tensors[id.0].as_mut() }
    }

    pub(crate) fn check(&self, id: ParamId) -> Result<()> {
        if id.0 < self.tensors.len() {
            return Ok(());
        }
        let message = format!("parameter {} has no place among {} gradients", id.0, self.tensors.len());
        Err(Error::Argument { op: "backward", message })
    }
}
