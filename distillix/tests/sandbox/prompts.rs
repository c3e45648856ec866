//! The tests of our own prompts accept right answers and find wrong ones.

use super::{run_all, sandbox};
use distillix::foundry::prompts::builtin::{prompts, tasks};

#[test]
fn tests_of_tasks_accept_their_solutions() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let tested: Vec<_> = tasks().iter().filter(|task| task.tests.is_some()).collect();
    let samples: Vec<_> =
        tested.iter().map(|task| (task.solution.as_deref().unwrap(), task.tests.as_deref())).collect();
    for (task, verdict) in tested.iter().zip(run_all(&sandbox, &samples, 2)) {
        assert!(verdict.passed(), "{}: {}\n{}", task.name, verdict.reason, verdict.stderr);
    }
}

/// A stub with the names of the solution, all of whose functions return `None`.
fn stub(solution: &str) -> String {
    let define = |line: &str| {
        let name =
            line.strip_prefix("def ").or_else(|| line.strip_prefix("async def "))?.split('(').next()?;
        Some(format!("def {name}(*args, **kwargs):\n    return None\n"))
    };
    solution.lines().filter_map(define).collect()
}

#[test]
fn tests_of_tasks_find_answers_that_do_nothing() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let tested: Vec<_> = tasks().iter().filter(|task| task.tests.is_some()).collect();
    let stubs: Vec<String> = tested.iter().map(|task| stub(task.solution.as_deref().unwrap())).collect();
    let samples: Vec<_> =
        tested.iter().zip(&stubs).map(|(task, stub)| (stub.as_str(), task.tests.as_deref())).collect();
    for (task, verdict) in tested.iter().zip(run_all(&sandbox, &samples, 2)) {
        assert!(!verdict.passed(), "{} accepts anything", task.name);
    }
}

/// The reference within the tests of a made-up task, under the name that the task asks for.
fn answer(prompt: &str, tests: &str) -> Option<String> {
    let name = prompt.split('`').nth(1)?.split('(').next()?;
    let body = tests.split("def _expected(v):\n").nth(1)?.split("\nfor _case").next()?;
    Some(format!("def {name}(v):\n{body}"))
}

#[test]
fn tests_of_made_up_tasks_accept_their_reference_and_find_others() {
    let Some(sandbox) = sandbox(&[]) else { return };
    let made: Vec<(String, String)> = prompts(11)
        .skip(tasks().len())
        .filter_map(|p| Some((p.prompt, p.tests.filter(|tests| tests.contains("_expected"))?)))
        .take(150)
        .collect();
    let answers: Vec<String> = made.iter().map(|(prompt, tests)| answer(prompt, tests).unwrap()).collect();
    let samples: Vec<_> = made
        .iter()
        .zip(&answers)
        .map(|((_, tests), answer)| (answer.as_str(), Some(tests.as_str())))
        .collect();
    for (sample, verdict) in samples.iter().zip(run_all(&sandbox, &samples, 2)) {
        assert!(verdict.passed(), "{}\n{}\n{}", sample.0, verdict.reason, verdict.stderr);
    }
    // The answer to another task: now and then it is right by accident.
    let wrong: Vec<_> = made
        .iter()
        .zip(answers.iter().cycle().skip(1))
        .map(|((prompt, tests), other)| {
            let name = prompt.split('`').nth(1).unwrap().split('(').next().unwrap();
            let (_, body) = other.split_once(":\n").unwrap();
            (format!("def {name}(v):\n{body}"), tests.as_str())
        })
        .collect();
    let samples: Vec<_> = wrong.iter().map(|(code, tests)| (code.as_str(), Some(*tests))).collect();
    let passed = run_all(&sandbox, &samples, 2).iter().filter(|verdict| verdict.passed()).count();
    assert!(passed * 20 < samples.len(), "{passed} of {} wrong answers pass", samples.len());
}
