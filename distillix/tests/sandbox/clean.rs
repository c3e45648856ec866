//! `distillix foundry clean --execute`.

use super::{launcher, sandbox};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

#[test]
fn records_with_tests_are_run_and_those_that_do_not_pass_are_dropped() {
    if sandbox(&[]).is_none() {
        return;
    }
    let answer = |id: &str, body: &str, tests: Value| {
        let response = format!("Sure:\n```python\ndef add(a, b):\n    {body}\n```\n");
        json!({"id": id, "prompt": "Add.", "response": response, "tests": tests})
    };
    let tests = json!("assert add(1, 2) == 3");
    let mbpp = json!({"id": "lines", "code": "def double(x):\n    return 2 * x\n", "language": "python",
        "test_list": ["assert double(1) == 2", "assert double(0) == 0"]});
    let records = [
        answer("pass", "return a + b", tests.clone()),
        answer("fail", "return a - b", tests.clone()),
        answer("raise", "raise ValueError(a)", tests.clone()),
        answer("leave", "import os; os._exit(0)", tests.clone()),
        answer("loop", "while True: pass", tests.clone()),
        answer("memory", "return len(bytearray(1 << 40)) + a", tests.clone()),
        answer("no Python in the tests", "return b + a + 0", json!("assert add(1")),
        answer("no tests", "return 1 + a + b - 1", json!(null)),
        answer("empty tests", "return sum([a, b])", json!(" ")),
        mbpp,
        json!({"id": "rust", "text": "fn add(a: u8) -> u8 { a }\n", "language": "rust", "tests": "assert 0"}),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("in.jsonl"), records.map(|record| record.to_string() + "\n").concat()).unwrap();
    let ran = Command::new(launcher())
        .args([
            "foundry",
            "clean",
            "--execute",
            "--json",
            "--skip",
            "near",
            "--set",
            "foundry.clean.execute_seconds=2",
        ])
        .arg(path("in.jsonl"))
        .arg("--output")
        .arg(path("out.jsonl"))
        .arg("--dropped")
        .arg(path("dropped.jsonl"))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let stages = report["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["stage"] == "execute").unwrap();
    assert_eq!((&stage["seen"], &stage["dropped"]), (&json!(11), &json!(6)), "{stage}");
    let reasons = json!({"broke the sandbox's limits, or could not be judged": 2, "failed its tests": 3, "ran out of time": 1});
    assert_eq!(stage["reasons"], reasons);

    let verdicts = |name: &str| -> Vec<(String, Value)> {
        let text = fs::read_to_string(path(name)).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.map(|r| (r["id"].as_str().unwrap().to_owned(), r["checks"]["execute"].clone())).collect()
    };
    let all = |pairs: &[(&str, Value)]| -> Vec<(String, Value)> {
        pairs.iter().map(|(id, verdict)| ((*id).to_owned(), verdict.clone())).collect()
    };
    let (pass, none) = (json!("pass"), Value::Null);
    let kept = [
        ("pass", pass.clone()),
        ("no tests", none.clone()),
        ("empty tests", none.clone()),
        ("lines", pass),
        ("rust", none),
    ];
    assert_eq!(verdicts("out.jsonl"), all(&kept));
    let dropped = [
        ("fail", json!("fail")),
        ("raise", json!("fail")),
        ("leave", json!("fail")),
        ("loop", json!("timeout")),
        ("memory", json!("error")),
        ("no Python in the tests", json!("error")),
    ];
    assert_eq!(verdicts("dropped.jsonl"), all(&dropped));
}

#[test]
fn a_limit_that_is_none_is_wrong_use() {
    let ran = Command::new(launcher())
        .args(["foundry", "clean", ".", "--output", "out.jsonl", "--set", "foundry.clean.execute_seconds=0"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.code() == Some(2) && error.contains("foundry.clean.execute_seconds"), "{error}");
}
