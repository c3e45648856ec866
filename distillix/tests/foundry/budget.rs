//! Limits are never passed.

use crate::harness::Folder;
use crate::mock::{Behaviour, Fault, Mock, Plan, hash, share};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Names of teachers in configs, with a price: 1 and 2 a million tokens.
fn priced(mock: &Mock) -> String {
    format!(
        "foundry.teachers=[{{\"url\":\"http://{}/v1\",\"model\":\"mock\",\"price\":{{\"input\":1,\"output\":2}}}}]",
        mock.address
    )
}

/// The faults of `share`, and as many servers that fail after the work.
fn costly(percent: u64) -> Plan {
    let other = share(percent);
    Box::new(move |text, count| {
        let worked = hash(&(text, count, "worked")) % 100 < percent;
        if worked { Some(Fault::WorkedInVain) } else { other(text, count) }
    })
}

#[test]
fn no_limit_is_passed_whatever_the_concurrency_and_the_faults() {
    for (flag, limit) in [("--max-requests", 120.0), ("--max-tokens", 6_000.0), ("--max-cost", 0.01)] {
        for (concurrency, faults) in [("1", 0), ("64", 0), ("64", 30)] {
            let (folder, mock) =
                (Folder::new(), Mock::start(Behaviour { plan: costly(faults), ..Behaviour::default() }));
            folder.prompts(400);
            let limit_text = limit.to_string();
            let run = || {
                let args = [flag, &limit_text, "--concurrency", concurrency];
                folder.generate(&[]).args(&args).set(&[&priced(&mock)])
            };
            let text = run().ok();
            assert!(text.contains("the budget has no room"), "{flag} {concurrency} {faults}: {text}");
            let check = || {
                // What the server saw, and what the store says, which is never less.
                let (requests, tokens) = (mock.requests(), mock.seen.tokens.load(Ordering::SeqCst));
                let spent = folder.status()["spent"].clone();
                let used = match flag {
                    "--max-requests" => [requests as f64, spent["requests"].as_f64().unwrap()],
                    "--max-tokens" => {
                        [tokens as f64, spent["input"].as_f64().unwrap() + spent["output"].as_f64().unwrap()]
                    }
                    // At least the price of reading, each.
                    _ => [tokens as f64 * 1e-6, spent["cost"].as_f64().unwrap()],
                };
                assert!(used[1] <= limit, "{flag} {concurrency} {faults}: {used:?}");
                assert!(used[0] <= used[1], "{flag}: the books hold all that was used: {used:?}");
            };
            check();
            let answered = folder.records("out.jsonl").len();
            assert!(answered > 10, "{flag} {concurrency} {faults}: {answered}");
            // The limit holds for all runs together.
            run().ok();
            check();
            assert!(folder.records("out.jsonl").len() <= answered + 1);
        }
    }
}

#[test]
fn what_a_failure_cost_is_what_the_server_counted_and_else_the_worst_case() {
    let refused = Fault::Status(429, "slow down");
    for (fault, assumed) in
        [(Fault::WorkedInVain, 0), (Fault::ServerError, 10), (Fault::Status(408, ""), 10), (refused, 0)]
    {
        let plan = Box::new(move |_: &str, count| (count == 0).then_some(fault));
        let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
        folder.prompts(10);
        folder.generate(&[&mock.openai()]).args(&["--concurrency", "2"]).ok();
        let (status, seen) = (folder.status(), mock.seen.tokens.load(Ordering::SeqCst));
        let booked = status["spent"]["input"].as_u64().unwrap() + status["spent"]["output"].as_u64().unwrap();
        assert_eq!(status["assumed"], assumed, "{fault:?}");
        assert!(
            if assumed == 0 { booked == seen } else { booked > seen + 64 * 10 },
            "{fault:?}: {booked}, {seen}"
        );
    }
}

#[test]
fn a_server_that_uses_more_than_it_should_is_told_of_and_bounds_the_next() {
    let tokens = json!({"completion_tokens": 900});
    let dear = json!({"cost": 0.002});
    for (flag, limit, usage) in [("--max-tokens", "8000", tokens), ("--max-cost", "0.01", dear)] {
        let (folder, mock) = (Folder::new(), Mock::start(Behaviour { usage, ..Behaviour::default() }));
        folder.prompts(60);
        let args = [flag, limit, "--concurrency", "1"];
        let text = folder.generate(&[]).args(&args).set(&[&priced(&mock)]).ok();
        assert!(
            text.contains("warning: a request to openai:") && text.contains("more than was set aside"),
            "{text}"
        );
        assert_eq!(text.matches("more than was set aside").count(), 1, "{text}");
        // One request at a time: the first shows it, and no later one passes the limit.
        let spent = folder.status()["spent"].clone();
        let used = match flag {
            "--max-tokens" => spent["input"].as_f64().unwrap() + spent["output"].as_f64().unwrap(),
            _ => spent["cost"].as_f64().unwrap(),
        };
        let limit: f64 = limit.parse().unwrap();
        assert!(used <= limit && used > 0.3 * limit, "{flag}: {used}");
    }
}

