//! The code of an answer, without the chatter around it.

use super::{Draft, Fault, Stage, Verdict};
use crate::foundry::detect::detect;
use crate::foundry::language::Language;
use crate::foundry::markdown::{Fence, fences};
use crate::foundry::syntax::Syntax;

/// Replaces an answer by its code: the longest fenced block in the wanted language or, without fences, the longest run of
/// paragraphs that is valid code.
///
/// The wanted language is the record's. A record that names none is prose unless its code is a third of the answer or more.
/// One whose language is `text`, `prose` or `markdown` wants prose and is left as it is.
pub struct Extract;

/// Languages that are none.
const PROSE: [&str; 4] = ["text", "prose", "markdown", "none"];
/// Where answers begin that think aloud first, and where that ends.
const THINKING: [(&str, &str); 2] = [("<think>", "</think>"), ("<thinking>", "</thinking>")];
/// Share of an answer that has to be code if nothing says that code was asked for.
const MIN_SHARE: f64 = 1.0 / 3.0;
/// Unfenced answers of more paragraphs are not searched for code.
const MAX_PARAGRAPHS: usize = 40;

impl Stage for Extract {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let record = draft.record();
        if !record.is_answer() {
            return Ok(());
        }
        let named = record.language.clone().filter(|name| !name.trim().is_empty());
        let named = named.as_deref().map(str::trim);
        let answer = without_thinking(draft.body())?;
        if named.is_some_and(|name| PROSE.iter().any(|prose| prose.eq_ignore_ascii_case(name))) {
            replace(draft, answer);
            return Ok(());
        }
        let wanted = draft.language();
        let wants_code = named.is_some() || draft.record().tests.is_some();
        let blocks = fences(&answer);
        let found = match (blocks.is_empty(), wanted) {
            (true, _) => unfenced(draft, &answer, wanted),
            // A fence in a docstring is none. Backquotes are syntax in the shell and in JavaScript, so there it stays one.
            (_, Some(language @ (Language::Python | Language::Rust | Language::Go | Language::Java)))
                if may_hold(language, &answer[..blocks[0].range.start]) && is_valid(language, &answer) =>
            {
                Some((Some(language), answer.clone()))
            }
            (_, None) if named.is_some() => unknown(&blocks, named.unwrap_or_default()),
            _ => longest_block(&blocks, wanted),
        };
        let fenced: usize = blocks.iter().map(|fence| fence.range.len()).sum();
        let found = found.filter(|(_, code)| {
            wants_code || fenced.max(code.len()) as f64 >= MIN_SHARE * answer.len() as f64
        });
        match found {
            Some((language, code)) => {
                replace(draft, trimmed(&code));
                if let Some(language) = language {
                    draft.set_language(language);
                }
                Ok(())
            }
            // In a language without a grammar, an answer without fences may well be all code.
            None if wanted.is_none() && (named.is_none() || blocks.is_empty()) => {
                replace(draft, answer);
                Ok(())
            }
            None => Err(Fault::with("no code", format!("none in {}", named.unwrap_or("any language")))),
        }
    }
}

fn replace(draft: &mut Draft, body: String) {
    if body != draft.body() {
        draft.set_body(body);
    }
}

/// The answer after what the model thought aloud.
fn without_thinking(answer: &str) -> Result<String, Fault> {
    for (open, close) in THINKING {
        let Some(rest) = answer.trim_start().strip_prefix(open) else { continue };
        return match rest.split_once(close) {
            Some((_, answer)) => Ok(answer.trim_start().to_owned()),
            None => Err(Fault::with("no code", "only thoughts")),
        };
    }
    Ok(answer.to_owned())
}

/// The code without blank lines around it, and with one newline at its end.
fn trimmed(code: &str) -> String {
    let start = code.len() - code.trim_start().len();
    let line = code[..start].rfind('\n').map_or(0, |at| at + 1);
    format!("{}\n", code[line..].trim_end())
}

fn is_valid(language: Language, code: &str) -> bool {
    !code.trim().is_empty() && Syntax::parse_valid(language, code).is_some()
}

