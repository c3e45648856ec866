//! Coding tasks of our own in nine languages, and what can be made of them.
//!
//! The tasks lie beside this file, one Markdown file a language: a heading with name, topic and difficulty, the task, and for
//! Python the tests that an answer must pass and a solution that does. [`prompts`] begins with all of them and goes on
//! with variants and with pipeline tasks, as many as are asked for.

mod pipeline;
mod vary;

use super::{Prompt, language_of_answer, title};
use crate::foundry::language::Language;
use crate::smelter::data::random::{below, hash, permute};
use std::collections::HashSet;
use std::sync::LazyLock;

/// What a file of tasks is called, and its content.
static FILES: [(Language, &str); 9] = [
    (Language::Python, include_str!("python.md")),
    (Language::Rust, include_str!("rust.md")),
    (Language::JavaScript, include_str!("javascript.md")),
    (Language::TypeScript, include_str!("typescript.md")),
    (Language::Go, include_str!("go.md")),
    (Language::Java, include_str!("java.md")),
    (Language::C, include_str!("c.md")),
    (Language::Cpp, include_str!("cpp.md")),
    (Language::Bash, include_str!("bash.md")),
];

/// A task that somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The language of the answer.
    pub language: Language,
    /// Its name, unique within the language.
    pub name: String,
    /// What it is about: `strings`, `graphs`, …
    pub topic: String,
    /// `easy`, `medium` or `hard`.
    pub difficulty: String,
    /// What is asked.
    pub text: String,
    /// Python that fails if the answer is wrong.
    pub tests: Option<String>,
    /// An answer that passes the tests.
    pub solution: Option<String>,
}

/// All tasks, in the order of the files.
pub fn tasks() -> &'static [Task] {
    static TASKS: LazyLock<Vec<Task>> =
        LazyLock::new(|| FILES.iter().flat_map(|(language, text)| read(*language, text)).collect());
    &TASKS
}

/// Reads a file of tasks. A section without the parts of a task is none.
fn read(language: Language, text: &str) -> Vec<Task> {
    let sections = text.split("\n## ").skip(1);
    sections.filter_map(|section| read_task(language, section)).collect()
}

fn read_task(language: Language, section: &str) -> Option<Task> {
    let (heading, body) = section.split_once('\n')?;
    let (name, rest) = heading.split_once(" (")?;
    let (topic, difficulty) = rest.strip_suffix(')')?.split_once(", ")?;
    let part = |opening: &str| {
        let (_, rest) = body.split_once(opening)?;
        // Up to a fence at the beginning of a line.
        Some(rest[..rest.find("\n```")? + 1].to_owned())
    };
    let (tests, solution) = (part("```python tests\n"), part("```python solution\n"));
    let text = body.split("```python tests\n").next()?.trim();
    (!text.is_empty()).then(|| Task {
        language,
        name: name.to_owned(),
        topic: topic.to_owned(),
        difficulty: difficulty.to_owned(),
        text: text.to_owned(),
        tests,
        solution,
    })
}

impl Task {
    /// The task as it is asked, with the language named once.
    fn asked(&self) -> String {
        let named =
            self.text.split(|c: char| !(c.is_alphanumeric() || c == '+')).any(|w| w == title(self.language));
        let mut text = self.text.clone();
        if !named {
            text += &format!("\n\nWrite it in {}.", title(self.language));
        }
        if self.tests.is_some() {
            text += "\n\nGive the code in one block.";
        }
        text
    }

    fn prompt(&self) -> Prompt {
        let id = format!("builtin/{}/{}", self.language, self.name);
        prompt(id, self.asked(), self.tests.clone(), self.language, &self.topic, &self.difficulty)
    }
}

fn prompt(
    id: String,
    text: String,
    tests: Option<String>,
    language: Language,
    topic: &str,
    difficulty: &str,
) -> Prompt {
    let extra = [("topic", topic), ("difficulty", difficulty)];
    Prompt {
        id: Some(id),
        language: Some(language_of_answer(language, &text, tests.is_some())),
        prompt: text,
        tests,
        extra: extra.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect(),
    }
}

/// Draws of one prompt: numbers that depend on seed and index alone.
struct Draws {
    seed: u64,
    index: u64,
    drawn: u64,
}

impl Draws {
    /// Uniform in 0..n.
    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        below(hash(&[self.seed, self.index, self.drawn]), n as u64) as usize
    }

    /// Uniform in low..=high.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Prompts, all different, the same for the same seed: first every task once, mixed, then variants of them and pipeline
/// tasks in turn. There are more than anyone needs; the iterator ends when it finds nothing new.
pub fn prompts(seed: u64) -> impl Iterator<Item = Prompt> {
    let tasks = tasks();
    let count = tasks.len() as u64;
    let written = (0..count).map(move |i| tasks[permute(i, count, seed) as usize].prompt());
    let made = (0..).map(move |index| {
        let mut draws = Draws { seed, index, drawn: 0 };
        let id = format!("builtin/{seed}/{index}");
        if index % 2 == 0 { vary::variant(id, tasks, &mut draws) } else { pipeline::task(id, &mut draws) }
    });
    let mut seen = HashSet::new();
    let mut repeated = 0;
    written
        .chain(made)
        .map_while(move |prompt| {
            let new = seen.insert(hash_of(&prompt.prompt));
            repeated = if new { 0 } else { repeated + 1 };
            (repeated < 1000).then_some(new.then_some(prompt))
        })
        .flatten()
}

fn hash_of(text: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::syntax::Syntax;

    #[test]
    fn every_section_is_a_whole_task() {
        for (language, text) in FILES {
            let sections = text.matches("\n## ").count();
            let tasks = read(language, text);
            assert_eq!(tasks.len(), sections, "{language}");
            let names: HashSet<_> = tasks.iter().map(|task| &task.name).collect();
            assert_eq!(names.len(), sections, "{language}: a name twice");
            for task in &tasks {
                assert!(["easy", "medium", "hard"].contains(&task.difficulty.as_str()), "{}", task.name);
                assert!(task.text.len() > 80, "{} is hardly a task", task.name);
                assert!(!task.text.contains("```python tests"), "{}", task.name);
                let tested = task.tests.is_some() && task.solution.is_some();
                assert_eq!(tested, language == Language::Python, "{}", task.name);
            }
        }
        assert!(tasks().len() > 250);
    }

    #[test]
    fn prompts_are_different_and_the_same_every_time() {
        let some: Vec<Prompt> = prompts(5).take(3000).collect();
        assert_eq!(some.len(), 3000);
        assert!(prompts(5).take(3000).eq(some.iter().cloned()));
        assert!(!prompts(6).take(3000).eq(some.iter().cloned()));
        let texts: HashSet<_> = some.iter().map(|p| &p.prompt).collect();
        let ids: HashSet<_> = some.iter().map(|p| &p.id).collect();
        assert_eq!((texts.len(), ids.len()), (3000, 3000));
        let written: HashSet<_> = tasks().iter().map(|t| t.prompt().prompt).collect();
        assert!(some[..tasks().len()].iter().all(|p| written.contains(&p.prompt)), "our tasks come first");
        let languages: HashSet<_> = some.iter().take(60).map(|p| p.language.clone()).collect();
        assert!(languages.len() >= 7, "the first ones are mixed");
    }

    #[test]
    fn tests_of_prompts_are_python() {
        for prompt in prompts(1).take(2000).filter(|p| p.tests.is_some()) {
            let tests = prompt.tests.unwrap_or_default();
            assert!(Syntax::parse(Language::Python, &tests).is_some_and(|s| s.is_valid()), "{tests}");
        }
    }
}
