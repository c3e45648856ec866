//! Servers that fail in every way.

use crate::harness::Folder;
use crate::mock::{Behaviour, Fault, Mock, code, share};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Every prompt ends answered or failed with a reason, and none is answered twice.
fn all_faults(protocol: fn(&Mock) -> String, extra: &[&str]) {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan: share(30), ..Behaviour::default() }));
    folder.prompts(200);
    let run = || folder.generate(&[&protocol(&mock)]).args(&["--concurrency", "32"]).set(extra);
    let text = run().ok();
    let status = &folder.status()["status"];
    let (done, failed) = (status["done"].as_u64().unwrap(), status["failed"].as_u64().unwrap());
    assert_eq!(done + failed, 200, "{text}");
    assert!(done >= 190, "{text}");
    let reasons = status["reasons"].as_array().unwrap();
    assert_eq!(reasons.iter().map(|reason| reason["count"].as_u64().unwrap()).sum::<u64>(), failed);
    assert!(reasons.iter().all(|reason| !reason["example"].as_str().unwrap().is_empty()));
    assert_eq!(mock.most_answers(), 1, "nothing is answered twice");
    assert_eq!(mock.texts_answered() as u64, done);
    for record in folder.records("out.jsonl") {
        assert_eq!(record["response"], code(record["prompt"].as_str().unwrap()));
    }
    // What failed stays failed until it is to be tried again; what succeeded is not asked again.
    let before = mock.requests();
    run().ok();
    assert_eq!(mock.requests(), before);
    for _ in 0..8 {
        run().args(&["--retry-failed"]).ok();
    }
    assert_eq!(folder.status()["status"]["done"], 200);
    assert_eq!(mock.most_answers(), 1);
}

#[test]
fn openai_faults_mixed() {
    all_faults(Mock::openai, &[]);
}

#[test]
fn openai_faults_mixed_where_answers_come_in_pieces() {
    all_faults(Mock::openai, &["foundry.defaults.stream=true"]);
}

#[test]
fn opencode_faults_mixed() {
    all_faults(Mock::opencode, &[]);
}

#[test]
fn each_fault_has_its_reason() {
    for (fault, reason) in [
        (Fault::ServerError, "server_error"),
        (Fault::Hang, "timeout"),
        (Fault::Cut, "connection"),
        (Fault::InvalidJson, "bad_answer"),
        (Fault::Empty, "empty"),
        (Fault::WrongContentType, "bad_answer"),
        (Fault::ErrorInside, "server_error"),
        (Fault::Huge, "too_large"),
        (Fault::Drip, "timeout"),
    ] {
        let plan = Box::new(move |text: &str, _| text.contains("number 0").then_some(fault));
        let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
        folder.prompts(3);
        // Only those are to take long that are waited for.
        let timeout = if reason == "timeout" { "foundry.timeout_s=2" } else { "foundry.timeout_s=20" };
        let text = folder.generate(&[&mock.openai()]).set(&["foundry.retries=1", timeout]).ok();
        let status = &folder.status()["status"];
        assert_eq!((&status["done"], &status["failed"]), (&2.into(), &1.into()), "{fault:?}: {text}");
        assert_eq!(status["reasons"][0]["reason"], reason, "{fault:?}");
        assert_eq!(mock.requests(), 4, "{fault:?}: one retry");
    }
}

