//! New prompts by a teacher: harder, other or entirely new tasks, made from those that there are.
//!
//! It takes two turns of what there is anyway. [`questions`] are prompts that ask for tasks; a teacher answers them through
//! `foundry generate`, so that budget, store and resumption hold here too; [`read`] finds the tasks in the answers.
//! The ways of changing a task follow "WizardLM" (Xu et al., 2023) and "Self-Instruct" (Wang et al., 2022).

use super::Prompt;
use crate::foundry::record::Record;
use crate::smelter::data::random::{below, hash};
use std::collections::HashSet;

/// What is done to a task.
const CHANGES: [&str; 7] = [
    "Add one requirement that changes how it has to be solved, not only how much has to be written.",
    "Make it harder in a way that an experienced programmer would find interesting, without making it longer than it has to be.",
    "Move it to another subject (a shop, a laboratory, a game, a library, traffic, music, …) and change the data accordingly, keeping the \
     idea of the solution.",
    "Add cases at the edges that a careless answer would get wrong, and say precisely what is expected in each.",
    "Give it a limit on time or memory under which the obvious solution is too slow.",
    "Make it easier and more precise, as an exercise for somebody in the first weeks of programming.",
    "Keep the data and ask for something else about them.",
];

/// How many tasks are shown, and how many are asked for, where new ones are wanted.
const SHOWN: usize = 4;
const WANTED: usize = 3;

/// How an answer has to look for [`read`].
const FORM: &str = "Each task stands for itself: it names the language, the functions or classes with their arguments and results, and what \
    happens in special cases. Do not solve it. Write nothing but the tasks, each between a line `<task>` and a line `</task>`.";

/// At most `count` different prompts that ask a teacher for tasks, made of `seeds`. The same seed gives the same.
pub fn questions(seeds: &[Prompt], count: usize, seed: u64) -> Vec<Prompt> {
    let draw = |i: usize, n: usize, to: usize| below(hash(&[seed, i as u64, n as u64]), to as u64) as usize;
    let question = |i: usize| {
        let task = &seeds[(i + draw(0, 0, seeds.len())) % seeds.len()];
        let text = if draw(i, 1, 3) == 0 {
            let mut shown: Vec<&str> = vec![&task.prompt];
            // Of the same language, as far as draws find some.
            for n in 0..4 * SHOWN {
                let other = &seeds[draw(i, 2 + n, seeds.len())];
                if shown.len() < SHOWN
                    && other.language == task.language
                    && !shown.contains(&other.prompt.as_str())
                {
                    shown.push(&other.prompt);
                }
            }
            let shown: Vec<String> = shown.iter().map(|text| enclosed(text)).collect();
            format!(
                "Here are tasks for programmers:\n\n{}\n\nWrite {WANTED} new ones for the same language, about other things and as different \
                 from these and from each other as these are. {FORM}",
                shown.join("\n\n")
            )
        } else {
            let change = CHANGES[draw(i, 1, CHANGES.len() * 97) % CHANGES.len()];
            format!(
                "Here is a task for programmers:\n\n{}\n\nRewrite it. {change} {FORM}",
                enclosed(&task.prompt)
            )
        };
        let from = task.id.clone().unwrap_or_default();
        Prompt {
            id: Some(format!("evolve/{seed}/{i}")),
            prompt: text,
            tests: None,
            // The answer is tasks in prose.
            language: Some("text".to_owned()),
            extra: [("evolves", Some(from)), (LANGUAGE_OF_TASKS, task.language.clone())]
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?.into())))
                .collect(),
        }
    };
    if seeds.is_empty() {
        return Vec::new();
    }
    let mut seen = HashSet::new();
    // Few seeds have fewer questions than may be asked for.
    (0..count.saturating_mul(20))
        .map(question)
        .filter(|q| seen.insert(q.prompt.clone()))
        .take(count)
        .collect()
}

fn enclosed(task: &str) -> String {
    format!("<task>\n{}\n</task>", task.trim())
}

/// The key of a question and its answer that says for which language the tasks are.
const LANGUAGE_OF_TASKS: &str = "task_language";

/// Fewer characters are no task, and more is a lecture.
const LENGTH: std::ops::RangeInclusive<usize> = 60..=4000;

/// The tasks of an answer, without those in `seen`, to which they are added.
pub fn read(answer: &Record, seen: &mut HashSet<String>) -> Vec<Prompt> {
    let text = answer.response.as_deref().unwrap_or_default();
    let tasks = text.split("<task>").skip(1).filter_map(|rest| Some(rest.split_once("</task>")?.0.trim()));
    let new = tasks.filter(|task| LENGTH.contains(&task.chars().count()) && seen.insert(normalized(task)));
    new.enumerate()
        .map(|(n, task)| Prompt {
            id: Some(format!("{}/{n}", answer.id)),
            prompt: task.to_owned(),
            tests: None,
            language: answer.extra.get(LANGUAGE_OF_TASKS).and_then(|name| Some(name.as_str()?.to_owned())),
            extra: answer
                .model
                .iter()
                .map(|model| ("written_by".to_owned(), model.as_str().into()))
                .collect(),
        })
        .collect()
}

/// A text as it is compared: case, space and punctuation do not make another task.
pub fn normalized(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::prompts::builtin;

    #[test]
    fn questions_are_the_same_every_time_and_show_their_seeds() {
        let seeds: Vec<Prompt> = builtin::prompts(1).take(40).collect();
        let asked = questions(&seeds, 100, 7);
        assert_eq!(asked, questions(&seeds, 100, 7));
        assert_ne!(asked, questions(&seeds, 100, 8));
        let texts: HashSet<_> = asked.iter().map(|q| &q.prompt).collect();
        assert_eq!(texts.len(), 100);
        for question in &asked {
            let from = question.extra["evolves"].as_str().unwrap();
            let seed = seeds.iter().find(|s| s.id.as_deref() == Some(from)).unwrap();
            assert!(question.prompt.contains(&seed.prompt) && question.prompt.contains("</task>`"));
        }
        assert!(asked.iter().any(|q| q.prompt.contains("Write 3 new ones")));
        assert!(questions(&[], 5, 1).is_empty());
    }

    #[test]
    fn tasks_are_found_once_and_other_text_is_not() {
        let task = "Write a Python function `mean(values)` that returns the mean of a list of numbers.";
        let text = format!(
            "Sure!\n<task>\n{task}\n</task>\n<task>short</task>\n<task>\n{}!\n</task>\n<task>\nnever closed, however long this text may become",
            task.to_uppercase()
        );
        let mut answer = Record::answer("q1", "p", text);
        answer.extra.insert(LANGUAGE_OF_TASKS.to_owned(), "python".into());
        let mut seen = HashSet::new();
        let found = read(&answer, &mut seen);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].prompt.as_str(), found[0].id.as_deref()), (task, Some("q1/0")));
        assert_eq!(found[0].language.as_deref(), Some("python"));
        assert!(read(&answer, &mut seen).is_empty());
    }
}
