//! What the checks say of answers, and what is done about it.

use crate::harness::Folder;
use crate::mock::{Behaviour, Mock};
use serde_json::{Value, json};
use std::fmt::Write;

const TASK: &str = "Write a Python function double(n).";

/// A prompt with tests, and one without.
fn prompts(folder: &Folder) {
    let mut lines = String::new();
    let tested =
        json!({"id": "tested", "prompt": TASK, "tests": "assert double(4) == 8", "language": "python"});
    let plain = json!({"id": "plain", "prompt": "Write a Python function triple(n).", "language": "python"});
    write!(lines, "{tested}\n{plain}\n").unwrap();
    folder.write("prompts.jsonl", lines);
}

/// Model `right` answers rightly, in chatter; any other is wrong about doubling.
fn behaviour() -> Behaviour {
    let answer = Box::new(|model: &str, text: &str| {
        let (name, factor) = if text == TASK { ("double", 2) } else { ("triple", 3) };
        let factor = if model == "right" || name == "triple" { factor } else { 5 };
        format!("Sure!\n```python\ndef {name}(n):\n    return n * {factor}\n```\nI hope that helps.\n")
    });
    Behaviour { answer, ..Behaviour::default() }
}

/// True where the machine runs no untrusted code, which the run then says.
fn without_sandbox(text: &str) -> bool {
    let refused = text.contains("tests were not run");
    if refused {
        assert!(std::env::var_os("DISTILLIX_REQUIRE_SANDBOX").is_none(), "{text}");
        println!("skipped: {text}");
    }
    refused
}

#[test]
fn tests_are_run_and_answers_marked_or_left_out() {
    let (folder, mock) = (Folder::new(), Mock::start(behaviour()));
    prompts(&folder);
    let text = folder.generate(&[&mock.openai()]).ok();
    if without_sandbox(&text) {
        return;
    }
    let records = folder.records("out.jsonl");
    assert_eq!(records[0]["checks"]["tests"], "fail");
    assert_eq!(
        records[0]["checks"]["clean"],
        json!({"drop": "tests", "reason": "it does not pass its tests"})
    );
    assert_eq!(records[1]["checks"]["clean"], "keep");
    assert!(records[1]["response"].as_str().unwrap().starts_with("Sure!"), "as it came");
    let text = folder.generate(&[&mock.openai()]).args(&["--clean"]).ok();
    assert!(text.contains("1 records in"), "{text}");
    let records = folder.records("out.jsonl");
    assert_eq!(records[0]["response"], "def triple(n):\n    return n * 3\n");
    assert_eq!(mock.requests(), 2);
}

#[test]
fn best_of_n_and_consensus_choose_by_tests() {
    let (folder, mock) = (Folder::new(), Mock::start(behaviour()));
    prompts(&folder);
    let teacher = |name: &str| {
        format!("{{\"name\":\"{name}\",\"url\":\"http://{}/v1\",\"model\":\"{name}\"}}", mock.address)
    };
    let list = format!("foundry.teachers=[{},{},{}]", teacher("wrong"), teacher("false"), teacher("right"));
    let run = |strategy: &str| {
        let args = ["--strategy", strategy, "--samples", if strategy == "consensus" { "1" } else { "3" }];
        folder.generate(&[]).args(&args).arg("--store").arg(folder.path(strategy)).set(&[&list]).ok()
    };
    let text = run("best_of_n");
    if without_sandbox(&text) {
        return;
    }
    let records = folder.records("out.jsonl");
    assert_eq!((&records[0]["teacher"], &records[0]["checks"]["tests"]), (&"right".into(), &"pass".into()));
    assert_eq!(records[0]["checks"]["chosen"], json!({"by": "tests", "of": 3, "passed": 1}));
    assert_eq!(records[1]["checks"]["chosen"]["by"], "agreement");
    // One of three that pass is no majority.
    let text = run("consensus");
    assert!(text.contains("1 of 3 answers pass the tests: fail, fail, pass"), "{text}");
    let ids: Vec<Value> = folder.records("out.jsonl").iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, ["plain"]);
}
