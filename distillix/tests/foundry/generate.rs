//! Plain runs: what comes out, what is asked, what is told.

use crate::harness::{Folder, Foundry};
use crate::mock::{Behaviour, Mock, code};
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn answers_are_in_the_order_of_the_prompts_and_asked_once() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(60);
    let text = folder.generate(&[&mock.openai()]).ok();
    assert!(text.contains("60 of 60 answered, 0 failed, 0 left"), "{text}");
    let row = text.lines().find(|line| line.contains("#mock")).unwrap();
    assert!(row.ends_with(" -"), "nobody says what it costs: {row}");
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 60);
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record["id"], format!("p{i}"));
        let prompt = record["prompt"].as_str().unwrap();
        assert_eq!(record["response"], code(prompt));
        assert_eq!(record["model"], "mock");
        assert_eq!(record["teacher"], format!("openai:http://{}/v1", mock.address));
    }
    assert_eq!(mock.requests(), 60);
    let before = folder.read("out.jsonl");
    folder.generate(&[&mock.openai()]).ok();
    assert_eq!(mock.requests(), 60, "everything was known");
    assert_eq!(folder.read("out.jsonl"), before);
    // More prompts ask only what is new; a copy of a prompt under another id shares its answer.
    let mut lines = String::from_utf8(folder.read("prompts.jsonl")).unwrap();
    lines.insert_str(0, "{\"id\": \"first\", \"prompt\": \"Something new.\"}\n");
    lines.push_str("{\"id\": \"twin\", \"prompt\": \"Write function number 7.\"}\n{\"prompt\": \"No id.\"}\n{\"prompt\": \"No id.\"}\n");
    folder.write("prompts.jsonl", &lines);
    folder.generate(&[&mock.openai()]).ok();
    assert_eq!(mock.requests(), 62);
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 63);
    assert_eq!(records[0]["id"], "first");
    assert_eq!(records[61]["response"], records[8]["response"]);
    let status = folder.status();
    assert_eq!(status["status"]["done"], 63);
    assert_eq!(status["spent"]["requests"], 62);
    assert_eq!(
        status["spent"]["input"].as_u64().unwrap() + status["spent"]["output"].as_u64().unwrap(),
        mock.seen.tokens.load(Ordering::SeqCst)
    );
}

#[test]
fn equal_prompts_are_one_request_for_every_strategy() {
    // The first answers to everything differ, so a second one would be seen.
    let count = AtomicU64::new(0);
    let answer =
        Box::new(move |_: &str, _: &str| format!("Answer {}.", count.fetch_add(1, Ordering::SeqCst)));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    let lines: String = (0..40)
        .map(|i| {
            format!(
                "{{\"id\": \"{i}\", \"prompt\": \"The same.\"}}\n{{\"id\": \"x{i}\", \"prompt\": \"x{}\"}}\n",
                i / 20
            )
        })
        .collect();
    folder.write("prompts.jsonl", lines);
    let other = mock.openai().replace("mock", "other");
    let mut before = 0;
    for (strategy, samples, requests) in [
        ("one", "1", 3),
        ("round_robin", "1", 3),
        ("weighted", "1", 3),
        ("fallback", "1", 3),
        ("all", "1", 6),
        ("best_of_n", "2", 6),
    ] {
        let run = || {
            let args = ["--strategy", strategy, "--samples", samples];
            folder.generate(&[&mock.openai(), &other]).args(&args).arg("--store").arg(folder.path(strategy))
        };
        let text = run().ok();
        assert!(text.contains("80 of 80 answered"), "{strategy}: {text}");
        assert!(text.contains("80 settled"), "{strategy}: {text}");
        assert_eq!(mock.requests() - before, requests, "{strategy}");
        before = mock.requests();
        let records = folder.records("out.jsonl");
        let same = |id: String| -> Vec<&Value> {
            records.iter().filter(|record| record["id"] == id).map(|record| &record["response"]).collect()
        };
        assert!((1..40).all(|i| same(i.to_string()) == same("0".into())), "{strategy}");
        let bytes = folder.read("out.jsonl");
        run().ok();
        assert_eq!(mock.requests(), before, "{strategy}");
        assert!(folder.read("out.jsonl") == bytes, "{strategy}");
    }
}

