//! Runs that are killed at any moment.

use crate::harness::Folder;
use crate::mock::{Behaviour, Mock, hash};
use std::fmt::Write;
use std::time::{Duration, Instant};

const PROMPTS: usize = 600;
/// Prompts that are the same as an earlier one under another id.
const TWINS: usize = 60;
/// Of two teachers together.
const CONCURRENCY: u64 = 8;
const KILLS: u64 = 20;

#[test]
fn killed_at_twenty_moments_nothing_is_lost_or_asked_again() {
    let behaviour = || Behaviour { latency: Duration::from_millis(25), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour()));
    let prompts = |folder: &Folder| {
        let path = folder.prompts(PROMPTS);
        let mut lines = String::from_utf8(folder.read("prompts.jsonl")).unwrap();
        for i in 0..TWINS {
            writeln!(lines, "{{\"id\": \"twin{i}\", \"prompt\": \"Write function number {i}.\"}}").unwrap();
        }
        std::fs::write(path, lines).unwrap();
    };
    prompts(&folder);
    let concurrency = (CONCURRENCY / 2).to_string();
    let run = |folder: &Folder, mock: &Mock| {
        let teacher = |name: &str| {
            format!("{{\"url\":\"http://{}/v1\",\"model\":\"mock\",\"name\":\"{name}\"}}", mock.address)
        };
        folder
            .generate(&[])
            .args(&["--strategy", "round_robin", "--concurrency", &concurrency])
            .set(&[&format!("foundry.teachers=[{},{}]", teacher("a"), teacher("b"))])
    };
    let mut kills = 0;
    for i in 0..KILLS {
        let mut child = run(&folder, &mock).spawn();
        std::thread::sleep(Duration::from_millis(60 + hash(&i) % 140));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills >= 15, "{kills} of the runs were killed under way");
    run(&folder, &mock).ok();
    let status = folder.status();
    assert_eq!(status["status"]["done"], PROMPTS + TWINS);
    assert!(
        mock.requests() <= PROMPTS as u64 + kills * CONCURRENCY,
        "{} requests, {kills} kills",
        mock.requests()
    );
    // Every request that the server saw is in the books.
    assert!(status["spent"]["requests"].as_u64().unwrap() >= mock.requests());
    let (whole, other) = (Folder::new(), Mock::start(behaviour()));
    prompts(&whole);
    run(&whole, &other).ok();
    assert_eq!(other.requests(), PROMPTS as u64);
    assert!(
        folder.read("out.jsonl") == whole.read("out.jsonl"),
        "the bytes are those of a run that was left alone"
    );
}

#[test]
fn a_signal_ends_a_run_after_the_requests_under_way() {
    let behaviour = Behaviour { latency: Duration::from_millis(300), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(100);
    let child = folder.generate(&[&mock.openai()]).spawn();
    std::thread::sleep(Duration::from_millis(900));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(130) && text.contains("the same command goes on"), "{text}");
    let done = folder.records("out.jsonl").len() as u64;
    assert_eq!(mock.requests(), done, "each request that was sent is answered and kept");
    assert!((8..60).contains(&done), "{done}");
    assert_eq!(folder.status()["assumed"], 0);
}

#[test]
fn a_signal_ends_a_run_whose_teacher_does_not_answer_yet() {
    // Connections are made, and nobody reads from them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    folder.prompts(1);
    let teacher = format!("openai:http://{}/v1#mock", listener.local_addr().unwrap());
    let child = folder.generate(&[&teacher]).spawn();
    let connection = listener.accept().unwrap();
    let begin = Instant::now();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!folder.path("out.jsonl.foundry").exists(), "nothing was begun");
    drop(connection);
}

#[test]
fn a_signal_while_the_last_request_is_under_way_cuts_nothing_short() {
    let behaviour = Behaviour { latency: Duration::from_millis(800), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(1);
    let child = folder.generate(&[&mock.openai()]).spawn();
    while mock.requests() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("goes on"), "{text}");
}