/// True if a line that looks like a fence can be within something that begins in `before`, code of the language.
fn may_hold(language: Language, before: &str) -> bool {
    let marks: &[&str] = match language {
        Language::Python => &["\"\"\"", "'''", "\\"],
        Language::Go => &["`", "/*"],
        _ => &["\"", "/*"],
    };
    marks.iter().any(|mark| before.contains(mark))
}

/// The longest, and of equals the first.
fn longest<T>(all: impl Iterator<Item = T>, len: impl Fn(&T) -> usize) -> Option<T> {
    all.reduce(|best, next| if len(&next) > len(&best) { next } else { best })
}

/// The longest block in the wanted language; blocks that say no language are looked at.
fn longest_block(blocks: &[Fence<'_>], wanted: Option<Language>) -> Option<(Option<Language>, String)> {
    let language = |fence: &Fence<'_>| match (Language::from_name(fence.tag), wanted) {
        (Some(language), _) => Some(language),
        (None, Some(wanted)) if fence.tag.is_empty() && is_valid(wanted, &fence.code) => Some(wanted),
        (None, _) => detect(&fence.code),
    };
    let known = blocks.iter().filter_map(|fence| Some((language(fence)?, fence.code.as_str())));
    let known: Vec<(Language, &str)> = known.filter(|(_, code)| !code.trim().is_empty()).collect();
    let best = match wanted {
        Some(wanted) => {
            // C is mostly C++, JavaScript is mostly TypeScript.
            let related = |language| match wanted {
                Language::Cpp => language == Language::C,
                Language::TypeScript => language == Language::JavaScript,
                _ => false,
            };
            let of = |keep: &dyn Fn(Language) -> bool| {
                longest(known.iter().filter(|(language, _)| keep(*language)), |(_, code)| code.len())
            };
            of(&|language| language == wanted).or_else(|| of(&related)).map(|(_, code)| (wanted, *code))
        }
        None => {
            // Commands that install something are not the answer if there is another.
            let rank = |(language, code): &(Language, &str)| {
                if *language == Language::Bash { 0 } else { code.len() }
            };
            longest(known.into_iter(), rank)
        }
    };
    best.map(|(language, code)| (Some(language), code.to_owned()))
}

