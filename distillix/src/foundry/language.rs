//! The programming languages whose syntax the foundry knows.

use std::fmt;
use std::path::Path;

/// A language with a tree-sitter grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// Python 3.
    Python,
    /// Rust.
    Rust,
    /// JavaScript, with JSX.
    JavaScript,
    /// TypeScript, with TSX.
    TypeScript,
    /// Go.
    Go,
    /// Java.
    Java,
    /// C.
    C,
    /// C++.
    Cpp,
    /// Bash and POSIX shell.
    Bash,
}

/// What belongs to a language.
struct Entry {
    language: Language,
    name: &'static str,
    /// Other names: in fences, in data sets, in speech; lower case.
    aliases: &'static [&'static str],
    extensions: &'static [&'static str],
}

const fn entry(
    language: Language,
    name: &'static str,
    aliases: &'static [&'static str],
    extensions: &'static [&'static str],
) -> Entry {
    Entry { language, name, aliases, extensions }
}

static TABLE: [Entry; 9] = [
    entry(Language::Python, "python", &["py", "python3", "python2", "py3", "pyi"], &["py", "pyi"]),
    entry(Language::Rust, "rust", &["rs"], &["rs"]),
    entry(
        Language::JavaScript,
        "javascript",
        &["js", "jsx", "mjs", "cjs", "node", "ecmascript"],
        &["js", "jsx", "mjs", "cjs"],
    ),
    entry(Language::TypeScript, "typescript", &["ts", "tsx", "mts", "cts"], &["ts", "tsx", "mts", "cts"]),
    entry(Language::Go, "go", &["golang"], &["go"]),
    entry(Language::Java, "java", &[], &["java"]),
    entry(Language::C, "c", &["h"], &["c", "h"]),
    entry(
        Language::Cpp,
        "cpp",
        &["c++", "cc", "cxx", "hpp", "hxx", "cplusplus"],
        &["cc", "cpp", "cxx", "hh", "hpp", "hxx"],
    ),
    entry(Language::Bash, "bash", &["sh", "shell", "zsh", "shellscript", "shell-script"], &["sh", "bash"]),
];

impl Language {
    /// All languages.
    pub const ALL: [Language; 9] = [
        Self::Python,
        Self::Rust,
        Self::JavaScript,
        Self::TypeScript,
        Self::Go,
        Self::Java,
        Self::C,
        Self::Cpp,
        Self::Bash,
    ];

    fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The name used in records and settings: `python`, `cpp`, …
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The language that a fence, a data set or a person calls `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let found = TABLE.iter().find(|entry| entry.name == name || entry.aliases.contains(&name.as_str()));
        found.map(|entry| entry.language)
    }

    /// The language of a file, by the extension of its name.
    pub fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let found = TABLE.iter().find(|entry| entry.extensions.contains(&extension.as_str()));
        found.map(|entry| entry.language)
    }

    /// The grammars that may describe a text of this language, the usual one first.
    pub fn grammars(self) -> Vec<tree_sitter::Language> {
        match self {
            Self::Python => vec![tree_sitter_python::LANGUAGE.into()],
            Self::Rust => vec![tree_sitter_rust::LANGUAGE.into()],
            Self::JavaScript => vec![tree_sitter_javascript::LANGUAGE.into()],
            Self::TypeScript => vec![
                tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
                tree_sitter_typescript::LANGUAGE_TSX.into(),
            ],
            Self::Go => vec![tree_sitter_go::LANGUAGE.into()],
            Self::Java => vec![tree_sitter_java::LANGUAGE.into()],
            // A header may be either's.
            Self::C => vec![tree_sitter_c::LANGUAGE.into(), tree_sitter_cpp::LANGUAGE.into()],
            Self::Cpp => vec![tree_sitter_cpp::LANGUAGE.into()],
            Self::Bash => vec![tree_sitter_bash::LANGUAGE.into()],
        }
    }

    /// Query that tells what to highlight, for the first of the [`grammars`](Self::grammars).
    pub fn highlights(self) -> String {
        match self {
            Self::Python => tree_sitter_python::HIGHLIGHTS_QUERY.to_owned(),
            Self::Rust => tree_sitter_rust::HIGHLIGHTS_QUERY.to_owned(),
            Self::JavaScript => tree_sitter_javascript::HIGHLIGHT_QUERY.to_owned(),
            // These two have only what the language adds to the one that it grew from.
            Self::TypeScript => {
                [tree_sitter_typescript::HIGHLIGHTS_QUERY, tree_sitter_javascript::HIGHLIGHT_QUERY].join("\n")
            }
            Self::Cpp => [tree_sitter_cpp::HIGHLIGHT_QUERY, tree_sitter_c::HIGHLIGHT_QUERY].join("\n"),
            Self::Go => tree_sitter_go::HIGHLIGHTS_QUERY.to_owned(),
            Self::Java => tree_sitter_java::HIGHLIGHTS_QUERY.to_owned(),
            Self::C => tree_sitter_c::HIGHLIGHT_QUERY.to_owned(),
            Self::Bash => tree_sitter_bash::HIGHLIGHT_QUERY.to_owned(),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_lead_to_one_language() {
        let mut seen = HashSet::new();
        for (language, entry) in Language::ALL.into_iter().zip(&TABLE) {
            assert_eq!((entry.language, language.entry().name), (language, entry.name));
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(Language::from_name(&name.to_uppercase()), Some(language));
            }
            for extension in entry.extensions {
                assert_eq!(Language::from_path(Path::new(&format!("a.b.{extension}"))), Some(language));
            }
        }
        assert_eq!((Language::from_name("cobol"), Language::from_path(Path::new("py"))), (None, None));
    }
}
