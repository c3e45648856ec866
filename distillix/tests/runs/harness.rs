//! Runs of a tiny model in folders of their own.

use serde_json::Value;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A model whose steps take a few milliseconds.
pub const TINY: [&str; 15] = [
    "model.hidden=64",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=1",
    "model.head_dim=32",
    "model.mlp=128",
    "model.max_seq=64",
    "training.seq_len=64",
    "training.batch_size=4",
    "training.micro_batch=2",
    "training.warmup_steps=5",
    "training.log_every=1",
    "training.eval_every=0",
    "training.final_lr_fraction=0.1",
    "data.validation_fraction=0.05",
];

/// A folder with something to train on, for runs.
pub struct Runs {
    folder: TempDir,
}

impl Runs {
    pub fn new() -> Self {
        let runs = Runs { folder: TempDir::new().unwrap() };
        let mut lines = String::new();
        for i in 0..200 {
            let (name, argument) =
                (["total", "count", "shift", "score"][i % 4], ["x", "value", "item"][i % 3]);
            writeln!(
                lines,
                r#"{{"text": "def {name}_{i}({argument}):\n    return {argument} + {}\n"}}"#,
                i * 7 % 100
            )
            .unwrap();
        }
        fs::write(runs.path("data.jsonl"), lines).unwrap();
        runs
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `train` of the tiny model on the data into the folder `out`, from `teacher`.
    pub fn distill(&self, out: &str, teacher: impl AsRef<OsStr>, settings: &[&str]) -> Train {
        let cache = format!("data.cache_dir={}", self.path("cache").display());
        let train = Train::new().arg("--out").arg(self.path(out)).arg("--teacher").arg(teacher).arg("--data");
        train
            .arg(self.path("data.jsonl"))
            .set(&TINY)
            .set(&["data.fim_rate=0", "distillation.init=false", &cache])
            .set(settings)
    }

    /// The same without a teacher.
    pub fn train(&self, out: &str, settings: &[&str]) -> Train {
        self.distill(out, "none", settings)
    }

    /// `train --resume` of the run in `out`, with the config that it has.
    pub fn resume(&self, out: &str, settings: &[&str]) -> Train {
        Train::new().arg("--resume").arg("--out").arg(self.path(out)).set(settings)
    }
}

/// The program: where it was built, or where the environment says if the tests were packed to run elsewhere.
pub fn program() -> String {
    std::env::var("CARGO_BIN_EXE_distillix").unwrap_or(env!("CARGO_BIN_EXE_distillix").into())
}

/// A command line of `train`.
pub struct Train {
    command: Command,
}

impl Train {
    pub fn new() -> Self {
        let mut command = Command::new(program());
        command.arg("train");
        Train { command }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn set(mut self, settings: &[&str]) -> Self {
        for setting in settings {
            self.command.args(["--set", setting]);
        }
        self
    }

    pub fn spawn(mut self) -> Child {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap()
    }

    pub fn output(self) -> Output {
        self.spawn().wait_with_output().unwrap()
    }

    /// As [`Train::output`], where no file may grow beyond 100 or 200 KiB (shells differ), as a full disk would not let
    /// it. That is enough for all but the weights.
    pub fn output_on_small_disk(self) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""]);
        shell.arg(self.command.get_program()).args(self.command.get_args()).output().unwrap()
    }

    /// What a run that ends well prints.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.output();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert!(!stderr.contains("error"), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line of a run that fails.
    #[track_caller]
    pub fn error(self) -> String {
        error_of(&self.output())
    }
}

#[track_caller]
pub fn error_of(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {stderr}", output.status);
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    stderr
}

/// The bytes of a run's weights.
pub fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("model.safetensors")).expect("the run has weights")
}

/// The lines of a run's metrics.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// Step and loss of each line about a step, in order.
pub fn losses(run: &Path) -> Vec<(u64, f64)> {
    let lines = metrics(run).into_iter();
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect()
}