/// The longest block that says `named` or nothing, for a language without a grammar.
fn unknown(blocks: &[Fence<'_>], named: &str) -> Option<(Option<Language>, String)> {
    let fits = |fence: &&Fence<'_>| fence.tag.is_empty() || fence.tag.eq_ignore_ascii_case(named);
    longest(blocks.iter().filter(fits), |fence| fence.code.len()).map(|fence| (None, fence.code.clone()))
}

/// The longest run of paragraphs that is valid code.
fn unfenced(draft: &mut Draft, answer: &str, wanted: Option<Language>) -> Option<(Option<Language>, String)> {
    // What is parsed as the body need not be parsed again.
    let (language, fits) = match (wanted, answer == draft.body()) {
        (Some(language), true) => (language, draft.adopt(language)),
        (None, true) => draft.adopt_detected()?,
        (_, false) => {
            let language = wanted.or_else(|| detect(answer))?;
            (language, is_valid(language, answer))
        }
    };
    if fits && !answer.trim().is_empty() {
        return Some((Some(language), answer.to_owned()));
    }
    // In a shell, most prose is a valid command.
    if language == Language::Bash {
        return None;
    }
    let starts = paragraphs(answer);
    if starts.len() > MAX_PARAGRAPHS + 1 {
        return None;
    }
    let mut runs: Vec<(usize, usize)> =
        (0..starts.len()).flat_map(|from| (from + 1..starts.len()).map(move |to| (from, to))).collect();
    runs.sort_by_key(|(from, to)| std::cmp::Reverse(starts[*to] - starts[*from]));
    // How far each run from a paragraph was read when it turned out that none of those that go farther fits.
    let mut wrong = vec![usize::MAX; starts.len()];
    let code = runs.into_iter().find_map(|(from, to)| {
        let run = &answer[starts[from]..starts[to]];
        if run.len() >= wrong[from] || run.trim().is_empty() {
            return None;
        }
        match Syntax::parse_strict(language, run) {
            Ok(_) => (detect(run) == Some(language)).then_some(run),
            Err(read) => {
                wrong[from] = wrong[from].min(read);
                None
            }
        }
    })?;
    Some((Some(language), code.to_owned()))
}

/// Where the paragraphs of a text begin, and the text's end. A line that ends in a colon ends its paragraph if it looks like prose.
fn paragraphs(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let (mut at, mut blank) = (0, false);
    for line in text.split_inclusive('\n') {
        let is_blank = line.trim().is_empty();
        if blank && !is_blank {
            starts.push(at);
        }
        at += line.len();
        blank =
            is_blank || (line.trim_end().ends_with([':', '.', '!']) && line.split_whitespace().count() > 3);
    }
    starts.push(text.len());
    starts.dedup();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    const ADD: &str = "def add(a, b):\n    return a + b\n";

    fn extract(language: Option<&str>, response: &str) -> Result<(String, Option<String>), Fault> {
        let language = language.map(str::to_owned);
        let mut draft = Draft::new(Record { language, ..Record::answer("a", "q", response) });
        Extract.check(&mut draft)?;
        Ok((draft.body().to_owned(), draft.record().language.clone()))
    }

    #[track_caller]
    fn gives(language: Option<&str>, response: &str, code: &str, found: Option<&str>) {
        assert_eq!(
            extract(language, response),
            Ok((code.to_owned(), found.map(str::to_owned))),
            "{response}"
        );
    }

    #[test]
    fn fences_and_chatter() {
        let py = Some("python");
        for language in [None, py] {
            gives(language, &format!("Sure! Here it is:\n\n```python\n{ADD}```\n\nIt adds."), ADD, py);
            gives(language, &format!("```\n\n{ADD}\n\n```"), ADD, py);
            gives(language, ADD, ADD, py);
            gives(
                language,
                &format!("Here is the function:\n\n{ADD}\nThis function adds two numbers.\n"),
                ADD,
                py,
            );
            gives(language, &format!("Here is the function:\n{ADD}"), ADD, py);
            gives(
                language,
                &format!(
                    "Install it:\n```bash\npip install numpy\npip install scipy pandas\n```\nthen\n```py\n{ADD}```"
                ),
                ADD,
                py,
            );
            gives(
                language,
                &format!("<think>\n```python\nwrong = 1\n```\n</think>\n```python\n{ADD}```"),
                ADD,
                py,
            );
            gives(language, &format!("```python\n{ADD}"), ADD, py);
            gives(language, &format!("```python\n{ADD}```\nUse it so:\n```python\nadd(1, 2)\n```"), ADD, py);
        }
        let indented = "    return a + b\n";
        gives(py, &format!("```python\n\n{indented}```"), indented, py);
        gives(Some("rust"), "```rs\nfn main() {}\n```\n```toml\n[a]\n```", "fn main() {}\n", Some("rust"));
        gives(Some("cpp"), "```c\nint f() { return 1; }\n```", "int f() { return 1; }\n", Some("cpp"));
        gives(Some("haskell"), "So:\n```haskell\nf x = x\n```", "f x = x\n", Some("haskell"));
        gives(Some("haskell"), "f x = x\n", "f x = x\n", Some("haskell"));
    }

    #[test]
    fn code_is_left_alone() {
        let docstring = "def f():\n    \"\"\"\n```\nf()\n```\n    \"\"\"\n    return 1\n";
        gives(Some("python"), docstring, docstring, Some("python"));
        let ugly = "x=[1,2,\n3];y=(\n lambda:x)  \n\n\nif x:print( y( ) )";
        gives(Some("python"), ugly, &format!("{ugly}\n"), Some("python"));
        let js = "const s = `\n```js\nconst a = 1;\n```\n`;\n";
        assert!(extract(Some("javascript"), js).is_ok());
    }

    #[test]
    fn prose_is_left_alone() {
        let prose = "It walks the list once, so it takes linear time. Compare it with a nested loop, which takes quadratic \
                     time and is slower for long lists:\n```python\nfor a in b: pass\n```\n";
        gives(None, prose, prose, None);
        gives(Some("text"), &format!("```python\n{ADD}```"), &format!("```python\n{ADD}```"), Some("text"));
        for response in
            ["I would use a list.", "```rust\nfn main() {}\n```", "<think>hm", "```text\nhello there\n```"]
        {
            assert!(
                extract(Some("python"), response).is_err_and(|fault| fault.reason == "no code"),
                "{response}"
            );
        }
    }
}