#[test]
fn every_form_of_output_holds_the_same() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(20);
    folder.generate(&[&mock.openai()]).ok();
    let jsonl = folder.read("out.jsonl");
    for name in ["again.jsonl", "a.jsonl.zst", "a.parquet"] {
        let export = Foundry::new("export")
            .arg(folder.path("out.jsonl.foundry"))
            .arg("--output")
            .arg(folder.path(name));
        assert!(export.ok().contains("20 records"));
    }
    assert_eq!(folder.read("again.jsonl"), jsonl);
    assert_eq!(zstd::decode_all(&folder.read("a.jsonl.zst")[..]).unwrap(), jsonl);
    assert!(folder.read("a.parquet").starts_with(b"PAR1"));
    let (error, code) = Foundry::new("export")
        .arg(folder.path("out.jsonl.foundry"))
        .arg("--output")
        .arg(folder.path("a.csv"))
        .error();
    assert!(code == 1 && error.contains(".parquet"), "{error}");
}

#[test]
fn streams_and_log_probabilities() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(5);
    let whole =
        folder.generate(&[&mock.openai()]).args(&["--with-logprobs", "--set", "foundry.top_logprobs=2"]);
    whole.ok();
    let record = &folder.records("out.jsonl")[0];
    assert_eq!(record["logprobs"]["content"][0]["top_logprobs"][1]["logprob"], -0.5);
    let store = folder.path("other.foundry");
    let streamed = folder.generate(&[&mock.openai()]).arg("--store").arg(store).args(&["--with-logprobs"]);
    streamed.set(&["foundry.top_logprobs=2", "foundry.defaults.stream=true"]).ok();
    let records = folder.records("out.jsonl");
    assert_eq!(records[3]["response"], code("Write function number 3."));
    assert!(records[0]["logprobs"]["content"].as_array().unwrap().len() > 3);
}

#[test]
fn a_stream_ends_with_its_last_event() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { lingers: true, ..Behaviour::default() }));
    folder.prompts(3);
    folder.generate(&[&mock.openai()]).set(&["foundry.defaults.stream=true", "foundry.retries=0"]).ok();
    assert_eq!(folder.records("out.jsonl").len(), 3);
    assert_eq!(mock.requests(), 3);
}

#[test]
fn the_newer_name_of_the_longest_answer_is_learned() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { newer: true, ..Behaviour::default() }));
    folder.prompts(30);
    let text = folder.generate(&[&mock.openai()]).args(&["--concurrency", "2"]).ok();
    assert!(text.contains("30 of 30 answered"), "{text}");
    assert!(
        (31..=32).contains(&mock.requests()),
        "one refusal for each that was under way: {}",
        mock.requests()
    );
    assert!(Foundry::new("teachers").args(&["--teacher", &mock.openai()]).ok().contains("answers, "));
}

#[test]
fn long_answers_that_the_config_allows_are_taken() {
    let answer = Box::new(|_: &str, _: &str| "x".repeat(3 << 20));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    folder.prompts(1);
    folder.generate(&[&mock.openai()]).set(&["foundry.defaults.extra={\"max_completion_tokens\":4096}"]).ok();
    assert_eq!(folder.records("out.jsonl").len(), 1);
}

#[test]
fn samples_of_a_prompt_are_numbered() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(3);
    folder.generate(&[&mock.openai()]).args(&["--samples", "3"]).ok();
    let records = folder.records("out.jsonl");
    let numbers: Vec<&Value> = records.iter().map(|record| &record["sample"]).collect();
    assert_eq!(numbers, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert_eq!(mock.requests(), 9);
}

