//! Answers caught in a loop.

use super::{Draft, Fault, Stage, Verdict};

/// Drops an answer whose end is the same lines, or the same run of characters, again and again.
///
/// Only the end tells: a model in a loop goes on until its limit, while a table in valid code has an end. Texts that
/// nobody generated are left alone.
pub struct Repetition;

/// A loop has at least this many rounds, and is at least this many characters long, and this share of the answer.
const ROUNDS: usize = 8;
const LENGTH: usize = 160;
const SHARE: f64 = 0.25;
/// The longest round, in bytes.
const MAX_PERIOD: usize = 1024;

impl Stage for Repetition {
    fn check(&self, draft: &mut Draft) -> Verdict {
        if !draft.record().is_answer() {
            return Ok(());
        }
        let body = draft.body().trim_end();
        match tail_loop(body.as_bytes()) {
            Some((period, length)) if length as f64 >= SHARE * body.len() as f64 => {
                let start = body.ceil_char_boundary(body.len() - period);
                let round: String = body[start..].trim().chars().take(80).collect();
                Err(Fault::with("ends in a loop", format!("{} times {round:?}", length / period)))
            }
            _ => Ok(()),
        }
    }
}

/// The shortest period with which the end of `text` repeats often enough, and the length of that end. A run of one
/// character (a line of dashes, blank space) is no loop.
fn tail_loop(text: &[u8]) -> Option<(usize, usize)> {
    (1..=MAX_PERIOD.min(text.len() / ROUNDS)).find_map(|period| {
        let same = (period..text.len()).rev().take_while(|at| text[*at] == text[at - period]).count();
        let length = same + period;
        let round = &text[text.len() - period..];
        let is_run = round.iter().all(|byte| *byte == round[0]);
        (length >= ROUNDS * period && length >= LENGTH && !is_run).then_some((period, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    fn loops(response: &str) -> bool {
        Repetition.check(&mut Draft::new(Record::answer("a", "q", response))).is_err()
    }

    #[test]
    fn loops_at_the_end() {
        assert!(loops(&format!("def f():\n{}", "    x = f(x)\n".repeat(30))));
        assert!(loops(&format!("def f():\n{}    x =", "    x = f(x)\n    y = g(y)\n".repeat(15))));
        assert!(loops(&"the same and ".repeat(40)));
        assert!(loops(&"日本語のループ".repeat(20)));
    }

    #[test]
    fn valid_code_may_repeat() {
        let table = format!("T = [\n{}]\n", "    0, 0, 0, 0, 0, 0,\n".repeat(40));
        assert!(!loops(&table));
        let tests: String = (0..40).map(|i| format!("assert f({i}) == {i}\n")).collect();
        assert!(!loops(&tests));
        assert!(!loops(&format!("x = 1\n# {}\n", "-".repeat(300))));
        assert!(!loops("a = 1\na = 1\na = 1\n"));
        let long =
            format!("{}{}", "y = other(1, 2)\n# é\n".to_owned() + &tests.repeat(4), "x()\n".repeat(50));
        assert!(!loops(&long), "a small part");
        assert!(Repetition.check(&mut Draft::new(Record::text("t", "ab\n".repeat(500)))).is_ok());
    }
}