#[test]
fn control_characters_are_no_answer() {
    let answer = Box::new(
        |_: &str, text: &str| if text.contains("number 1") { "a\u{1b}[31m".into() } else { code(text) },
    );
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { answer, ..Behaviour::default() }));
    folder.prompts(3);
    let text = folder.generate(&[&mock.openai()]).ok();
    assert!(text.contains("control_characters") && text.contains("U+001B"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_breaker_opens_and_closes() {
    let ill = Arc::new(AtomicBool::new(true));
    let plan = {
        let ill = Arc::clone(&ill);
        Box::new(move |_: &str, _| ill.load(Ordering::SeqCst).then_some(Fault::ServerError))
    };
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
    folder.prompts(100);
    let run = folder.generate(&[&mock.openai()]).spawn();
    std::thread::sleep(Duration::from_millis(1500));
    let while_ill = mock.requests();
    ill.store(false, Ordering::SeqCst);
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("100 of 100 answered"), "{text}");
    assert!(text.contains("was left alone 1 times, and was well again 1 times"), "{text}");
    // 20 to see it, those under way at that moment, and a few tries.
    assert!((20..60).contains(&while_ill), "{while_ill}");
    assert_eq!(mock.most_answers(), 1);
}

#[test]
fn a_rate_limit_fails_no_prompt_and_lowers_the_concurrency() {
    let behaviour = Behaviour { rate: Some((2, Duration::from_millis(50))), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(120);
    let text =
        folder.generate(&[&mock.openai()]).args(&["--concurrency", "64"]).set(&["foundry.retries=2"]).ok();
    assert!(text.contains("120 of 120 answered, 0 failed"), "{text}");
    assert_eq!(mock.most_answers(), 1);
    // 64 and their halves until one is left, then a few for each time that is full; with 64 each time it would be 2,000.
    assert!(mock.requests() < 700, "{}", mock.requests());
}

#[test]
fn a_teacher_that_only_refuses_is_given_up_and_no_prompt_fails() {
    let too_often = (Fault::RateLimited, "it has not answered for long: HTTP 429");
    let key = (Fault::Status(401, "bad key"), "HTTP 401: bad key");
    let parameter = (Fault::Status(400, "no such parameter: top_p"), "no such parameter: top_p");
    let forbidden =
        (Fault::Status(403, "not from here"), "it refuses every request: HTTP 403: not from here");
    for (fault, why) in [too_often, key, parameter, forbidden] {
        for prompts in [2, 60] {
            let plan = Box::new(move |_: &str, _| Some(fault));
            let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
            folder.prompts(prompts);
            let run = || folder.generate(&[&mock.openai()]).set(&["foundry.breaker.give_up_s=0.5"]);
            let (error, code) = run().error();
            assert!(code == 1 && error.contains(why), "{error}");
            let status = &folder.status()["status"];
            assert_eq!((&status["failed"], &status["wanted"]), (&0.into(), &prompts.into()), "{fault:?}");
            assert!(mock.requests() < 40, "{fault:?}: {}", mock.requests());
        }
    }
}

#[test]
fn a_refusal_of_one_prompt_is_its_own() {
    for fault in [Fault::Status(403, "moderated"), Fault::Status(400, "too long")] {
        // The first prompt of all is refused, before anything is answered; so are ten alike later on.
        let is_refused = |text: &str| text.contains("number 0.") || text.contains("number 3");
        let plan = Box::new(move |text: &str, _| is_refused(text).then_some(fault));
        let latency = Duration::from_millis(30);
        let (folder, mock) =
            (Folder::new(), Mock::start(Behaviour { plan, latency, ..Behaviour::default() }));
        folder.prompts(40);
        folder.generate(&[&mock.openai()]).args(&["--concurrency", "4"]).ok();
        let status = &folder.status()["status"];
        assert_eq!((&status["done"], &status["failed"]), (&28.into(), &12.into()), "{fault:?}");
        assert_eq!(status["reasons"][0]["reason"], "rejected");
        let before = mock.requests();
        folder.generate(&[&mock.openai()]).ok();
        assert_eq!(mock.requests(), before);
    }
}

#[test]
fn a_key_that_ends_under_way_is_seen_after_eight_refusals() {
    // Of a teacher that has answered, one 401 says nothing yet.
    for (refused, failed) in [(20..21, 1), (20..u64::MAX, 7)] {
        let count = AtomicU64::new(0);
        let plan = Box::new(move |_: &str, _| {
            refused.contains(&count.fetch_add(1, Ordering::SeqCst)).then_some(Fault::Status(401, "no"))
        });
        let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
        folder.prompts(60);
        let run = folder.generate(&[&mock.openai()]).args(&["--concurrency", "1"]).output();
        assert_eq!(run.status.success(), failed == 1, "{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(folder.status()["status"]["failed"], failed);
    }
}

#[test]
fn a_server_that_wants_a_pause_gets_it() {
    let first = AtomicBool::new(true);
    let plan = Box::new(move |_: &str, _| first.swap(false, Ordering::SeqCst).then_some(Fault::RateLimited));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
    folder.prompts(4);
    folder.generate(&[&mock.openai()]).ok();
    assert_eq!(mock.requests(), 5);
}

/// Refuses all that `is_refused` says, each time in other words.
fn refusing(is_refused: fn(&str) -> bool) -> Behaviour {
    let count = AtomicU64::new(0);
    let plan = Box::new(move |text: &str, _| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        is_refused(text).then(|| Fault::Status(400, format!("request {n} is too long").leak()))
    });
    Behaviour { plan, ..Behaviour::default() }
}

#[test]
fn a_teacher_that_refuses_each_time_in_other_words_is_given_up() {
    for prompts in [1, 2, 40] {
        let (folder, mock) = (Folder::new(), Mock::start(refusing(|_| true)));
        folder.prompts(prompts);
        let (error, code) = folder.generate(&[&mock.openai()]).error();
        assert!(code == 1 && error.contains("it refuses every request: HTTP 400: request "), "{error}");
        assert!(mock.requests() < 40, "{}", mock.requests());
        let (folder, other) = (Folder::new(), Mock::start(refusing(|_| true)));
        folder.prompts(prompts);
        let before = mock.requests();
        let run = folder.generate(&[&mock.openai(), &other.openai()]).args(&["--strategy", "fallback"]);
        assert_eq!(run.error().1, 1);
        let requests = [mock.requests() - before, other.requests()];
        assert!(requests.iter().all(|requests| *requests < 40), "{requests:?}");
    }
}

#[test]
fn a_teacher_that_answered_in_an_earlier_run_is_not_given_up_for_one_prompt() {
    let (folder, mock) = (Folder::new(), Mock::start(refusing(|text| text.contains("number 0."))));
    folder.prompts(10);
    folder.generate(&[&mock.openai()]).ok();
    for _ in 0..2 {
        let before = mock.requests();
        folder.generate(&[&mock.openai()]).args(&["--retry-failed"]).ok();
        assert_eq!(mock.requests(), before + 1);
        let status = &folder.status()["status"];
        assert_eq!((&status["done"], &status["failed"]), (&9.into(), &1.into()));
    }
}

#[test]
fn a_rate_is_kept_and_used_around_a_pause() {
    let count = AtomicU64::new(0);
    let plan =
        Box::new(move |_: &str, _| (count.fetch_add(1, Ordering::SeqCst) == 4).then_some(Fault::RateLimited));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
    folder.prompts(30);
    let run = folder.generate(&[&mock.openai()]).args(&["--concurrency", "64"]);
    run.set(&["foundry.defaults.requests_per_minute=600"]).ok();
    let times = mock.seen.times.lock().unwrap();
    assert_eq!(times.len(), 31);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] < Duration::from_secs(1)), "{times:?}");
    // 10 intervals of 0.1 s, of which the first may begin late.
    assert!(times.windows(11).all(|part| part[10] - part[0] > Duration::from_millis(850)), "{times:?}");
}
