//! Plants a mistake in code: one small change that still parses and means something else.

use crate::foundry::language::Language;
use crate::foundry::syntax::Syntax;
use crate::smelter::data::random::{below, hash};
use std::ops::Range;

/// What a token is mistaken for. Each is a slip that people make.
const SLIPS: [(&str, &str); 20] = [
    ("<", "<="),
    ("<=", "<"),
    (">", ">="),
    (">=", ">"),
    ("==", "!="),
    ("!=", "=="),
    ("+", "-"),
    ("-", "+"),
    ("*", "+"),
    ("//", "/"),
    ("%", "//"),
    ("+=", "="),
    ("and", "or"),
    ("or", "and"),
    ("&&", "||"),
    ("||", "&&"),
    ("True", "False"),
    ("False", "True"),
    ("true", "false"),
    ("false", "true"),
];

/// `code` with one mistake, chosen by `seed`; `None` if there is no place for one.
pub fn plant(language: Language, code: &str, seed: u64) -> Option<String> {
    let mut places = places(language, code)?;
    while !places.is_empty() {
        let at = below(hash(&[seed, places.len() as u64]), places.len() as u64) as usize;
        let (range, replacement) = places.swap_remove(at);
        let broken = format!("{}{replacement}{}", &code[..range.start], &code[range.end..]);
        if Syntax::parse(language, &broken).is_some_and(|syntax| syntax.is_valid()) {
            return Some(broken);
        }
    }
    None
}

fn places(language: Language, code: &str) -> Option<Vec<(Range<usize>, String)>> {
    let syntax = Syntax::parse(language, code).filter(Syntax::is_valid)?;
    let mut places = Vec::new();
    syntax.visit(|node| {
        let range = node.byte_range();
        let Some(text) = code.get(range.clone()) else { return false };
        let kind = node.kind();
        if kind.contains("string")
            || kind.contains("comment")
            || kind.contains("type")
            || kind.contains("annotation")
        {
            return false;
        }
        let parent = node.parent().map_or("", |parent| parent.kind());
        if node.child_count() == 0 {
            // Anonymous tokens are called as they look. A sign or a star is an operation only between two operands.
            let slip = SLIPS.iter().find(|(right, _)| *right == text && (kind == text || node.is_named()));
            if let Some((_, wrong)) = slip
                && (!["+", "-", "*", "<", ">"].contains(&text)
                    || parent.contains("binary")
                    || parent.contains("comparison"))
            {
                places.push((range, (*wrong).to_owned()));
            } else if [
                "integer",
                "integer_literal",
                "number",
                "int_literal",
                "decimal_integer_literal",
                "number_literal",
            ]
            .contains(&kind)
                && let Ok(number) = text.parse::<u32>()
                && number < 10
            {
                places.push((range, (number + 1).to_string()));
            }
        } else if kind == "not_operator" {
            // Without its `not`.
            if let Some(argument) = node.child_by_field_name("argument") {
                places.push((range, code[argument.byte_range()].to_owned()));
            }
        }
        true
    });
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_small_thing_changes_and_it_still_parses() {
        let samples = [
            (Language::Python, "def f(a, b):\n    # a < b\n    return a < b and not b\n"),
            (Language::Rust, "fn f(a: i32) -> bool {\n    a <= 3 && a != 2\n}\n"),
            (Language::JavaScript, "function f(a) {\n  return a.length > 0 ? a[0] : null;\n}\n"),
            (Language::Go, "package a\n\nfunc f(a int) bool {\n\treturn a >= 1\n}\n"),
            (Language::C, "int f(int a) {\n    for (int i = 0; i < a; i++) a += i;\n    return a;\n}\n"),
            (Language::Java, "class A {\n    int f(int a) {\n        return a * 2;\n    }\n}\n"),
        ];
        for (language, code) in samples {
            let mut found = std::collections::HashSet::new();
            for seed in 0..40 {
                let broken = plant(language, code, seed).expect("there is a place");
                assert_ne!(broken, code);
                assert_eq!(plant(language, code, seed).as_ref(), Some(&broken));
                let changed = code.lines().zip(broken.lines()).filter(|(a, b)| a != b).count();
                assert_eq!(changed, 1, "{broken}");
                found.insert(broken);
            }
            assert!(found.len() >= 2, "{language}: {found:?}");
        }
    }

    #[test]
    fn where_nothing_can_go_wrong_nothing_is_planted() {
        assert_eq!(plant(Language::Python, "def f(a):\n    '''a < b'''\n    return a\n", 1), None);
        assert_eq!(plant(Language::Python, "def f(a:\n", 1), None);
    }
}
