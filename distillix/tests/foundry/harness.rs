//! Runs of `distillix foundry` in folders of their own.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Prompts that all differ, in `prompts.jsonl`.
    pub fn prompts(&self, count: usize) -> PathBuf {
        let lines: String = (0..count)
            .map(|i| format!("{{\"id\": \"p{i}\", \"prompt\": \"Write function number {i}.\"}}\n"))
            .collect();
        self.write("prompts.jsonl", lines)
    }

    /// The lines of an output.
    pub fn records(&self, name: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `foundry generate` of `prompts.jsonl` into `out.jsonl`, with short waits.
    pub fn generate(&self, teachers: &[&str]) -> Foundry {
        let mut foundry = Foundry::new("generate")
            .arg("--prompts")
            .arg(self.path("prompts.jsonl"))
            .arg("--output")
            .arg(self.path("out.jsonl"))
            .set(&[
                "foundry.timeout_s=4",
                "foundry.timeout_per_token_s=0",
                "foundry.backoff_s=0.01",
                "foundry.max_backoff_s=0.1",
                "foundry.max_output_tokens=64",
                "foundry.breaker.cooldown_s=0.05",
                "foundry.breaker.max_cooldown_s=0.2",
            ]);
        for teacher in teachers {
            foundry = foundry.arg("--teacher").arg(teacher);
        }
        foundry
    }

    /// `foundry status --json` of the store of `out.jsonl`.
    pub fn status(&self) -> Value {
        let text = Foundry::new("status").arg(self.path("out.jsonl.foundry")).arg("--json").ok();
        serde_json::from_str(&text).unwrap()
    }
}

pub struct Foundry {
    command: Command,
}

impl Foundry {
    pub fn new(command: &str) -> Self {
        let mut foundry = Command::new(env!("CARGO_BIN_EXE_distillix"));
        foundry.args(["foundry", command]);
        Foundry { command: foundry }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub fn set(mut self, settings: &[&str]) -> Self {
        for setting in settings {
            self.command.args(["--set", setting]);
        }
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn spawn(mut self) -> Child {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap()
    }

    pub fn output(self) -> Output {
        self.spawn().wait_with_output().unwrap()
    }

    /// As [`Foundry::output`], where no file may grow beyond 50 or 100 KiB (shells differ), as a full disk would not let it.
    pub fn output_on_small_disk(self) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]);
        shell.arg(self.command.get_program()).args(self.command.get_args()).output().unwrap()
    }

    /// What a run that ends well prints.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.output();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message and exit code of a run that fails.
    #[track_caller]
    pub fn error(self) -> (String, i32) {
        let output = self.output();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let line =
            stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{stderr}"));
        (line.to_owned(), output.status.code().unwrap())
    }
}
