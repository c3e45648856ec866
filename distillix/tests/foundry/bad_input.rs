//! What is refused, and how.

use crate::harness::{Folder, Foundry};
use crate::mock::{Behaviour, Mock, hash};
use serde_json::json;
use std::time::Duration;

#[test]
fn wrong_use_is_2_and_says_what_to_do() {
    let folder = Folder::new();
    folder.prompts(1);
    for (teacher, why) in [
        ("openai:ftp://host/v1#m", "only http:// or https:// are"),
        ("openai:file:///etc/passwd#m", "only http:// or https:// are"),
        ("openai:http://user:secret@host/v1#m", "credentials come from"),
        ("other:http://host#m", "no kind of teacher"),
        ("secret", "no kind of teacher"),
        ("openai:http://host/v1", "name the model"),
        ("opencode:http://host#model", "PROVIDER/MODEL"),
    ] {
        let (error, code) = folder.generate(&[teacher]).error();
        assert!(code == 2 && error.contains(why) && !error.contains("secret"), "{teacher}: {error}");
    }
    let (error, code) = folder.generate(&["openai:http://host/v1#m"]).set(&["foundry.temprature=1"]).error();
    assert!(code == 2 && error.contains("did you mean temperature?"), "{error}");
    let (error, code) =
        folder.generate(&["openai:http://host/v1#m"]).args(&["--strategy", "best_of"]).error();
    assert!(code == 2 && error.contains("did you mean best_of_n?"), "{error}");
    let (error, code) = folder.generate(&[]).error();
    assert!(code == 2 && error.contains("--teacher"), "{error}");
}

#[test]
fn a_key_goes_to_one_server_and_stays_there() {
    let answer = Box::new(|_: &str, _: &str| "Bearer sk-47110815 and c2VjcmV0 sk-47110815".to_owned());
    let behaviour = Behaviour { answer, password: Some("sk-47110815".to_owned()), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(1);
    let key = ["--key-env", "MY_KEY"];
    for option in ["--teacher", "--judge"] {
        let args = [&key[..], &[option, "openai:http://host/v1#m", "--strategy", "best_of_n"]].concat();
        let (error, code) =
            folder.generate(&[&mock.openai()]).args(&args).env("MY_KEY", "sk-47110815").error();
        assert!(code == 2 && error.contains("give each teacher its own"), "{error}");
    }
    for (stream, temperature) in [("true", "0.1"), ("false", "0.2")] {
        let stream = format!("foundry.defaults.stream={stream}");
        // Asked again, as another temperature makes it another request.
        let temperature = format!("foundry.temperature={temperature}");
        let run = folder.generate(&[&mock.openai()]).args(&key).env("MY_KEY", "sk-47110815");
        run.set(&[&stream, &temperature]).args(&["--allow-changes"]).ok();
        assert_eq!(folder.records("out.jsonl")[0]["response"], "Bearer *** and c2VjcmV0 ***");
        assert!(!folder.read("out.jsonl.foundry").windows(11).any(|window| window == b"sk-47110815"));
    }
    assert_eq!(mock.requests(), 2);
}

#[test]
fn prompts_that_are_none_name_file_and_line() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    for (line, why) in [
        ("{\"prompt\": \"a\\u0000\"}", "NUL"),
        ("{\"promt\": \"a\"}", "missing field `prompt`"),
        ("oops", "not JSON"),
    ] {
        folder.write("prompts.jsonl", format!("{{\"prompt\": \"fine\"}}\n{line}\n"));
        let (error, code) = folder.generate(&[&mock.openai()]).error();
        assert!(code == 1 && error.contains("prompts.jsonl:2: ") && error.contains(why), "{line}: {error}");
    }
    folder.write("prompts.jsonl", "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"id\":\"a\",\"prompt\":\"y\"}\n");
    let (error, _) = folder.generate(&[&mock.openai()]).error();
    assert!(error.contains("two prompts have the id \"a\""), "{error}");
    assert_eq!(mock.requests(), 0);
}

#[test]
fn two_runs_on_one_store_are_an_error() {
    let behaviour = Behaviour { latency: Duration::from_millis(200), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(60);
    let mut first = folder.generate(&[&mock.openai()]).args(&["--concurrency", "2"]).spawn();
    std::thread::sleep(Duration::from_millis(700));
    let (error, code) = folder.generate(&[&mock.openai()]).error();
    assert!(code == 1 && error.contains("another process works with the store"), "{error}");
    // Looking is allowed.
    let done = folder.status()["status"]["done"].as_u64().unwrap();
    assert!((1..60).contains(&done), "{done}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn other_settings_are_no_silent_mixture() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(5);
    folder.generate(&[&mock.openai()]).ok();
    let changed = || folder.generate(&[&mock.openai()]).set(&["foundry.temperature=0.1"]);
    let (error, code) = changed().error();
    assert!(code == 1 && error.contains("sampling.temperature: 0.7 against 0.1"), "{error}");
    assert_eq!(mock.requests(), 5);
    assert_eq!(folder.records("out.jsonl").len(), 5);
    changed().args(&["--allow-changes"]).ok();
    assert_eq!(mock.requests(), 10);
    // The old answers are still there.
    folder.generate(&[&mock.openai()]).args(&["--allow-changes"]).ok();
    assert_eq!(mock.requests(), 10);
    // What does not decide the answers may change.
    folder.generate(&[&mock.openai()]).args(&["--concurrency", "2"]).set(&["foundry.retries=3"]).ok();
}

#[test]
fn a_full_disk_while_cleaning_leaves_the_former_set() {
    let folder = Folder::new();
    // Numbers that do not compress, more than a writer holds back.
    let text = |record: u64| -> String {
        let numbers = (0..250).map(|at| hash(&(record, at)));
        numbers.map(|number| format!("{number:016x}\n")).collect()
    };
    let lines: String = (0..500).map(|i| format!("{}\n", json!({"text": text(i)}))).collect();
    let input = folder.write("in.jsonl", lines);
    for name in ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"] {
        let output = folder.write(name, "the former set");
        let clean = Foundry::new("clean").arg(&input).args(&["--skip", "near", "--output"]).arg(&output);
        let ran = clean.output_on_small_disk();
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        let message = error.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(message.contains(&format!("cannot write {}", output.display())), "{name}: {error}");
        assert!(message.contains("File too large") && ran.status.code() == Some(1), "{name}: {error}");
        assert_eq!(folder.read(name), b"the former set");
        assert!(!folder.path(&format!("{name}.partial")).exists(), "{name}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(600);
    let output = folder.generate(&[&mock.openai()]).output_on_small_disk();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: ") && stderr.contains("cannot write"), "{stderr}");
    let asked = mock.requests();
    folder.generate(&[&mock.openai()]).ok();
    assert_eq!(folder.records("out.jsonl").len(), 600);
    // Those under way when the disk was full are asked again, the others not.
    assert!(mock.requests() <= 600 + 2 * 8 && asked < 600, "{asked} and then {}", mock.requests());
}

#[test]
fn files_that_are_no_store_are_left_alone() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(1);
    let other = folder.write("other", "just a text file that is longer than a header".repeat(30));
    let (error, _) = folder.generate(&[&mock.openai()]).arg("--store").arg(&other).error();
    assert!(error.contains("cannot be read as a store"), "{error}");
    assert!(folder.read("other").starts_with(b"just a text"));
    let (error, _) = folder.generate(&["openai:http://127.0.0.1:9/v1#m"]).error();
    assert!(error.contains("does not answer"), "{error}");
}
