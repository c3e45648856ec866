//! What the checks say of answers, and what is done about it.

use crate::harness::Folder;
use crate::mock::{Behaviour, Mock};
use distillix::foundry::config::FoundryConfig;
use distillix::foundry::generate::{Event, Options, generate};
use distillix::foundry::orchestrate::{Tester, Verdict};
use distillix::foundry::prompts::Prompt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

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
    let refused = text.contains("tests will not be run") || text.contains("cannot be chosen by their tests");
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
fn secrets_leave_the_output_and_what_the_checks_drop_is_not_trained_on() {
    let token = format!("ghp_{}", "a1B2c3D4".repeat(5));
    let good = format!("Here:\n```python\ndef triple(n):  # jo@mail.org\n    return n * 3, '{token}'\n```\n");
    let answer = Box::new(move |_: &str, text: &str| {
        if text.contains("triple") {
            good.clone()
        } else {
            "I'm sorry, but I can't help with that.".to_owned()
        }
    });
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    let line =
        |name: &str| json!({"prompt": format!("Write {name}."), "language": "python"}).to_string() + "\n";
    folder.write("prompts.jsonl", line("double") + &line("triple"));
    folder.generate(&[&mock.openai()]).ok();
    let records = folder.records("out.jsonl");
    assert_eq!(records[0]["checks"]["clean"]["drop"], "refusal");
    assert_eq!((&records[1]["checks"]["clean"], records.len()), (&"keep".into(), 2));
    let response = records[1]["response"].as_str().unwrap();
    assert!(response.contains("REDACTED_GITHUB_TOKEN") && response.starts_with("Here:"), "{response}");
    assert!(response.contains("# name@example.com"), "{response}");
    let train = |name: &str, settings: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_distillix"));
        command.args(["train", "--steps", "1", "--set", "data.validation_fraction=0", "--json", "--out"]);
        command.arg(folder.path(name)).arg("--data").arg(folder.path("out.jsonl"));
        let output = command.args(settings).env("XDG_CACHE_HOME", folder.path("cache")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = train("a", &[]);
    assert!(text.contains("1 documents; left out: 1 that failed a check of the foundry"), "{text}");
    let source = format!("data.sources=[{}]", json!({"path": folder.path("out.jsonl"), "keep_failed": true}));
    let text = train("b", &["--set", &source]);
    assert!(!text.contains("left out"), "{text}");
}

#[test]
fn a_set_without_a_record_leaves_the_old_one() {
    let answer = Box::new(|_: &str, _: &str| "I'm sorry, but I can't help with that.".to_owned());
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    folder.write("prompts.jsonl", json!({"id": 7, "prompt": "Write f.", "language": "python"}).to_string());
    folder.write("out.jsonl", "old");
    let (error, code) = folder.generate(&[&mock.openai()]).args(&["--max-requests", "0"]).error();
    assert!(code == 1 && error.contains("no answer yet"), "{error}");
    let (error, code) = folder.generate(&[&mock.openai()]).args(&["--clean"]).error();
    assert!(code == 1 && error.contains("no answer passes the checks"), "{error}");
    assert_eq!(folder.read("out.jsonl"), b"old");
    folder.generate(&[&mock.openai()]).ok();
    assert_eq!(folder.records("out.jsonl")[0]["id"], "7");
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
        let run = folder.generate(&[]).args(&args).arg("--store").arg(folder.path(strategy)).set(&[&list]);
        let output = run.output();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
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

/// Says that no tests can be run, as on a machine that confines nothing.
struct NoSandbox;

impl Tester for NoSandbox {
    fn problem(&self, _: &Prompt) -> Option<String> {
        Some("there is no sandbox".into())
    }

    fn test(&self, _: &Prompt, _: &str) -> BoxFuture<'static, anyhow::Result<Verdict>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

#[test]
fn that_no_tests_can_be_run_is_told_before_anything_is_asked() {
    let (folder, mock) = (Folder::new(), Mock::start(behaviour()));
    let run = |settings: &str, prompts: Vec<Prompt>| {
        let mut config: FoundryConfig = serde_json::from_str(settings).unwrap();
        config.add_teacher(&mock.openai()).unwrap();
        let options = Options {
            config,
            store: folder.path(&format!("{}", settings.len())),
            retry_failed: false,
            allow_changes: false,
            tester: Arc::new(NoSandbox),
            stop: Arc::default(),
        };
        let mut told = Vec::new();
        let done = tokio::runtime::Runtime::new().unwrap().block_on(generate(
            options,
            prompts.into_iter().map(Ok),
            &mut |event| {
                if let Event::Warning(text) = event {
                    told.push((text, mock.requests()));
                }
            },
        ));
        done.map(|_| told).map_err(|error| error.to_string())
    };
    let plain = Prompt { prompt: TASK.into(), ..Prompt::default() };
    let tested = Prompt { tests: Some("assert double(4) == 8".into()), ..plain.clone() };
    let error =
        run("{\"strategy\":\"best_of_n\",\"samples\":2}", vec![plain.clone(), tested.clone()]).unwrap_err();
    assert!(error.contains("answers cannot be chosen by their tests: there is no sandbox"), "{error}");
    assert_eq!(mock.requests(), 0);
    let told = run("{}", vec![plain.clone(), tested]).unwrap();
    assert_eq!(told, [("tests will not be run: there is no sandbox".into(), 0)]);
    assert_eq!(run("{\"samples\":2}", vec![plain]).unwrap(), []);
    // The time that tests have is that of the config.
    let (error, code) = folder.generate(&[&mock.openai()]).set(&["foundry.clean.execute_seconds=0"]).error();
    assert!(code == 2 && error.contains("execute_seconds"), "{error}");
}
