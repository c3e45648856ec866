//! Variants of a task: asked in another way, in another language, from the other side.

use super::{Draws, Task, prompt};
use crate::foundry::language::Language;
use crate::foundry::prompts::bug::plant;
use crate::foundry::prompts::{Prompt, title};

/// Wishes about the form of an answer, none of which changes what its tests see.
const WISHES: [&str; 10] = [
    "Explain the idea in two or three sentences before the code.",
    "State the running time and the memory it needs in a comment.",
    "Comment every step that is not obvious, and no other.",
    "Keep it as short as it can be without becoming hard to read.",
    "Use nothing but the standard library, and say which parts of it.",
    "Choose names that make comments unnecessary.",
    "Document what it takes, what it returns, and when it fails.",
    "After the code, list the cases at the edges and say how each is handled.",
    "Split it into small functions with one job each, keeping the interface.",
    "First say what could be misunderstood about the task and how you read it, then solve it.",
];

/// Topics whose tasks are about a language itself, and make no sense in another.
const OF_THE_LANGUAGE: [&str; 9] = [
    "debugging",
    "refactoring",
    "explanation",
    "decorators",
    "context managers",
    "testing",
    "iterators",
    "concurrency",
    "error handling",
];

/// How tests are written in a language.
fn test_style(language: Language) -> &'static str {
    match language {
        Language::Python => "pytest functions",
        Language::Rust => "`#[test]` functions",
        Language::JavaScript => "tests with `node:test` and `node:assert`",
        Language::TypeScript => "tests with vitest",
        Language::Go => "a table-driven test",
        Language::Java => "JUnit 5 tests",
        Language::C => "a `main` with assertions",
        Language::Cpp => "a `main` with assertions",
        Language::Bash => "a script of checks that ends with status 1 if one fails",
    }
}

/// One variant of one task.
pub(super) fn variant(id: String, tasks: &[Task], draws: &mut Draws) -> Prompt {
    let kind = draws.below(6);
    if kind < 2 {
        return wished(id, draws.pick(tasks), draws);
    }
    let solved: Vec<&Task> = tasks.iter().filter(|task| task.solution.is_some()).collect();
    let task: &Task = solved[draws.below(solved.len())];
    match kind {
        2 => translated(id, task, draws),
        3 => tested(id, task, draws),
        4 => mended(id, task, draws),
        _ => completed(id, task, draws),
    }
}

fn wished(id: String, task: &Task, draws: &mut Draws) -> Prompt {
    let text = format!("{} {}", task.asked(), draws.pick(&WISHES));
    prompt(id, text, task.tests.clone(), task.language, &task.topic, &task.difficulty)
}

/// A Python task in another language; the tests stay behind.
fn translated(id: String, task: &Task, draws: &mut Draws) -> Prompt {
    if OF_THE_LANGUAGE.contains(&task.topic.as_str()) {
        return wished(id, task, draws);
    }
    let others: Vec<Language> = Language::ALL
        .into_iter()
        .filter(|language| !matches!(language, Language::Python | Language::Bash))
        .collect();
    let language = *draws.pick(&others);
    let text = format!(
        "The task below was written for Python. Solve it in {}, with the names, types and error handling that are usual \
         there; where Python raises an exception, do what a reader of your code would expect instead.\n\n{}",
        title(language),
        task.text
    );
    prompt(id, text, None, language, &task.topic, &task.difficulty)
}

/// Tests for what a task describes, in a language that has its own way to write them.
fn tested(id: String, task: &Task, draws: &mut Draws) -> Prompt {
    if OF_THE_LANGUAGE.contains(&task.topic.as_str()) {
        return wished(id, task, draws);
    }
    let language = *draws.pick(&Language::ALL[..7]);
    let text = format!(
        "Write {} for code that does what is described below; do not write that code itself. Cover the ordinary cases, those at \
         the edges, and the mistakes that people are likely to make. The language is {}, so adapt names where \
         necessary.\n\n{}",
        test_style(language),
        title(language),
        task.text
    );
    prompt(id, text, None, language, "testing", &task.difficulty)
}

/// A solution with a mistake planted in it; the tests tell whether it is gone. Now and then the change turns out to do no harm.
fn mended(id: String, task: &Task, draws: &mut Draws) -> Prompt {
    let solution = task.solution.as_deref().unwrap_or_default();
    let Some(broken) = plant(Language::Python, solution, draws.below(1 << 16) as u64) else {
        return wished(id, task, draws);
    };
    let text = format!(
        "Somebody was given this task:\n\n{}\n\nThis is the answer, which may have a mistake in one place:\n\n```python\n{}```\n\nSay in one \
         sentence what is wrong, or that nothing is, then give the whole correct code in one block.",
        quoted(&task.text),
        broken
    );
    prompt(id, text, task.tests.clone(), Language::Python, "debugging", &task.difficulty)
}

/// The first lines of a solution are given.
fn completed(id: String, task: &Task, draws: &mut Draws) -> Prompt {
    let solution = task.solution.as_deref().unwrap_or_default();
    let lines: Vec<&str> = solution.lines().collect();
    if lines.len() < 6 {
        return wished(id, task, draws);
    }
    let kept = draws.between(2, (lines.len() / 2) as i64) as usize;
    let text = format!(
        "{}\n\nGo on from this beginning, and answer with the whole code, the beginning included, in one \
         block:\n\n```python\n{}\n```",
        task.text,
        lines[..kept].join("\n").trim_end()
    );
    prompt(id, text, task.tests.clone(), Language::Python, &task.topic, &task.difficulty)
}

fn quoted(text: &str) -> String {
    text.lines().map(|line| format!("> {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
