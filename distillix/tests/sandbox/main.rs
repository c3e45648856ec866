//! The sandbox: what it says of honest samples, and what it keeps from the others.
//!
//! Where the machine gives no sandbox at all, the tests say `skipped:`; with `DISTILLIX_REQUIRE_SANDBOX=1` that is a failure.
#![cfg(target_os = "linux")]

mod attacks;
mod cheats;
mod clean;
mod command;
mod failures;
mod host;
mod prompts;
mod run_attacks;
mod verdicts;

use distillix::foundry::sandbox::{Layer, Limits, Options, Sandbox, SandboxError, Verdict};
use std::path::PathBuf;
use std::sync::Mutex;

/// The layers that containers often do not give.
const NAMESPACES: [Layer; 6] = [
    Layer::UserNamespace,
    Layer::PidNamespace,
    Layer::MountNamespace,
    Layer::NetworkNamespace,
    Layer::IpcNamespace,
    Layer::UtsNamespace,
];

/// The program, or where a test has put a copy that others can run.
fn launcher() -> PathBuf {
    std::env::var_os("DISTILLIX_TEST_LAUNCHER")
        .map_or_else(|| env!("CARGO_BIN_EXE_distillix").into(), PathBuf::from)
}

fn options(without: &[Layer]) -> Options {
    Options { launcher: Some(launcher()), without: without.to_vec(), ..Options::default() }
}

/// A sandbox without some layers, or `None` with a word on stdout where the machine's other layers do not suffice.
fn sandbox(without: &[Layer]) -> Option<Sandbox> {
    match Sandbox::new(options(without)) {
        Ok(sandbox) => Some(sandbox),
        Err(error @ (SandboxError::Refused { .. } | SandboxError::Python(_))) => {
            assert!(std::env::var_os("DISTILLIX_REQUIRE_SANDBOX").is_none(), "{error}");
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The verdicts of many samples, code and tests, with `parallel` runs at a time.
fn run_all(sandbox: &Sandbox, samples: &[(&str, Option<&str>)], parallel: usize) -> Vec<Verdict> {
    let (next, verdicts) = (Mutex::new(0..samples.len()), Mutex::new(vec![None; samples.len()]));
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let Some(at) = next.lock().unwrap().next() else { break };
                    let (code, tests) = samples[at];
                    let verdict = sandbox.run(code, tests, &Limits::default()).expect("the sandbox works");
                    verdicts.lock().unwrap()[at] = Some(verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap().into_iter().map(|verdict| verdict.expect("all were run")).collect()
}