#[test]
fn fallback_goes_on_with_a_teacher_that_the_budget_has_room_for() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(20);
    let teacher = |name: &str, price: f64| json!({"name": name, "url": format!("http://{}/v1", mock.address), "model": name, "price": {"input": price, "output": price}});
    let list = format!("foundry.teachers={}", json!([teacher("dear", 100.0), teacher("cheap", 0.01)]));
    let args = ["--strategy", "fallback", "--max-cost", "0.05"];
    let text = folder.generate(&[]).args(&args).set(&[&list]).ok();
    assert!(text.contains("20 of 20 answered"), "{text}");
    assert!(folder.status()["spent"]["cost"].as_f64().unwrap() <= 0.05);
    let of_cheap = folder.records("out.jsonl").iter().filter(|record| record["teacher"] == "cheap").count();
    assert!((5..20).contains(&of_cheap), "{of_cheap}");
}

#[test]
fn a_prompt_that_is_too_large_for_the_budget_is_passed_over() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    let prompt = |i: usize| {
        let text = if i % 10 == 3 { "long ".repeat(4000) } else { String::new() };
        json!({"prompt": format!("{text}Write function number {i}.")}).to_string() + "\n"
    };
    folder.write("prompts.jsonl", (0..40).map(prompt).collect::<String>());
    let text = folder.generate(&[&mock.openai()]).args(&["--max-tokens", "9000"]).ok();
    assert!(text.contains("36 of 40 answered, 0 failed, 4 left"), "{text}");
    assert!(text.contains("the budget has no room for 4 more (max_tokens 9000)"), "{text}");
    folder.generate(&[&mock.openai()]).args(&["--max-tokens", "900000"]).ok();
    assert_eq!((folder.records("out.jsonl").len(), mock.requests()), (40, 40));
}

#[test]
fn a_killed_run_counts_what_was_under_way() {
    let behaviour = Behaviour { latency: Duration::from_millis(40), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(300);
    let run = || folder.generate(&[&mock.openai()]).args(&["--max-requests", "90", "--concurrency", "16"]);
    for _ in 0..3 {
        let mut child = run().spawn();
        std::thread::sleep(Duration::from_millis(250));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run().ok();
    assert!(mock.requests() <= 90, "{}", mock.requests());
    assert_eq!(folder.status()["spent"]["requests"], 90);
    assert!(folder.status()["assumed"].as_u64().unwrap() > 0);
}

#[test]
fn a_price_nobody_knows_is_refused() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(3);
    let (error, _) = folder.generate(&[&mock.openai()]).args(&["--max-cost", "1"]).error();
    assert!(error.contains("nobody says what") && error.contains("price"), "{error}");
    assert_eq!(mock.requests(), 0);
    // OpenCode lists prices; a model that it lists as free may as well be one whose price it does not know.
    folder.generate(&[&mock.opencode()]).args(&["--max-cost", "1"]).ok();
    let cost = folder.status()["spent"]["cost"].as_f64().unwrap();
    assert!((cost - 3.0 * 0.00005).abs() < 1e-12, "{cost}");
    let free = mock.opencode().replace("local/mock", "local/free");
    let (error, _) = folder.generate(&[&free]).args(&["--max-cost", "1", "--allow-changes"]).error();
    assert!(error.contains("nobody says what"), "{error}");
}

#[test]
fn counts_that_no_answer_can_have_are_not_believed() {
    for wrong in [i64::MAX as u64, u64::MAX] {
        let usage = json!({"prompt_tokens": wrong});
        let (folder, mock) = (Folder::new(), Mock::start(Behaviour { usage, ..Behaviour::default() }));
        folder.prompts(3);
        // The worst case, which is assumed instead, is as large in the second run, and does not overflow either.
        folder.generate(&[&mock.openai()]).ok();
        let status = folder.status();
        assert_eq!(status["assumed"], 3);
        assert!(status["spent"]["input"].as_u64().unwrap() < 1 << 20, "{status}");
        folder.prompts(6);
        folder
            .generate(&[&mock.openai()])
            .set(&["foundry.defaults.overhead_tokens=9223372036854775807"])
            .ok();
        let status = folder.status();
        assert_eq!((&status["assumed"], &status["status"]["done"]), (&6.into(), &6.into()));
        assert_eq!(status["spent"]["input"], i64::MAX);
    }
}
