//! What is settled at the start of a run beside its config: how its steps run on the machine at hand.

use super::config::Config;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tensor::cuda::{BlasChoice, Cuda};
use tensor::{DType, Device};

/// Type of the activations; weights, sums and optimizer states are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// The upper 16 of them, on a GPU.
    Bf16,
}

impl Precision {
    /// As an element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// How the steps of a run are computed. The same plan on the same device gives the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it was made for: `cpu`, or the card's name.
    pub device: String,
    /// Type of the activations.
    pub precision: Precision,
    /// Rows that are computed at once.
    pub micro_batch: usize,
    /// Whether blocks are computed again in the backward pass.
    pub recompute: bool,
    /// Most bytes of the card that the process takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<usize>,
    /// Algorithms of cuBLASLt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<BlasChoice>,
}

/// Of a card's memory that is free, what is left to others if no limit is given.
const HEADROOM: usize = 512 << 20;
/// Tokens at once that a GPU is fastest with. On an H100 the 125m preset made, in thousands of tokens a second, 449 with
/// 8,192, 498 with 16,384, 526 with 32,768 and 453 with 65,536.
const BEST_TOKENS: usize = 32_768;
/// Tokens at once below which a GPU is not kept busy: then computing blocks again with more rows is the better way.
const BUSY_TOKENS: usize = 8192;

impl Plan {
    /// Plans for `config` on `device`, the fastest first; the first that fits the memory is to be taken. `limit` bounds
    /// what the process takes of a GPU's memory, in bytes.
    ///
    /// # Errors
    /// If the precision or the limit makes no sense there.
    pub fn candidates(config: &Config, device: &Device, limit: Option<usize>) -> Result<Vec<Plan>> {
        let training = &config.training;
        let Device::Cuda(gpu) = device else {
            ensure!(limit.is_none(), "--memory-limit is for a GPU, and this run is on the CPU");
            ensure!(
                training.precision != Some(Precision::Bf16),
                "training.precision is bf16, which is for a GPU, and this run is on the CPU"
            );
            return Ok(vec![Plan {
                device: device.to_string(),
                precision: Precision::F32,
                micro_batch: training.micro_batch.unwrap_or(1),
                recompute: training.recompute.unwrap_or(true),
                memory_limit: None,
                products: Vec::new(),
            }]);
        };
        let limit = Some(match limit {
            Some(limit) => limit,
            None => everything_free(*gpu)?,
        });
        let rows: Vec<usize> = match training.micro_batch {
            Some(rows) => vec![rows],
            None => {
                let most = (BEST_TOKENS / training.seq_len).max(1);
                let fits = |rows: &usize| *rows <= most && training.batch_size.is_multiple_of(*rows);
                (1..=training.batch_size).rev().filter(fits).collect()
            }
        };
        let plan = |micro_batch, recompute| Plan {
            device: gpu.name().to_owned(),
            precision: training.precision.unwrap_or(Precision::Bf16),
            micro_batch,
            recompute,
            memory_limit: limit,
            products: Vec::new(),
        };
        let busy = |rows: &&usize| **rows * training.seq_len >= BUSY_TOKENS;
        let choices = |recompute| training.recompute.is_none_or(|fixed| fixed == recompute);
        let mut plans = Vec::new();
        for (few, recompute) in [(false, false), (false, true), (true, false), (true, true)] {
            if choices(recompute) {
                let rows = rows.iter().filter(|rows| busy(rows) != few);
                plans.extend(rows.map(|&rows| plan(rows, recompute)));
            }
        }
        Ok(plans)
    }

    /// Plans to try in order: the one that is `given`, else the one `kept` in the run's folder, else all candidates. `warn`
    /// hears why a kept plan cannot be followed.
    ///
    /// # Errors
    /// As [`Plan::candidates`]; or the given plan does not suit the run.
    pub fn choices(
        given: Option<&Path>,
        kept: &Path,
        config: &Config,
        device: &Device,
        limit: Option<usize>,
        warn: &mut dyn FnMut(&str),
    ) -> Result<Vec<Plan>> {
        if let Some(path) = given {
            let plan = Plan::load(path, config, device)?;
            // Of a plan for another card the sizes hold, but not the algorithms.
            let (products, kept_limit) = match plan.is_for(device) {
                true => (plan.products, plan.memory_limit),
                false => (Vec::new(), None),
            };
            return Ok(vec![Plan { products, memory_limit: limit.or(kept_limit), ..plan }]);
        }
        if kept.exists() {
            match Plan::load(kept, config, device) {
                Ok(plan) if plan.is_for(device) => {
                    return Ok(vec![Plan { memory_limit: limit.or(plan.memory_limit), ..plan }]);
                }
                Ok(plan) => {
                    let made = plan.device;
                    warn(&format!(
                        "this run was made on {made}; going on with {device} gives other roundings"
                    ));
                }
                Err(error) => warn(&format!("{error:#}; choosing another")),
            }
        }
        Plan::candidates(config, device, limit)
    }

    /// Reads a plan, and checks that `config` can run by it on `device`.
    pub fn load(path: &Path, config: &Config, device: &Device) -> Result<Plan> {
        let read = || -> Result<Plan> {
            let plan: Plan = serde_json::from_slice(&std::fs::read(path)?)?;
            let batch = config.training.batch_size;
            ensure!(
                plan.micro_batch > 0 && batch.is_multiple_of(plan.micro_batch),
                "micro_batch is {}, it must divide training.batch_size {batch}",
                plan.micro_batch
            );
            ensure!(
                plan.precision == Precision::F32 || *device != Device::Cpu,
                "precision is bf16, which is for a GPU, and this run is on the CPU"
            );
            Ok(plan)
        };
        read().with_context(|| format!("the plan {}", path.display()))
    }

