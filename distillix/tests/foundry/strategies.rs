//! Several teachers.

use crate::harness::Folder;
use crate::mock::{Behaviour, Fault, Mock, code};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Teachers `a`, `b`, … on servers of their own.
fn teachers(mocks: &[(&str, &Arc<Mock>, &str)]) -> String {
    let teacher = |(name, mock, more): &(&str, &Arc<Mock>, &str)| {
        format!("{{\"name\":\"{name}\",\"url\":\"http://{}/v1\",\"model\":\"{name}\"{more}}}", mock.address)
    };
    format!("foundry.teachers=[{}]", mocks.iter().map(teacher).collect::<Vec<_>>().join(","))
}

fn by_teacher(records: &[Value]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for record in records {
        *counts.entry(record["teacher"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    counts
}

fn fails(fault: Fault) -> Behaviour {
    Behaviour { plan: Box::new(move |_, _| Some(fault)), ..Behaviour::default() }
}

#[test]
fn turns_weights_and_all() {
    let (folder, a, b) =
        (Folder::new(), Mock::start(Behaviour::default()), Mock::start(Behaviour::default()));
    folder.prompts(200);
    let run = |strategy: &str, more: &str| {
        let list = teachers(&[("a", &a, ""), ("b", &b, more)]);
        let store = folder.path(strategy);
        folder.generate(&[]).args(&["--strategy", strategy]).arg("--store").arg(store).set(&[&list]).ok();
        folder.records("out.jsonl")
    };
    let turns = by_teacher(&run("round_robin", ""));
    assert!((70..=130).contains(&turns["a"]), "{turns:?}");
    let weighted = by_teacher(&run("weighted", ",\"weight\":3"));
    assert!((35..=65).contains(&weighted["a"]), "{weighted:?}");
    let all = run("all", "");
    assert_eq!(all.len(), 400);
    assert!(all.chunks(2).all(|pair| pair[0]["id"] == pair[1]["id"]
        && (&pair[0]["teacher"], &pair[1]["teacher"]) == (&"a".into(), &"b".into())
        && (&pair[0]["sample"], &pair[1]["sample"]) == (&0.into(), &1.into())));
}

#[test]
fn samples_of_a_prompt_take_turns() {
    let (folder, a, b) =
        (Folder::new(), Mock::start(Behaviour::default()), Mock::start(Behaviour::default()));
    folder.prompts(20);
    let list = teachers(&[("a", &a, ""), ("b", &b, "")]);
    folder.generate(&[]).args(&["--strategy", "round_robin", "--samples", "2"]).set(&[&list]).ok();
    let records = folder.records("out.jsonl");
    assert!(records.chunks(2).all(|pair| pair[0]["teacher"] != pair[1]["teacher"]));
}

#[test]
fn who_was_asked_is_asked_again_though_order_and_teachers_change() {
    let (folder, a, b) =
        (Folder::new(), Mock::start(Behaviour::default()), Mock::start(Behaviour::default()));
    folder.prompts(40);
    let run = |strategy: &str, more: &[(&str, &Arc<Mock>, &str)]| {
        let list = teachers(&[&[("a", &a, ""), ("b", &b, "")], more].concat());
        let store = folder.path(strategy);
        let args = ["--allow-changes", "--strategy", strategy];
        folder.generate(&[]).args(&args).arg("--store").arg(store).set(&[&list]).ok();
    };
    let asked = || a.requests() + b.requests();
    run("round_robin", &[]);
    run("weighted", &[]);
    assert_eq!(asked(), 80);
    let mut lines: Vec<String> =
        String::from_utf8(folder.read("prompts.jsonl")).unwrap().lines().map(str::to_owned).collect();
    lines.reverse();
    lines.insert(0, "{\"prompt\":\"new\"}".into());
    folder.write("prompts.jsonl", lines.join("\n"));
    // The outcomes are those of other settings, so only the answers say who was asked.
    run("round_robin", &[("c", &a, "")]);
    run("weighted", &[("c", &a, ",\"weight\":50")]);
    assert_eq!(asked(), 82);
    assert_eq!(folder.records("out.jsonl").len(), 41);
}

#[test]
fn fallback_takes_the_first_that_answers() {
    let (folder, ill, well) =
        (Folder::new(), Mock::start(fails(Fault::ServerError)), Mock::start(Behaviour::default()));
    folder.prompts(60);
    let list = teachers(&[("ill", &ill, ""), ("well", &well, "")]);
    folder.generate(&[]).args(&["--strategy", "fallback"]).set(&[&list, "foundry.breaker.cooldown_s=5"]).ok();
    assert_eq!(by_teacher(&folder.records("out.jsonl"))["well"], 60);
    assert!(ill.requests() < 80, "the breaker keeps requests from it: {}", ill.requests());
    // A teacher that does not exist at all is a warning.
    let gone = "{\"name\":\"gone\",\"url\":\"http://127.0.0.1:9/v1\",\"model\":\"m\"}";
    let list = format!(
        "foundry.teachers=[{gone},{{\"name\":\"well\",\"url\":\"http://{}/v1\",\"model\":\"well\"}}]",
        well.address
    );
    let text = folder
        .generate(&[])
        .args(&["--strategy", "fallback"])
        .arg("--store")
        .arg(folder.path("c"))
        .set(&[&list])
        .ok();
    assert!(text.contains("warning: gone#m does not answer"), "{text}");
    assert_eq!(folder.records("out.jsonl").len(), 60);
}

#[test]
fn fallback_does_not_wait_for_a_teacher_that_asks_for_a_pause_or_fails() {
    for fault in [Fault::Status(429, "in an hour"), Fault::ServerError] {
        let (folder, ill, well) =
            (Folder::new(), Mock::start(fails(fault)), Mock::start(Behaviour::default()));
        folder.prompts(40);
        let list = teachers(&[("ill", &ill, ""), ("well", &well, "")]);
        let begin = std::time::Instant::now();
        // The breaker is out of the way.
        let waits = ["foundry.breaker.window=1000", "foundry.backoff_s=0.5", "foundry.max_backoff_s=30"];
        let run = folder.generate(&[]).args(&["--strategy", "fallback", "--concurrency", "4"]);
        run.set(&[&list]).set(&waits).ok();
        assert_eq!(by_teacher(&folder.records("out.jsonl"))["well"], 40);
        assert!(ill.requests() <= 80, "{fault:?}: {}", ill.requests());
        assert!(begin.elapsed().as_secs() < 12, "{fault:?}: {:?}", begin.elapsed());
    }
}

#[test]
fn a_judge_that_is_a_teacher_keeps_its_limits_and_judges_consensus_too() {
    let behaviour = Behaviour { latency: std::time::Duration::from_millis(10), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(10);
    let odd = Behaviour { answer: Box::new(|_, _| "Nothing like it: 2".into()), ..Behaviour::default() };
    let odd = Mock::start(odd);
    let args = ["--strategy", "consensus", "--concurrency", "1", "--judge", &odd.openai()];
    folder.generate(&[&mock.openai(), &odd.openai()]).args(&args).ok();
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 10, "two that differ, and a judge who says 2");
    assert_eq!(records[0]["checks"]["chosen"], serde_json::json!({"by": "judge", "of": 2}));
    assert_eq!(odd.seen.most_active.load(std::sync::atomic::Ordering::SeqCst), 1);
    let wrong = |args: &[&str]| folder.generate(&[&mock.openai()]).args(args).error();
    let (error, code) = wrong(&["--strategy", "best_of_n", "--judge", "openai:http://127.0.0.1:9/v1"]);
    assert!(code == 2 && error.contains("foundry.judge.model is empty"), "{error}");
    let (error, code) = wrong(&["--judge", &mock.openai()]);
    assert!(code == 2 && error.contains("best_of_n and consensus"), "{error}");
}

#[test]
fn a_judge_chooses_the_best_of_n() {
    // Answers differ by sample only in their number; the judge always says 3.
    let answer =
        Box::new(|model: &str, text: &str| if model == "judge" { "I like 3".into() } else { code(text) });
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    folder.prompts(10);
    let judge = format!("openai:http://{}/v1#judge", mock.address);
    let run = || {
        let args = ["--strategy", "best_of_n", "--samples", "4", "--judge", &judge];
        folder.generate(&[&mock.openai()]).args(&args)
    };
    run().ok();
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 10);
    assert_eq!(records[0]["checks"]["chosen"], serde_json::json!({"by": "judge", "of": 4}));
    assert_eq!(mock.requests(), 50);
    run().ok();
    assert_eq!(mock.requests(), 50);
}

#[test]
fn a_judge_that_only_refuses_leaves_the_choice_to_likeness() {
    let plan = Box::new(|_: &str, _| Some(Fault::Status(400, "no")));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    let judge = Mock::start(Behaviour { plan, ..Behaviour::default() });
    folder.prompts(20);
    let args = ["--strategy", "best_of_n", "--samples", "3", "--judge", &judge.openai()];
    let text = folder.generate(&[&mock.openai()]).args(&args).ok();
    assert_eq!(text.matches("the judge is of no use").count(), 1, "{text}");
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 20);
    assert!(records.iter().all(|record| record["checks"]["chosen"]["by"] == "agreement"));
}

#[test]
fn consensus_keeps_what_most_agree_on() {
    let odd = Behaviour {
        answer: Box::new(|_, _| "Nobody else says anything like this, I am sure.".into()),
        ..Behaviour::default()
    };
    let (folder, a, b) = (Folder::new(), Mock::start(Behaviour::default()), Mock::start(odd));
    folder.prompts(10);
    let three = teachers(&[("odd", &b, ""), ("a", &a, ""), ("c", &a, "")]);
    folder.generate(&[]).args(&["--strategy", "consensus"]).set(&[&three]).ok();
    let records = folder.records("out.jsonl");
    assert_eq!(by_teacher(&records)["a"], 10);
    assert_eq!(records[0]["checks"]["chosen"]["agree"], 2);
    let two = teachers(&[("odd", &b, ""), ("a", &a, "")]);
    let run = folder
        .generate(&[])
        .args(&["--strategy", "consensus"])
        .arg("--store")
        .arg(folder.path("two"))
        .set(&[&two]);
    let (error, code) = run.error();
    assert!(code == 1 && error.contains("every prompt failed"), "{error}");
}
