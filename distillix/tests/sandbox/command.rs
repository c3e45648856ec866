//! `distillix foundry exec`, as root and as an ordinary user.

use super::{launcher, sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

fn exec(arguments: &[&str]) -> Output {
    Command::new(launcher()).args(["foundry", "exec"]).args(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).expect("writes");
    path.to_str().expect("is UTF-8").to_owned()
}

#[test]
fn prints_the_verdict_and_tells_it_by_the_exit_code() {
    if sandbox(&[]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let code = file(folder.path(), "a.py", "def f(): return 1\nprint('\\x1b[31mred')\n");
    let right = file(folder.path(), "right.py", "assert f() == 1");
    let wrong = file(folder.path(), "wrong.py", "assert f() == 2");
    for (arguments, exit_code, verdict) in [
        (&[code.as_str()][..], 0, "pass"),
        (&[&code, "--tests", &right], 0, "pass"),
        (&[&code, "--tests", &wrong], 1, "fail"),
    ] {
        let output = exec(arguments);
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(exit_code), "{stdout} {}", text(&output.stderr));
        assert!(stdout.lines().any(|line| line.starts_with(verdict)), "{stdout}");
        assert!(
            stdout.contains("red") && !stdout.contains('\x1b'),
            "the terminal is not the sample's: {stdout}"
        );
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = exec(&arguments);
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON line");
        assert_eq!(record["verdict"], verdict);
        assert_eq!(output.status.code(), Some(exit_code));
    }
}

#[test]
fn refuses_what_cannot_be_confined() {
    if sandbox(&[]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let code = file(folder.path(), "a.py", "print('ran')");
    let without = ["--without", "landlock", "--without", "mount-namespace"];
    let output = exec(&[&[code.as_str()], &without[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("refused") && stderr.contains("--allow-unconfined"), "{stderr}");
    assert!(!text(&output.stdout).contains("ran"));
    let output = exec(&[&[code.as_str(), "--allow-unconfined"], &without[..]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("ran") && text(&output.stdout).contains("warning"));
}

/// Benchmarks keep their tests in forms of their own.
#[test]
fn clean_runs_tests_in_the_forms_of_benchmarks() {
    if sandbox(&[]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let answer =
        |sign: char| format!("def add(a, b):\n    \"\"\"Give the sum.\"\"\"\n    return a {sign} b\n");
    let human_eval = |name: &str, sign| {
        serde_json::json!({"task_id": name, "prompt": "def add(a, b):\n    \"\"\"Give the sum.\"\"\"\n", "entry_point": "add",
            "completion": answer(sign), "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 1) == 2\n"})
    };
    let mbpp = |name: &str, sign| {
        serde_json::json!({"task_id": name, "prompt": "Give the sum.", "code": answer(sign), "test_setup_code": "import math",
            "test_list": ["assert add(1, 1) == 2", "assert add(2, 2) == math.sqrt(16)"]})
    };
    let body = |name: &str, sign: char| {
        let mut record = human_eval(name, sign);
        record["completion"] = format!("    total = a {sign} b\n    return total\n").into();
        record["language"] = "python".into();
        record
    };
    let lines = [
        body("b+", '+'),
        body("b-", '-'),
        human_eval("h+", '+'),
        human_eval("h-", '-'),
        mbpp("m+", '+'),
        mbpp("m-", '-'),
    ];
    let input = file(folder.path(), "in.jsonl", &lines.map(|line| format!("{line}\n")).concat());
    let output = folder.path().join("out.jsonl");
    let arguments =
        ["foundry", "clean", &input, "--execute", "--skip", "exact", "--skip", "near", "--output"];
    let done = Command::new(launcher()).args(arguments).arg(&output).output().expect("runs");
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    let kept = fs::read_to_string(&output).unwrap();
    let kept: Vec<serde_json::Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<_> = kept.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["b+", "h+", "m+"], "{}", text(&done.stdout));
}

#[test]
fn wrong_use_has_its_own_exit_code() {
    assert_eq!(exec(&["a.py", "--timeout", "0"]).status.code(), Some(2));
    assert_eq!(exec(&["a.py", "--without", "hope"]).status.code(), Some(2));
    let missing = exec(&["/nowhere/a.py"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere/a.py"));
}

/// The attacks once more, by a user without privileges. Root alone can become one, so others have done this already.
#[test]
fn attacks_are_contained_for_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() || sandbox(&[]).is_none() {
        println!("skipped: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(folder.path());
    // Copies, because a build folder need not be open to others.
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        fs::copy(from, &to).unwrap();
        open(&to);
        to
    };
    let program = copy(&launcher(), "distillix");
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let output = Command::new(tests)
        .args(["run_attacks::attacks_are_contained", "--nocapture"])
        .env("DISTILLIX_TEST_LAUNCHER", program)
        .current_dir("/")
        .uid(65_533)
        .gid(65_533)
        .output()
        .unwrap();
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success());
}