    /// Whether it was made for `device`, so that its results can be the same bits there.
    pub fn is_for(&self, device: &Device) -> bool {
        match device {
            Device::Cuda(gpu) => gpu.name() == self.device,
            device => device.to_string() == self.device,
        }
    }

    /// Bounds the memory and fixes the algorithms of `device`.
    pub fn apply(&self, device: &Device) -> Result<()> {
        if let Device::Cuda(gpu) = device {
            gpu.set_blas_choices(self.products.iter().cloned());
            if let Some(limit) = self.memory_limit {
                let outside = outside_pools(*gpu)?;
                ensure!(
                    limit > outside,
                    "the limit of {} MiB is below the {} MiB that CUDA itself takes",
                    limit >> 20,
                    outside >> 20
                );
                gpu.set_memory_limit(Some(limit - outside));
            }
        }
        Ok(())
    }

    /// The error; if it is that a step's memory ran out, with the settings that help.
    pub fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        if !is_out_of_memory(&error) {
            return error;
        }
        let mut help = Vec::new();
        if self.micro_batch > 1 {
            help.push(format!("training.micro_batch below {}", self.micro_batch));
        }
        if !self.recompute {
            help.push("training.recompute=true".to_owned());
        }
        help.push("a smaller training.seq_len or model".to_owned());
        if let Some(limit) = self.memory_limit {
            help.push(format!("--memory-limit above {:.1} GiB, if the card has it", gib(limit)));
        }
        error.context(format!("a step does not fit the GPU's memory; what helps: {}", help.join(", ")))
    }

    /// Micro-batches of an optimizer step.
    pub fn micro_batches(&self, config: &Config) -> usize {
        config.training.batch_size / self.micro_batch
    }

    /// In words.
    pub fn describe(&self, config: &Config) -> String {
        let Plan { device, micro_batch, recompute, .. } = self;
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        let again = if *recompute { "blocks computed again" } else { "blocks remembered" };
        let limit = self.memory_limit.map(|limit| format!(", at most {:.1} GiB", gib(limit)));
        format!(
            "{device}, {precision}, {} × {micro_batch} rows of {} tokens, {again}{}",
            self.micro_batches(config),
            config.training.seq_len,
            limit.unwrap_or_default()
        )
    }
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Whether an error is that a device's memory ran out.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(tensor::Error::OutOfMemory { .. })))
}

/// The error; if it is that memory ran out before there is a step, with what helps.
pub fn too_large(error: anyhow::Error) -> anyhow::Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    error.context(
        "the model, with what is kept beside its weights, does not fit the GPU's memory; what helps: a smaller model, a \
         higher --memory-limit, --device cpu",
    )
}

/// What the process takes of the card beside tensors: the driver's context, kernels, libraries. Counts what other
/// processes use too, since the driver does not tell them apart.
fn outside_pools(gpu: Cuda) -> Result<usize> {
    let (free, total) = gpu.memory_info()?;
    Ok((total - free).saturating_sub(gpu.memory_stats().reserved))
}

fn everything_free(gpu: Cuda) -> Result<usize> {
    let (_, total) = gpu.memory_info()?;
    Ok(total.saturating_sub(HEADROOM))
}

/// A number of bytes such as `8GiB`, `8G`, `7500MiB`.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(format!("expected a size such as 8GiB, got {text}")),
    };
    let number: f64 = number.parse().map_err(|_| format!("expected a size such as 8GiB, got {text}"))?;
    if !(number.is_finite() && number > 0.0) {
        return Err(format!("expected a size above 0, got {text}"));
    }
    Ok((number * unit) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5 g"), Ok(3 << 29));
        assert_eq!(parse_bytes("7500MB"), Ok(7_500_000_000));
        assert!(parse_bytes("8 bananas").is_err() && parse_bytes("").is_err() && parse_bytes("0").is_err());
    }

    #[test]
    fn the_settings_that_save_memory_are_named() {
        let mut plan = Plan {
            device: "a card".to_owned(),
            precision: Precision::Bf16,
            micro_batch: 8,
            recompute: false,
            memory_limit: Some(8 << 30),
            products: Vec::new(),
        };
        let ran_out = || {
            let error = tensor::Error::OutOfMemory {
                device: "cuda:0".to_owned(),
                what: "bf16 [16384, 2048]".to_owned(),
                op: Some("swiglu"),
                requested: 64 << 20,
                in_use: 7 << 30,
                reserved: 7 << 30,
                limit: Some(7 << 30),
            };
            anyhow::Error::new(error).context("a training step")
        };
        let said = format!("{:#}", plan.advise(ran_out()));
        for word in
            ["micro_batch below 8", "recompute=true", "seq_len", "above 8.0 GiB", "[16384, 2048] of swiglu"]
        {
            assert!(said.contains(word), "{said}");
        }
        (plan.micro_batch, plan.recompute, plan.memory_limit) = (1, true, None);
        let said = format!("{:#}", plan.advise(ran_out()));
        assert!(!said.contains("training.micro_batch") && !said.contains("--memory-limit"), "{said}");
        assert_eq!(plan.advise(anyhow::anyhow!("a lost card")).to_string(), "a lost card");
    }

    #[test]
    fn the_cpu_has_one_plan() {
        let config = Config::preset("125m").expect("a preset");
        let plans = Plan::candidates(&config, &Device::Cpu, None).expect("the CPU can");
        assert_eq!(plans.len(), 1);
        assert!(plans[0].recompute && plans[0].micro_batch == 1 && plans[0].is_for(&Device::Cpu));
        assert!(Plan::candidates(&config, &Device::Cpu, Some(1 << 30)).is_err());
    }
}
