//! The OpenCode protocol.

use crate::harness::Folder;
use crate::mock::{Behaviour, Fault, Mock, code};
use std::sync::atomic::Ordering;

#[test]
fn one_session_a_prompt_with_the_model_nested_and_tools_off() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(20);
    folder.generate(&[&mock.opencode()]).set(&["foundry.system=Be brief."]).ok();
    let records = folder.records("out.jsonl");
    assert_eq!(records.len(), 20);
    assert_eq!(records[4]["response"], code("Write function number 4."));
    assert_eq!(records[4]["model"], "local/mock");
    assert_eq!(mock.seen.sessions.load(Ordering::SeqCst), 20);
    assert_eq!(mock.seen.deleted.load(Ordering::SeqCst), 20);
    assert_eq!(mock.seen.aborted.load(Ordering::SeqCst), 0);
    for body in mock.seen.messages.lock().unwrap().iter() {
        assert_eq!(body["model"], serde_json::json!({"providerID": "local", "modelID": "mock"}));
        assert_eq!(
            (&body["agent"], &body["tools"]["*"], &body["system"]),
            (&"teacher".into(), &false.into(), &"Be brief.".into())
        );
    }
}

#[test]
fn a_session_that_hangs_is_stopped_and_deleted() {
    let plan = Box::new(|text: &str, count| (text.contains("number 1") && count == 0).then_some(Fault::Hang));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
    folder.prompts(3);
    folder.generate(&[&mock.opencode()]).set(&["foundry.timeout_s=0.5"]).ok();
    assert_eq!(folder.records("out.jsonl").len(), 3);
    assert_eq!(mock.seen.sessions.load(Ordering::SeqCst), 4);
    assert_eq!(mock.seen.aborted.load(Ordering::SeqCst), 1);
    assert_eq!(mock.seen.deleted.load(Ordering::SeqCst), 4);
}

#[test]
fn an_error_within_is_a_failure() {
    let plan = Box::new(|text: &str, _| text.contains("number 1").then_some(Fault::ErrorInside));
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour { plan, ..Behaviour::default() }));
    folder.prompts(3);
    let text = folder.generate(&[&mock.opencode()]).set(&["foundry.retries=1"]).ok();
    assert!(text.contains("server_error") && text.contains("upstream broke"), "{text}");
    assert_eq!(folder.records("out.jsonl").len(), 2);
}

#[test]
fn passwords_are_basic_authorization() {
    // base64 of opencode:pass
    let behaviour = Behaviour { password: Some("Basic b3BlbmNvZGU6cGFzcw==".into()), ..Behaviour::default() };
    let (folder, mock) = (Folder::new(), Mock::start(behaviour));
    folder.prompts(2);
    let (error, code) = folder.generate(&[&mock.opencode()]).env("OPENCODE_SERVER_PASSWORD", "no").error();
    assert!(code == 1 && error.contains("401"), "{error}");
    folder.generate(&[&mock.opencode()]).env("OPENCODE_SERVER_PASSWORD", "pass").ok();
    assert_eq!(folder.records("out.jsonl").len(), 2);
}

#[test]
fn unknown_models_and_agents_are_named_before_anything_is_asked() {
    let (folder, mock) = (Folder::new(), Mock::start(Behaviour::default()));
    folder.prompts(2);
    let (error, _) = folder.generate(&[&mock.opencode().replace("local/mock", "local/mok")]).error();
    assert!(error.contains("did you mean local/mock?"), "{error}");
    let (error, _) = folder.generate(&[&mock.opencode()]).set(&["foundry.defaults.agent=techer"]).error();
    assert!(error.contains("no agent \"techer\"") && error.contains("build, teacher"), "{error}");
    assert_eq!(mock.requests(), 0);
}
