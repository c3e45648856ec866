//! What a comparison found.

use serde::Serialize;

/// The worst error of a group of values.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Name of the group.
    pub name: String,
    /// Worst error, or `None` if one was not finite.
    pub worst: Option<f64>,
    /// Where it was.
    pub at: String,
    /// Largest error allowed; 0 where values must be equal.
    pub tolerance: f64,
    /// Number of comparisons.
    pub compared: usize,
    /// Whether no error was over the tolerance.
    pub ok: bool,
}

/// All groups of a file.
#[derive(Clone, Debug)]
pub struct Report {
    /// Kind of the file.
    pub kind: &'static str,
    /// The groups, in the order they were met.
    pub groups: Vec<Group>,
}

impl Report {
    /// Whether every group is within its tolerance.
    pub fn ok(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|g| g.ok)
    }
}
