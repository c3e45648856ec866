//! Which language a text is written in, where nothing says so.

use super::language::Language;
use super::syntax::Syntax;
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::cell::OnceCell;
use std::sync::LazyLock;

/// What speaks for a language, and how much.
const SIGNS: [(Language, u32, &str); 40] = [
    (Language::Python, 3, r"(?m)^\s*(async )?def \w+\(.*"),
    (Language::Python, 3, r"(?m)^(from [\w.]+ import \w|import \w+( as \w+)?$)"),
    (Language::Python, 2, r"(?m)^\s*(elif .+|else|try|except( .+)?|finally):\s*$"),
    (Language::Python, 2, r"(?m)^\s*(class \w+(\(.*\))?|for .+ in .+|while .+|if .+|with .+):\s*(#.*)?$"),
    (Language::Python, 1, r"(?m)^\s*(print\(|return\b.*[^;{]$|lambda |self\.|@\w+)"),
    (Language::Python, 4, r"(?m)^#!.*python"),
    (Language::Rust, 3, r"(?m)^\s*(pub(\(\w+\))? )?(unsafe |const |async )*fn \w+.*"),
    (Language::Rust, 3, r"(?m)^\s*(use (std|crate|super)::|impl\b.*\{|#\[\w+|let mut )"),
    (Language::Rust, 2, r"(println|format|vec|assert|assert_eq|panic|matches)!\s*[(\[]"),
    (Language::Rust, 1, r"&(mut |str\b|self\b|')|Option<|Result<|\.unwrap\(\)|=> "),
    (Language::JavaScript, 2, r"(?m)^\s*(export )?(default )?(async )?function\*?\s*\w*\s*\("),
    (Language::JavaScript, 2, r"(?m)^\s*(const|let|var) [\w{}\[\], ]+ = "),
    (
        Language::JavaScript,
        2,
        r"console\.(log|error)\(|require\(['\x22]|module\.exports|===|=> [{(]|document\.",
    ),
    (Language::JavaScript, 1, r"(?m)^import .* from ['\x22]"),
    (Language::TypeScript, 2, r"(?m)^\s*(export )?(default )?(async )?function\*?\s*\w*\s*[<(].*:"),
    (Language::TypeScript, 2, r"(?m)^\s*(const|let|var) \w+(: [\w<>\[\]|, ]+)? = "),
    (Language::TypeScript, 4, r"\w\??: (string|number|boolean|void|any|unknown|never)\b"),
    (Language::TypeScript, 3, r"(?m)^\s*(export )?(interface|type|enum|declare|abstract class) \w+.*[{=]"),
    (Language::TypeScript, 1, r"console\.(log|error)\(|===|=> [{(]| as \w+|(?m)^import .* from ['\x22]"),
    (Language::Go, 5, r"(?m)^package \w+\s*$"),
    (Language::Go, 4, r"(?m)^func (\(\w+ \*?\w+\) )?\w+\("),
    (Language::Go, 2, r"\w := |fmt\.\w+\(|if err != nil|(?m)^type \w+ (struct|interface) \{"),
    (
        Language::Java,
        3,
        r"(?m)^\s*(public|private|protected)\s+(static\s+|final\s+|abstract\s+)*[\w<>\[\]]+\s+\w+",
    ),
    (
        Language::Java,
        4,
        r"(?m)^(package [\w.]+;|import (static )?java[\w.]*)|System\.out\.print|String\[\] args",
    ),
    (Language::Java, 2, r"@Override|(?m)^\s*(public |final )*class \w+.*\{|new \w+<.*>\("),
    (Language::C, 3, r#"(?m)^\s*#\s*include\s*[<"]\w+(/\w+)*\.h[>"]"#),
    (
        Language::C,
        2,
        r"(?m)^(static |const |inline |extern |unsigned )*(int|void|char|float|double|size_t|long|bool|struct \w+)\s*\*?\s*\w+\(",
    ),
    (
        Language::C,
        2,
        r"\b(printf|malloc|free|sizeof|strlen|memcpy)\s*\(|\btypedef struct|(?m)^#define |\w->\w",
    ),
    (Language::Cpp, 4, r"(?m)^\s*#\s*include\s*<(iostream|vector|string|map|algorithm|memory|[a-z_]+)>"),
    (Language::Cpp, 4, r"\bstd::|using namespace|(?m)^\s*template\s*<|\bcout\b|\bnullptr\b"),
    (
        Language::Cpp,
        2,
        r"(?m)^(static |const |inline |constexpr )*(int|void|char|float|double|size_t|bool|auto)\s*[*&]?\s*\w+\(",
    ),
    (Language::Cpp, 2, r"(?m)^\s*(public|private|protected):|\w+::\w+\(|const \w+&"),
    (Language::Bash, 6, r"(?m)\A#!.*\b(ba|z|da)?sh\b"),
    (Language::Bash, 3, r"(?m)^\s*(fi|done|esac)\s*$|; then$|; do$"),
    (Language::Bash, 2, r"(?m)^\s*(if|while) \[\[? |\$\{\w+|\$\(\w|\becho [\x22$']"),
    (
        Language::Bash,
        2,
        r"(?m)^\s*(sudo|cd|mkdir|export|apt-get|apt|pip|pip3|npm|git|curl|chmod|source|docker|cargo|\./\w+) [\w\-./~]",
    ),
    (Language::Bash, 2, r"(?m)^\$ \w+"),
    (Language::Bash, 2, r"(?m)^(function )?\w+\s*\(\)\s*\{\s*$"),
    (Language::JavaScript, 1, r"(?m)^\s*(class \w+( extends \w+)? \{|constructor\(|this\.\w+)"),
    (Language::TypeScript, 1, r"(?m)^\s*(class \w+( extends \w+)? \{|constructor\(|this\.\w+)"),
];

/// A text needs at least this much that speaks for a language.
const ENOUGH: u32 = 2;
/// A text whose syntax fits counts this much more: languages that lag behind the first by less are tried.
const VALID: u32 = 4;

/// What is looked at: the start of a text tells its language.
const LOOK: usize = 16 << 10;

/// Memory of a thread for the states of the patterns' automaton. If it does not do, matching is a hundred times slower.
const AUTOMATON_BYTES: usize = 8 << 20;

/// All patterns as one automaton of bytes, where each byte of a letter that is not ASCII counts as one of a word: with the letters
/// of Unicode the automaton outgrows any memory. `None` if a pattern is not valid, and a test sees that they are.
static SET: LazyLock<Option<RegexSet>> = LazyLock::new(|| {
    let patterns = SIGNS.iter().map(|(_, _, pattern)| pattern.replace(r"\w", r"[\w\x80-\xff]"));
    RegexSetBuilder::new(patterns).unicode(false).dfa_size_limit(AUTOMATON_BYTES).build().ok()
});

/// The language of `text`, or `None` if it looks like none of ours. Prose is none.
pub fn detect(text: &str) -> Option<Language> {
    recognise(text).map(|(language, _)| language)
}

/// The language of `text` as [`detect`] finds it, and its tree if all of it fits the grammar, where it had to be parsed to tell.
pub fn recognise(text: &str) -> Option<(Language, OnceCell<Option<Syntax>>)> {
    let head = &text[..text.floor_char_boundary(LOOK)];
    let mut scores = Language::ALL.map(|language| (0, language));
    for found in SET.as_ref()?.matches(head.as_bytes()) {
        let (language, weight, _) = SIGNS[found];
        scores[language as usize].0 += weight;
    }
    let mut likely: Vec<(u32, Language)> = scores.into_iter().filter(|(score, _)| *score >= ENOUGH).collect();
    // Of equals the first: JavaScript before TypeScript, C before C++.
    likely.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let (best, first) = *likely.first()?;
    likely.retain(|(score, _)| score + VALID > best);
    if likely.len() == 1 {
        return Some((first, OnceCell::new()));
    }
    // Parsing is dear, above all of what does not parse: only where the signs do not tell, and no further than to the first that fits.
    let fitting = likely
        .into_iter()
        .find_map(|(_, language)| Some((language, Some(Syntax::parse_valid(language, text)?))));
    let (language, syntax) = fitting.unwrap_or((first, None));
    Some((language, OnceCell::from(syntax)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_sound() {
        assert!(SET.is_some());
    }

    #[test]
    fn languages_are_told_apart() {
        let samples = [
            (Some(Language::Python), "def add(a, b):\n    return a + b\n"),
            (Some(Language::Python), "import os\nfor p in os.listdir('.'):\n    print(p)\n"),
            (Some(Language::Rust), "pub fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n"),
            (Some(Language::Rust), "fn main() {\n    let v = vec![1, 2];\n    println!(\"{v:?}\");\n}\n"),
            (
                Some(Language::JavaScript),
                "function add(a, b) {\n  return a + b;\n}\nconsole.log(add(1, 2));\n",
            ),
            (
                Some(Language::JavaScript),
                "const add = (a, b) => {\n  return a + b;\n};\nmodule.exports = add;\n",
            ),
            (
                Some(Language::TypeScript),
                "function add(a: number, b: number): number {\n  return a + b;\n}\n",
            ),
            (Some(Language::TypeScript), "interface P {\n  x: number;\n}\nconst p: P = { x: 1 };\n"),
            (Some(Language::Go), "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(1)\n}\n"),
            (Some(Language::Go), "func add(a, b int) int {\n\treturn a + b\n}\n"),
            (
                Some(Language::Java),
                "public class A {\n    public static int add(int a, int b) {\n        return a + b;\n    }\n}\n",
            ),
            (
                Some(Language::C),
                "#include <stdio.h>\nint main(void) {\n    printf(\"%d\\n\", 1);\n    return 0;\n}\n",
            ),
            (
                Some(Language::Cpp),
                "#include <vector>\nint sum(const std::vector<int>& v) {\n    int s = 0;\n    for (int x : v) s += x;\n    return s;\n}\n",
            ),
            (Some(Language::Bash), "#!/bin/bash\nfor f in *.txt; do\n  echo \"$f\"\ndone\n"),
            (Some(Language::Bash), "if [ -f a ]; then\n  rm a\nfi\n"),
            (
                None,
                "I think that functions are good. Here is why: they return values, and import ideas from mathematics.\n",
            ),
            (None, "Sorry, I cannot help with that.\n"),
            (None, ""),
            (None, "日本語のテキスト\n"),
        ];
        for (language, text) in samples {
            assert_eq!(detect(text), language, "{text}");
        }
    }
}
