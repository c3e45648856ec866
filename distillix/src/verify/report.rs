//! What a comparison found.

use anyhow::{Result, ensure};
use serde::Serialize;
use tensor::{Element, Tensor};

/// The worst error of a group of values.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Name of the group.
    pub name: String,
    /// Worst error, or `None` if one was not finite: relative L2 `‖a-b‖/‖b‖` in f64 against the reference b, or the
    /// number of elements that differ where they must be equal.
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
    pub(super) fn new(kind: &'static str) -> Self {
        Report { kind, groups: Vec::new() }
    }

    /// Whether every group is within its tolerance.
    pub fn ok(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|g| g.ok)
    }

    /// Notes an error.
    pub(super) fn note(&mut self, group: &str, tolerance: f64, at: &str, error: f64) {
        let finite = error.is_finite();
        // Written so that NaN fails.
        let ok = error <= tolerance;
        let Some(known) = self.groups.iter_mut().find(|g| g.name == group) else {
            let (name, at) = (group.to_owned(), at.to_owned());
            let worst = finite.then_some(error);
            self.groups.push(Group { name, worst, at, tolerance, compared: 1, ok });
            return;
        };
        known.compared += 1;
        known.ok &= ok;
        if known.worst.is_some_and(|worst| !finite || error > worst) {
            known.worst = finite.then_some(error);
            known.at = at.to_owned();
        }
    }

    /// Compares values by relative L2.
    pub(super) fn close(
        &mut self,
        group: &str,
        tolerance: f64,
        at: &str,
        got: &[f32],
        want: &[f32],
    ) -> Result<()> {
        same_length(at, got.len(), want.len())?;
        self.note(group, tolerance, at, relative(got.iter().zip(want)));
        Ok(())
    }

    /// Compares rows (last axis) by relative L2, each for itself.
    pub(super) fn rows_close(
        &mut self,
        group: &str,
        tolerance: f64,
        at: &str,
        got: &Tensor,
        want: &Tensor,
    ) -> Result<()> {
        same_dims(at, got, want)?;
        let width = want.last_dim().max(1);
        let (got, want) = (got.to_vec::<f32>()?, want.to_vec::<f32>()?);
        for (i, (got, want)) in got.chunks_exact(width).zip(want.chunks_exact(width)).enumerate() {
            self.note(group, tolerance, &format!("{at} row {i}"), relative(got.iter().zip(want)));
        }
        Ok(())
    }

    /// Compares the columns of matrices by relative L2, each for itself.
    pub(super) fn columns_close(
        &mut self,
        group: &str,
        tolerance: f64,
        at: &str,
        got: &Tensor,
        want: &Tensor,
    ) -> Result<()> {
        same_dims(at, got, want)?;
        let width = want.last_dim().max(1);
        let (got, want) = (got.to_vec::<f32>()?, want.to_vec::<f32>()?);
        for column in 0..width {
            let pairs = got[column..].iter().step_by(width).zip(want[column..].iter().step_by(width));
            self.note(group, tolerance, &format!("{at} column {column}"), relative(pairs));
        }
        Ok(())
    }

    /// Compares tensors of the same dimensions by relative L2.
    pub(super) fn tensors_close(
        &mut self,
        group: &str,
        tolerance: f64,
        at: &str,
        got: &Tensor,
        want: &Tensor,
    ) -> Result<()> {
        same_dims(at, got, want)?;
        self.close(group, tolerance, at, &got.to_vec::<f32>()?, &want.to_vec::<f32>()?)
    }

    /// Compares the changes from `start`: `‖(got - start) - (want - start)‖ / ‖want - start‖`.
    pub(super) fn changes_close(
        &mut self,
        group: &str,
        tolerance: f64,
        at: &str,
        [got, want, start]: [&Tensor; 3],
    ) -> Result<()> {
        same_dims(at, got, want)?;
        same_dims(at, start, want)?;
        let [got, want, start] = [got.to_vec::<f32>()?, want.to_vec::<f32>()?, start.to_vec::<f32>()?];
        let (mut difference, mut norm) = (0.0, 0.0);
        for ((got, want), start) in got.iter().zip(&want).zip(&start) {
            let (got, want, start) = (f64::from(*got), f64::from(*want), f64::from(*start));
            difference += (got - want).powi(2);
            norm += (want - start).powi(2);
        }
        self.note(group, tolerance, at, ratio(difference, norm));
        Ok(())
    }

    /// Compares two numbers by relative difference.
    pub(super) fn number(&mut self, group: &str, tolerance: f64, at: &str, got: f64, want: f64) {
        self.note(group, tolerance, at, ratio((got - want).powi(2), want * want));
    }

    /// Counts the elements that differ.
    pub(super) fn equal<T: PartialEq>(&mut self, group: &str, at: &str, got: &[T], want: &[T]) -> Result<()> {
        same_length(at, got.len(), want.len())?;
        let differ = got.iter().zip(want).filter(|(got, want)| got != want).count();
        self.note(group, 0.0, at, differ as f64);
        Ok(())
    }

    /// [`Report::equal`] for tensors.
    pub(super) fn tensors_equal<T: Element>(
        &mut self,
        group: &str,
        at: &str,
        got: &Tensor,
        want: &Tensor,
    ) -> Result<()> {
        same_dims(at, got, want)?;
        self.equal(group, at, &got.to_vec::<T>()?, &want.to_vec::<T>()?)
    }
}