#[test]
fn concurrency_and_rates_are_kept() {
    let behaviour = Behaviour { latency: std::time::Duration::from_millis(30), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(40);
    folder.generate(&[&mock.openai()]).args(&["--concurrency", "3"]).ok();
    assert_eq!(mock.seen.most_active.load(Ordering::SeqCst), 3);
    let begin = std::time::Instant::now();
    let slow = folder.generate(&[&mock.openai()]).arg("--store").arg(folder.path("slow"));
    // 10 a second, one by one.
    slow.set(&["foundry.defaults.requests_per_minute=600"]).ok();
    let seconds = begin.elapsed().as_secs_f64();
    assert!((3.8..12.0).contains(&seconds), "{seconds}");
}

#[test]
fn json_lines_tell_how_it_went() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(10);
    let text = folder.generate(&[&mock.openai()]).args(&["--json"]).ok();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["event"], "begin");
    let end = lines.last().unwrap();
    assert_eq!((&end["event"], &end["ended"], &end["records"]), (&"end".into(), &"done".into(), &10.into()));
    assert_eq!(end["status"]["done"], 10);
}

#[test]
fn credentials_stay_out_of_everything() {
    let secret = "sk-very-secret-0123456789";
    let behaviour = Behaviour { password: Some(secret.into()), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(5);
    let run = |value: &str| {
        folder
            .generate(&[&mock.openai()])
            .args(&["--key-env", "FOUNDRY_TEST_KEY", "--json"])
            .env("FOUNDRY_TEST_KEY", value)
    };
    // A wrong key is repeated by the server, and ends the run without failing any prompt.
    let output = run("sk-wrong-0987654321").output();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("wrong key: Bearer ***") && !said.contains("0987654321"), "{said}");
    let output = run(secret).output();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(folder.records("out.jsonl").len(), 5);
    assert!(!said.contains(secret));
    for entry in std::fs::read_dir(folder.path("")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for word in [secret, "0987654321"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()));
        }
    }
    // A file works as well; a variable that is not set is an error.
    folder.write("key", format!("{secret}\n"));
    let file = folder
        .generate(&[&mock.openai()])
        .arg("--key-file")
        .arg(folder.path("key"))
        .arg("--store")
        .arg(folder.path("b"));
    file.ok();
    let (error, _) = folder.generate(&[&mock.openai()]).args(&["--key-env", "FOUNDRY_NOT_SET"]).error();
    assert!(error.contains("FOUNDRY_NOT_SET"), "{error}");
}

#[test]
fn the_output_trains_a_student() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(40);
    folder.generate(&[&mock.openai()]).ok();
    let output = Command::new(env!("CARGO_BIN_EXE_distillix"))
        .args(["train", "--steps", "2", "--data"])
        .arg(folder.path("out.jsonl"))
        .arg("--out")
        .arg(folder.path("run"))
        .args(["--set", &format!("data.cache_dir={}", folder.path("cache").display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path("run").join("model.safetensors").exists());
}

#[test]
fn teachers_are_listed_and_asked() {
    let mock = Mock::start(Behaviour::default());
    let text = Foundry::new("teachers")
        .args(&["--json", "--teacher", &mock.openai(), "--teacher", &mock.opencode()])
        .ok();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |model: &str| lines.iter().find(|line| line["model"] == model).unwrap();
    assert_eq!(find("mock")["answers"], true);
    assert_eq!(find("mock-2")["price"]["output"], 2.0);
    assert_eq!(find("local/mock")["answers"], true);
    assert_eq!(find("local/mock")["context"], 4096);
    // Listed at 0, which may mean free or not known.
    assert_eq!(find("local/free")["price"], Value::Null);
    let gone = Foundry::new("teachers").args(&["--teacher", "openai:http://127.0.0.1:9/v1"]).output();
    assert_eq!(gone.status.code(), Some(1));
}
