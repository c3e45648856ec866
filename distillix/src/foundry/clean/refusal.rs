//! Answers that decline, or excuse themselves, instead of answering.

use super::{Draft, Fault, Stage, Verdict};
use crate::foundry::markdown::fences;
use regex::Regex;
use std::sync::LazyLock;

/// Drops an answer without code that begins by declining. An apology before code is chatter, and code that
/// prints an apology is code.
pub struct Refusal;

/// A refusal is said at once, not after a page of answer.
const HEAD: usize = 300;
/// Code of more lines than this is no excuse with a comment around it.
const STUB_LINES: usize = 12;

static DECLINES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\b(i'?m|i am) (very |so |really |terribly )?(sorry|afraid)\b",
        r"|\bmy apologies\b|\bi (do |must |sincerely )?apologi[sz]e\b",
        r"|\bi (can't|cannot|can not|could not|couldn't|won't|will not|(am|'m|are) (not able|unable) to|don't feel comfortable)\b",
        r"|\bi'?m (not able|unable) to\b|\bi (must|have to) (decline|refuse)\b",
        r"|\bi (don't|do not) have (access|the ability|enough (information|context))\b",
    ))
    .ok()
});

static AS_AN_AI: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\bas an? (ai|artificial intelligence|(large )?language model|ai (language )?(model|assistant)|assistant)\b")
        .ok()
});

fn says(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

fn plain(text: &str) -> String {
    text.to_lowercase().replace('’', "'")
}

impl Stage for Refusal {
    fn check(&self, draft: &mut Draft) -> Verdict {
        if !draft.record().is_answer() {
            return Ok(());
        }
        let body = draft.body();
        if body.trim().is_empty() {
            return Err(Fault::new("empty answer"));
        }
        let blocks = fences(body);
        if blocks.iter().any(|fence| !is_excuse(&fence.code)) {
            return Ok(());
        }
        if !blocks.is_empty() {
            return Err(Fault::new("excuse in the place of code"));
        }
        // An answer may be code without a fence, which has the right to any words.
        if draft.valid_syntax().is_some() {
            return if is_excuse(body) { Err(Fault::new("excuse in the place of code")) } else { Ok(()) };
        }
        let head = plain(&body[..body.floor_char_boundary(HEAD)]);
        let first = head.trim_start().split_inclusive(['.', '!', '\n']).take(2).collect::<String>();
        if says(&AS_AN_AI, &head) || says(&DECLINES, &first) {
            return Err(Fault::new("refusal"));
        }
        Ok(())
    }
}

/// A few lines of code whose comments speak as an assistant.
fn is_excuse(code: &str) -> bool {
    let comment =
        |line: &str| ["#", "//", "--", "/*", "*"].iter().any(|mark| line.trim_start().starts_with(mark));
    code.lines().count() <= STUB_LINES
        && code.lines().filter(|line| comment(line)).any(|line| {
            let line = plain(line);
            says(&AS_AN_AI, &line)
                || (line.contains("sorry") && says(&DECLINES, &line) && line.contains(" can"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    fn passes(language: Option<&str>, response: &str) -> bool {
        let language = language.map(str::to_owned);
        Refusal.check(&mut Draft::new(Record { language, ..Record::answer("a", "q", response) })).is_ok()
    }

    #[test]
    fn refusals() {
        for text in [
            "I'm sorry, but I can't help with that.",
            "I’m sorry, but I cannot assist with that request.",
            "As an AI language model, I don't have a file system.",
            "Unfortunately, I cannot write malware. Try something else.",
            "I apologize, but this is outside of what I do.",
            "I am unable to provide this code.",
            "  ",
            "```python\n# I'm sorry, I can't write this function.\npass\n```",
        ] {
            assert!(!passes(Some("python"), text), "{text}");
        }
    }

    #[test]
    fn answers() {
        for text in [
            "Sorry for the confusion! I apologize. Here is the fixed code:\n```python\nx = 1\n```\n",
            "print(\"I'm sorry, but I can't help with that.\")\n",
            "def refuse():\n    return 'As an AI language model, I cannot do that'\n",
            "The function returns `None`, because you cannot divide by zero. It is what the caller expects.",
            "A stack is last in, first out. I would use a list.",
        ] {
            assert!(passes(Some("python"), text), "{text}");
        }
        let long = "x = 1\n".repeat(20) + "# as an AI language model\n";
        assert!(passes(Some("python"), &long));
        let text = Record::text("t", "I'm sorry, but I can't help with that.");
        assert!(Refusal.check(&mut Draft::new(text)).is_ok(), "not an answer");
    }
}
