//! `distillix verify` as a program: exit codes, and what goes where.

use std::path::PathBuf;
use std::process::{Command, Output};

// Packed test binaries run without cargo, which tells where things lie at compile time and in the environment.
fn golden(name: &str) -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(package).join("../tests/goldens").join(name)
}

fn verify(args: &[&str], file: &PathBuf) -> Output {
    let program = std::env::var("CARGO_BIN_EXE_distillix").unwrap_or(env!("CARGO_BIN_EXE_distillix").into());
    Command::new(program).arg("verify").args(args).arg(file).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

#[test]
fn agreement_is_exit_code_0() {
    let output = verify(&["--device", "cpu"], &golden("optim.safetensors"));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("all 6 groups agree"));
    assert!(output.stderr.is_empty());
}

#[test]
fn json_lines_go_to_stdout_and_prose_to_stderr() {
    let output = verify(&["--json"], &golden("optim.safetensors"));
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let (last, groups) = lines.split_last().expect("a summary");
    assert_eq!((&last["ok"], &last["kind"]), (&true.into(), &"optimizers".into()));
    assert_eq!(groups.len(), 6);
    assert!(groups.iter().all(|group| group["worst"].as_f64() <= group["tolerance"].as_f64()));
    assert!(text(&output.stderr).contains("agree"));
}

#[test]
fn disagreement_is_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("optim.safetensors");
    let mut bytes = std::fs::read(golden("optim.safetensors")).expect("the golden is there");
    // The last bytes are of an f32 result.
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    std::fs::write(&copy, bytes).expect("room for a copy");
    std::fs::copy(golden("optim.json"), copy.with_extension("json")).expect("room for a copy");
    let output = verify(&[], &copy);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAIL"));
}

#[test]
fn an_error_is_one_line_and_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.safetensors");
    std::fs::write(&broken, b"not a safetensors file at all").expect("room for a file");
    let here = golden("optim.safetensors");
    let missing = folder.path().join("missing.safetensors");
    for (args, file) in [(&[][..], &broken), (&[], &missing), (&["--device", "cuda:1"], &here)] {
        let output = verify(args, file);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
        assert!(error.matches("No such file").count() <= 1, "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_use_is_exit_code_2() {
    let output = verify(&["--device", "gpu"], &golden("optim.safetensors"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("expected auto, cpu, cuda or cuda:N"));
}
