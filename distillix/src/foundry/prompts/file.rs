//! Prompts from JSONL: `prompt`, and where wanted `id`, `tests` and `language` on each line; `.gz` and `.zst` too.

use super::Prompt;
use crate::foundry::ingest::normalize_tests;
use crate::smelter::data::jsonl;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Keys that a record has for other purposes.
const TAKEN: [&str; 11] = [
    "text",
    "messages",
    "response",
    "teacher",
    "model",
    "sample",
    "finish",
    "source",
    "checks",
    "fim_spans",
    "logprobs",
];

/// The prompts of a file, read as they are asked for. Empty lines are passed over.
///
/// # Errors
/// When the file cannot be opened. A line that is no prompt is an item that names file and line.
pub fn prompts(path: &Path) -> Result<impl Iterator<Item = Result<Prompt>>> {
    let reader = jsonl::open(path)?;
    let path = path.to_owned();
    Ok(Lines { reader, path, number: 0, ended: false })
}

struct Lines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    number: u64,
    ended: bool,
}

impl Iterator for Lines {
    type Item = Result<Prompt>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.ended {
            line.clear();
            self.number += 1;
            let place = || format!("{}:{}", self.path.display(), self.number);
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(prompt(&line).with_context(place)),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error).with_context(place));
                }
            }
        }
        None
    }
}

/// Reads one line.
fn prompt(line: &[u8]) -> Result<Prompt> {
    let text = std::str::from_utf8(line)
        .map_err(|error| anyhow!("it is not valid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    let mut prompt: Prompt = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| {
        let message = error.to_string();
        let what = message.split(" at line ").next().unwrap_or(&message);
        let kind = if error.is_data() { "" } else { "it is not JSON: " };
        anyhow!("{kind}{what} (column {})", error.column())
    })?;
    ensure!(!prompt.prompt.trim().is_empty(), "`prompt` is empty");
    // Under the names that benchmarks give them, too.
    prompt.extra.extend(prompt.tests.take().map(|tests| ("tests".to_owned(), tests.into())));
    normalize_tests(&mut prompt.extra);
    if let Some(Value::String(tests)) = prompt.extra.remove("tests") {
        prompt.tests = Some(tests);
    }
    let texts =
        [("prompt", Some(&prompt.prompt)), ("tests", prompt.tests.as_ref()), ("id", prompt.id.as_ref())];
    for (key, text) in texts {
        ensure!(
            !text.is_some_and(|text| text.contains('\0')),
            "`{key}` has a NUL character, which no server takes"
        );
    }
    if let Some(key) = TAKEN.iter().find(|key| prompt.extra.contains_key(**key)) {
        anyhow::bail!("a prompt cannot have the key `{key}`, which the output has for something else");
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_keys_and_bad_ones_say_where_they_are() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("p.jsonl");
        let good = r#"{"prompt":"a","id":"x","tests":"assert 1","language":"python","topic":"lists"}"#;
        std::fs::write(&path, format!("{good}\n\n{{\"prompt\":\"b\"}}"))?;
        let read: Vec<Prompt> = prompts(&path)?.collect::<Result<_>>()?;
        assert_eq!(
            serde_json::to_string(&read[0])?,
            r#"{"id":"x","prompt":"a","tests":"assert 1","language":"python","topic":"lists"}"#
        );
        assert_eq!(read[1].prompt, "b");
        std::fs::write(
            &path,
            r#"{"prompt":"a","entry_point":"f","test":"def check(candidate):\n    assert candidate(1)\n"}"#,
        )?;
        let human_eval = prompts(&path)?.next().unwrap()?;
        assert!(human_eval.tests.is_some_and(|tests| tests.ends_with("\ncheck(f)\n")));
        for (bad, why) in [
            ("{\"prompt\":\"a\\u0000b\"}", "NUL"),
            ("{\"prompt\":\" \"}", "`prompt` is empty"),
            ("{\"id\":\"a\"}", "missing field `prompt`"),
            ("{\"prompt\":1}", "expected a string"),
            ("prompt", "not JSON"),
            ("{\"prompt\":\"a\",\"response\":\"b\"}", "`response`"),
        ] {
            std::fs::write(&path, format!("{good}\n{bad}\n"))?;
            let error = format!("{:#}", prompts(&path)?.nth(1).unwrap().unwrap_err());
            assert!(error.contains("p.jsonl:2: ") && error.contains(why), "{bad}: {error}");
        }
        std::fs::write(&path, b"{\"prompt\":\"\xff\"}\n")?;
        assert!(format!("{:#}", prompts(&path)?.next().unwrap().unwrap_err()).contains("not valid UTF-8"));
        Ok(())
    }
}
