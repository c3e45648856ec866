//! Answers that were cut off, or that leave out what was asked for.

use super::{Draft, Fault, Stage, Verdict};
use crate::foundry::syntax::Syntax;
use regex::Regex;
use std::sync::LazyLock;

/// Drops an answer that ran into the teacher's limit, whose code breaks off, or whose comments stand for code.
pub struct Truncated;

/// Comments that say that something is missing.
static ELISION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(\.\.\.|…)[\s(]*(the )?(rest|remaining|remainder|other|existing|previous|same|more|your|add|implement|continue)\b",
        r"|(?i)\b(rest|remainder) of (the|your|my|this) (\w+ )?(code|function|class|implementation|methods?|file|program|logic)( (here|goes|remains|stays|is|as)\b|[\s.…*/)]*$)",
        r"|(?i)\b(your|the) (code|implementation|logic) (goes |comes )?here\b",
        r"|(?i)\b(omitted|left out|elided|truncated) for (brevity|clarity|simplicity)\b",
        r"|(?i)\b(same|unchanged) as (before|above)[\s.…*/)]*$",
    ))
    .ok()
});

impl Stage for Truncated {
    fn check(&self, draft: &mut Draft) -> Verdict {
        if !draft.record().is_answer() {
            return Ok(());
        }
        if draft.record().finish.as_deref().is_some_and(|finish| matches!(finish, "length" | "max_tokens")) {
            return Err(Fault::new("ran into the output limit"));
        }
        if let Some(syntax) = draft.syntax() {
            if breaks_off(syntax, draft.body()) {
                return Err(Fault::new("breaks off"));
            }
            if let Some(comment) = elision(syntax, draft.body()) {
                return Err(Fault::with("leaves code out", comment));
            }
        }
        Ok(())
    }
}

/// True if the text stops within something that the grammar wants finished.
fn breaks_off(syntax: &Syntax, text: &str) -> bool {
    let end = text.trim_end().len();
    syntax.errors.iter().any(|error| {
        let wrong = text[error.clone()].trim_end();
        let opens = |mark: &&str| wrong.ends_with(*mark) && !text[error.end..].contains(*mark);
        error.end >= end || ["\"\"\"", "'''", "`"].iter().any(opens)
    })
}

fn elision(syntax: &Syntax, text: &str) -> Option<String> {
    let pattern = ELISION.as_ref()?;
    let mut found = None;
    syntax.visit(|node| {
        if node.kind().contains("comment") {
            let comment = &text[node.byte_range()];
            if found.is_none() && pattern.is_match(comment.trim()) {
                found = Some(comment.chars().take(120).collect());
            }
        }
        found.is_none()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    fn verdict(language: &str, response: &str, finish: Option<&str>) -> Option<&'static str> {
        let (language, finish) = (Some(language.to_owned()), finish.map(str::to_owned));
        let mut draft = Draft::new(Record { language, finish, ..Record::answer("a", "q", response) });
        Truncated.check(&mut draft).err().map(|fault| fault.reason)
    }

    #[test]
    fn cut_off_or_elided() {
        assert_eq!(verdict("python", "x = 1\n", Some("length")), Some("ran into the output limit"));
        for code in ["def f(x):\n    return g(x,", "def f(x):\n", "x = [1,\n2,", "def f():\n    \"\"\"Doc"] {
            assert_eq!(verdict("python", code, Some("stop")), Some("breaks off"), "{code}");
        }
        assert_eq!(verdict("rust", "fn f() {\n    let x = 1;\n", None), Some("breaks off"));
        assert_eq!(
            verdict("java", "class A {\n    int f() {\n        return 1;\n    }\n", None),
            Some("breaks off")
        );
        for code in [
            "def f(x):\n    # ... rest of the code\n    pass\n",
            "def f(x):\n    # Your code here\n    pass\n",
            "def f(x):\n    # The rest of the function remains unchanged\n    pass\n",
            "def f(x):\n    pass  # omitted for brevity\n",
            "# same as before\n",
        ] {
            assert_eq!(verdict("python", code, None), Some("leaves code out"), "{code}");
        }
        assert_eq!(
            verdict("javascript", "function f() {\n  // ... existing code\n}\n", None),
            Some("leaves code out")
        );
    }

    #[test]
    fn whole() {
        for code in [
            "def f(x):\n    ...\n",
            "class P(Protocol):\n    def f(self) -> int: ...\n",
            "# Skip the rest of the line, then go on\nx = 1\n",
            "print('... rest of the code')\n",
            "x = = 1\ny = 2\n",
        ] {
            assert_eq!(verdict("python", code, Some("stop")), None, "{code}");
        }
        let mut text = Draft::new(Record { language: Some("python".into()), ..Record::text("t", "def f(") });
        assert_eq!(Truncated.check(&mut text), Ok(()));
    }
}
