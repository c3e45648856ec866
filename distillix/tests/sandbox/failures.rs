//! What comes of a sandbox that fails: it is tried again, and what it could not judge is not blamed.

use super::{launcher, options, sandbox};
use distillix::foundry::clean::CleanConfig;
use distillix::foundry::orchestrate::Tester;
use distillix::foundry::prompts::Prompt;
use distillix::foundry::sandbox::{Limits, Options, Sandbox};
use distillix::foundry::tester::SandboxTester;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A launcher of which the runs with the numbers (from 0) that the shell pattern fits break down.
fn broken(folder: &Path, pattern: &str) -> Options {
    let (script, count) = (folder.join("launcher"), folder.join("count"));
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&count, "0\n").unwrap();
    let text = format!(
        "#!/bin/sh\nread n < {0}\necho $((n + 1)) > {0}\ncase $n in {pattern}) exit 3;; esac\nexec {1} \"$@\"\n",
        count.display(),
        launcher().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    Options { launcher: Some(script), ..options(&[]) }
}

#[test]
fn a_run_that_broke_down_is_tried_again() {
    if sandbox(&[]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The run 0 is the sandbox's own.
    let sandbox = Sandbox::new(broken(folder.path(), "1|2|[4-6]")).unwrap();
    let verdict = sandbox.run("x = 1", Some("assert x == 1"), &Limits::default()).unwrap();
    assert!(verdict.passed(), "{verdict:?}");
    let error = sandbox.run("x = 1", None, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("ended without a report"), "{error}");
    assert!(sandbox.run("x = 1", None, &Limits::default()).unwrap().passed());
}

#[test]
fn answers_that_could_not_be_tested_are_unverified() {
    if sandbox(&[]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tester = SandboxTester::new(&CleanConfig::default(), broken(folder.path(), "[2-4]")).unwrap();
    let prompt = Prompt { prompt: "One.".into(), tests: Some("assert x == 1".into()), ..Prompt::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let test = || runtime.block_on(tester.test(&prompt, "x = 1")).unwrap();
    assert_eq!((test(), tester.unverified()), (Some("pass"), None));
    assert_eq!(test(), Some("unverified"));
    let problem = tester.unverified().unwrap();
    assert!(problem.starts_with("1 answers") && problem.contains("without a report"), "{problem}");
    assert_eq!(test(), Some("pass"));
}
