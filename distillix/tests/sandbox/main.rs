//! The sandbox: what it says of honest samples, and what it keeps from the others.
//!
//! Where the machine gives no sandbox at all, the tests say `skipped:`; with `DISTILLIX_REQUIRE_SANDBOX=1` that is a failure.
#![cfg(target_os = "linux")]

mod attacks;
mod clean;
mod command;
mod host;
mod prompts;
mod run_attacks;
mod verdicts;

use distillix::foundry::sandbox::{Layer, Options, Sandbox, SandboxError};
use std::path::PathBuf;

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
