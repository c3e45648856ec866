//! `distillix foundry exec`.

use super::{Output, WrongUse};
use crate::foundry::sandbox::{Layer, Limits, Options, Sandbox, Verdict};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a Python file in a sandbox, with tests or without, and prints the verdict.
///
/// The verdict is pass, fail, timeout or error; the exit code is 0 for a pass and 1 otherwise. The file sees no network, no
/// environment, no other process, and of the disk only the system, the interpreter and an empty temporary folder. Tests
/// see the file's names; they assert, or define functions named test… or unittest cases.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix foundry exec answer.py
  distillix foundry exec answer.py --tests checks.py --timeout 5 --json
  distillix foundry exec answer.py --without user-namespace     # what holds where there are none")]
pub(in crate::cli) struct Args {
    /// The file to run.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Python code that runs after it and checks what it defined.
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,
    /// Seconds until it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().wall_seconds)]
    timeout: f64,
    /// Memory of all its processes together, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = Limits::default().memory_bytes >> 20)]
    memory: u64,
    /// Processes and threads at one time.
    #[arg(long, value_name = "N", default_value_t = Limits::default().processes)]
    processes: u64,
    /// The Python interpreter. [default: the first python3 that an unprivileged user can run]
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Do without a layer of the sandbox. Repeatable.
    #[arg(long, value_name = "LAYER")]
    without: Vec<Layer>,
    /// Run it even if the machine cannot confine it. Dangerous for code that nobody has read.
    #[arg(long)]
    allow_unconfined: bool,
    /// Print the verdict as a JSON line on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let limits = Limits {
        wall_seconds: args.timeout,
        // A process that computes all the time meets the clock first; one that sleeps meets it as well.
        cpu_seconds: (args.timeout.ceil() as u64).saturating_add(1),
        memory_bytes: args.memory.saturating_mul(1 << 20),
        processes: args.processes,
        ..Limits::default()
    };
    if let Err(problem) = limits.check() {
        bail!(WrongUse(problem));
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let code = read(&args.file)?;
    let tests = args.tests.as_ref().map(read).transpose()?;
    let sandbox = Sandbox::new(Options {
        python: args.python.clone(),
        without: args.without.clone(),
        allow_missing: args.allow_unconfined,
        ..Options::default()
    })
    .context(if args.allow_unconfined {
        "cannot run it"
    } else {
        "cannot run it (--allow-unconfined runs it with what there is)"
    })?;
    let verdict = sandbox.run(&code, tests.as_deref(), &limits)?;
    let output = Output { json: args.json };
    output.record(&verdict)?;
    if !args.json {
        print(output, &verdict)?;
    }
    Ok(if verdict.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(output: Output, verdict: &Verdict) -> Result<()> {
    for (name, text) in [("stdout", &verdict.stdout), ("stderr", &verdict.stderr)] {
        if !text.is_empty() {
            output.prose(&format!("--- {name}\n{}", text.trim_end()))?;
        }
    }
    if !(verdict.stdout.is_empty() && verdict.stderr.is_empty()) {
        output.prose("---")?;
    }
    let reason = if verdict.reason.is_empty() { "" } else { ": " };
    output.prose(&format!(
        "{}{reason}{} ({:.2} s, {:.2} s of processor time, {} MiB)",
        verdict.verdict.name(),
        verdict.reason,
        verdict.wall_seconds,
        verdict.cpu_seconds,
        verdict.peak_memory_bytes >> 20
    ))?;
    let (states, missing) = (verdict.layers.states(), verdict.layers.missing().count());
    output.prose(&format!("sandbox: {} of {} layers hold", states.len() - missing, states.len()))?;
    for state in verdict.layers.missing() {
        output.prose(&format!("  without {}: {}", state.layer, state.detail))?;
    }
    let lacking = verdict.layers.lacking();
    if !lacking.is_empty() {
        output.prose(&format!("warning: it ran without being confined: {}", lacking.join("; ")))?;
    }
    Ok(())
}