fn same_length(at: &str, got: usize, want: usize) -> Result<()> {
    ensure!(got == want, "{at} has {want} elements, {got} were computed");
    Ok(())
}

fn same_dims(at: &str, got: &Tensor, want: &Tensor) -> Result<()> {
    ensure!(got.dims() == want.dims(), "{at} has dims {:?}, computed were {:?}", want.dims(), got.dims());
    Ok(())
}

/// `‖got - want‖ / ‖want‖`. Values reach 1e30, whose squares only f64 holds.
fn relative<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&got, &want) in pairs {
        let (got, want) = (f64::from(got), f64::from(want));
        difference += (got - want).powi(2);
        norm += want * want;
    }
    ratio(difference, norm)
}

/// `√(difference / norm)`; where the reference is 0, only 0 is right.
fn ratio(difference: f64, norm: f64) -> f64 {
    if difference == 0.0 && norm == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(got: &[f32], want: &[f32]) -> (Option<f64>, bool) {
        let mut report = Report::new("test");
        report.close("a", 1e-5, "x", got, want).unwrap();
        (report.groups[0].worst, report.ok())
    }

    #[test]
    fn only_small_finite_errors_pass() {
        assert_eq!(worst(&[1.0, 2.0], &[1.0, 2.0]), (Some(0.0), true));
        assert_eq!(worst(&[0.0], &[0.0]), (Some(0.0), true));
        assert!(!worst(&[1.0001], &[1.0]).1);
        assert_eq!(worst(&[1e-30], &[0.0]), (None, false));
        assert_eq!(worst(&[f32::NAN], &[1.0]), (None, false));
        assert_eq!(worst(&[f32::NAN], &[f32::NAN]), (None, false));
        assert_eq!(worst(&[f32::INFINITY], &[f32::INFINITY]), (None, false));
        assert!(worst(&[1e30, 1e-30], &[1e30, 1e-30]).1);
    }

    #[test]
    fn a_group_keeps_its_worst() {
        let mut report = Report::new("test");
        assert!(!report.ok(), "nothing compared is not agreement");
        for (at, error) in [("a", 1e-7), ("b", 3e-7), ("c", 2e-7)] {
            report.note("g", 1e-6, at, error);
        }
        assert_eq!((report.groups[0].at.as_str(), report.groups[0].compared, report.ok()), ("b", 3, true));
        for (at, error) in [("d", f64::NAN), ("e", 1e-8), ("f", 9.0)] {
            report.note("g", 1e-6, at, error);
        }
        let group = &report.groups[0];
        assert_eq!((group.at.as_str(), group.worst, group.ok), ("d", None, false));
    }

    #[test]
    fn rows_and_columns_stand_alone() -> Result<()> {
        let tensor = |values: &[f32]| Tensor::from_slice(values, &[2, 2], &tensor::Device::Cpu);
        let (want, got) = (tensor(&[1e30, 1.0, 1e30, 2.0])?, tensor(&[1e30, 1.1, 1e30, 2.0])?);
        let mut report = Report::new("test");
        report.rows_close("rows", 1e-6, "x", &got, &want)?;
        report.columns_close("columns", 1e-6, "x", &got, &want)?;
        assert!(report.groups[0].ok && !report.groups[1].ok);
        assert_eq!(report.groups[1].at, "x column 1");
        Ok(())
    }
}
