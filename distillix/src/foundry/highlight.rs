//! Code in colours, for a terminal.

use super::language::Language;
use std::collections::HashMap;
use tree_sitter_highlight::{HighlightConfiguration, HighlightEvent, Highlighter};

/// What is coloured, and the SGR code of its colour. A query's `function.method` is a `function`.
const STYLES: [(&str, &str); 16] = [
    ("attribute", "33"),
    ("boolean", "36"),
    ("comment", "90"),
    ("constant", "36"),
    ("constructor", "33"),
    ("escape", "36"),
    ("function", "34"),
    ("keyword", "35"),
    ("label", "33"),
    ("module", "33"),
    ("number", "36"),
    ("operator", "39"),
    ("property", "39"),
    ("string", "32"),
    ("tag", "34"),
    ("type", "33"),
];

/// Colours code, each language's grammar being prepared once.
#[derive(Default)]
pub struct Painter {
    highlighter: Highlighter,
    configurations: HashMap<Language, Option<HighlightConfiguration>>,
}

impl Painter {
    /// `code` with colours, or as it is where its grammar cannot colour it.
    pub fn paint(&mut self, language: Language, code: &str) -> String {
        let configuration = self.configurations.entry(language).or_insert_with(|| configuration(language));
        let Some(configuration) = configuration else { return code.to_owned() };
        let Ok(events) = self.highlighter.highlight(configuration, code.as_bytes(), None, |_| None) else {
            return code.to_owned();
        };
        let (mut out, mut styles) = (String::new(), Vec::new());
        for event in events {
            match event {
                Ok(HighlightEvent::HighlightStart(style)) => styles.push(STYLES[style.0].1),
                Ok(HighlightEvent::HighlightEnd) => {
                    styles.pop();
                }
                Ok(HighlightEvent::Source { start, end }) => match (styles.last(), code.get(start..end)) {
                    (_, None) => return code.to_owned(),
                    (Some(style), Some(text)) => push(&mut out, style, text),
                    (None, Some(text)) => out.push_str(text),
                },
                Err(_) => return code.to_owned(),
            }
        }
        out
    }
}

/// Each line has its own colour codes, so that cut output does not colour what follows.
fn push(out: &mut String, style: &str, text: &str) {
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if !line.is_empty() {
            out.push_str(&format!("\x1b[{style}m{line}\x1b[0m"));
        }
        out.push_str(end);
    }
}

fn configuration(language: Language) -> Option<HighlightConfiguration> {
    let grammar = language.grammars().into_iter().next()?;
    let mut configuration =
        HighlightConfiguration::new(grammar, language.name(), &language.highlights(), "", "").ok()?;
    configuration.configure(&STYLES.map(|(name, _)| name));
    Some(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_is_coloured_and_nothing_is_lost() {
        let mut painter = Painter::default();
        let colours = regex::Regex::new("\x1b\\[[0-9]+m").expect("valid");
        for (language, code) in [
            (Language::Python, "def f(x):\n    \"\"\"é\n    日本\"\"\"\n    return 1  # why\n"),
            (Language::Rust, "fn f() -> u8 { 1 } // é\n"),
            (Language::JavaScript, "function f() { return 'é'; }\n"),
            (Language::TypeScript, "function f(x: number): string { return 'a'; }\n"),
            (Language::Go, "package a\nfunc f() int { return 1 }\n"),
            (Language::Java, "class A { int f() { return 1; } }\n"),
            (Language::C, "int f() { return 1; }\n"),
            (Language::Cpp, "template <class T> T f() { return 1; }\n"),
            (Language::Bash, "if true; then echo \"a\"; fi\n"),
        ] {
            let painted = painter.paint(language, code);
            assert_eq!(colours.replace_all(&painted, ""), code, "{language}");
            assert!(painted.contains("\x1b[35m") || painted.contains("\x1b[33m"), "{language}: {painted:?}");
        }
    }
}
