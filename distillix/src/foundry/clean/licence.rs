//! Licences: what a record's header or fields say, against a list of those that are allowed.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::record::Record;
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

/// Drops records whose header, or a field called `license` or the like, names a licence that is not on the list.
///
/// A header is the comment at the top of a text. What names no licence is kept, as most files name none.
pub struct Licence {
    allowed: Vec<String>,
}

/// Fields in which data sets say it.
const FIELDS: [&str; 6] =
    ["license", "licence", "licenses", "license_type", "max_stars_repo_licenses", "detected_licenses"];

/// Sentences of licences, in lower case with single spaces. The first that is found tells: those that quote others come first.
const SENTENCES: [(&str, &str); 21] = [
    ("AGPL", "gnu affero general public licen"),
    ("LGPL", "gnu lesser general public licen"),
    ("LGPL", "gnu library general public licen"),
    ("GPL", "gnu general public licen"),
    ("GPL", "licensed under the gpl"),
    ("MPL-2.0", "mozilla public license"),
    ("EPL", "eclipse public license"),
    ("CDDL-1.0", "common development and distribution license"),
    ("EUPL", "european union public licen"),
    ("SSPL-1.0", "server side public license"),
    ("BUSL-1.1", "business source license"),
    ("CC-BY-NC", "attribution-noncommercial"),
    ("CC-BY-SA", "attribution-sharealike"),
    ("Apache-2.0", "apache license"),
    ("BSL-1.0", "boost software license"),
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining"),
    ("BSD-3-Clause", "redistribution and use in source and binary forms"),
    ("ISC", "permission to use, copy, modify, and distribute this software"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software"),
    ("Unlicense", "this is free and unencumbered software"),
    ("Proprietary", "proprietary and confidential"),
];

/// A header is looked for in this much of a text.
const HEAD: usize = 6 << 10;

impl Licence {
    /// The stage for a config.
    pub fn new(config: &CleanConfig) -> Self {
        Self { allowed: config.licences.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    fn allows_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('+').to_ascii_lowercase();
        self.allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            // `GPL-3.0-only` and `GPL-3.0-or-later` are forms of `GPL-3.0`.
            None => name.strip_suffix("-only").or(name.strip_suffix("-or-later")).unwrap_or(&name) == allowed,
        })
    }

    /// Whether an SPDX expression leaves a choice that is allowed. `AND` binds closer than `OR`; brackets are read as if
    /// they were not there, which can only be too strict or name a licence that is meant.
    fn allows(&self, expression: &str) -> bool {
        let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
        let words: Vec<&str> = plain.split_whitespace().collect();
        words.split(|word| word.eq_ignore_ascii_case("or")).any(|choice| {
            let mut names = choice
                .split(|word| word.eq_ignore_ascii_case("and"))
                .filter(|all| !all.is_empty())
                .peekable();
            // `X WITH exception` allows more than X.
            names.peek().is_some() && names.all(|name| self.allows_name(name[0]))
        })
    }
}

/// What the fields of a record say.
fn fields(record: &Record) -> Vec<String> {
    let values = FIELDS.iter().filter_map(|field| record.extra.get(*field));
    let names = values.flat_map(|value| match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(all) => all.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    });
    let says = |name: &String| {
        !["", "unknown", "none", "no_license", "permissive"]
            .contains(&name.trim().to_ascii_lowercase().as_str())
    };
    names.filter(says).collect()
}

/// The comment at the top of a text.
fn header(draft: &Draft) -> String {
    let body = draft.body();
    let end = match draft.syntax() {
        Some(syntax) => {
            let root = syntax.tree.root_node();
            let mut cursor = root.walk();
            let mut nodes = root.children(&mut cursor);
            // A string at the top is documentation, and `<?php`, `package x` and the like may stand before the comment.
            let code = nodes.find(|node| {
                let is_string = || {
                    node.kind() == "expression_statement"
                        && node.named_child(0).is_some_and(|n| n.kind() == "string")
                };
                node.is_named()
                    && !node.kind().contains("comment")
                    && !is_string()
                    && !node.kind().contains("package")
            });
            code.map_or(body.len(), |node| node.start_byte())
        }
        None => body.len(),
    };
    body[..body.floor_char_boundary(end.min(HEAD))].to_owned()
}

/// The licence that a header names: by its SPDX tag, else by a sentence of it.
fn named_in(header: &str) -> Option<String> {
    static TAG: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?i)spdx-license-identifier:\s*([A-Za-z0-9.+() -]*[A-Za-z0-9.+)])").ok()
    });
    if let Some(tag) = TAG.as_ref().and_then(|tag| tag.captures(header)) {
        return Some(tag[1].to_owned());
    }
    // Comment marks stand between the words.
    let words = header
        .split(|c: char| c.is_whitespace() || "#*/;\"'-<>!".contains(c))
        .filter(|word| !word.is_empty());
    let plain = words.collect::<Vec<_>>().join(" ").to_lowercase();
    let found = SENTENCES.iter().find(|(_, sentence)| plain.contains(&sentence.replace(['-', '/'], " ")));
    found.map(|(name, _)| (*name).to_owned())
}

impl Stage for Licence {
    fn check(&self, draft: &mut Draft) -> Verdict {
        if let Some(name) = fields(draft.record()).into_iter().find(|name| !self.allows(name)) {
            return Err(Fault::with("licence not on the list", name));
        }
        let Some(name) = named_in(&header(draft)) else { return Ok(()) };
        if !self.allows(&name) {
            return Err(Fault::with("licence not on the list", format!("{name}, in the header")));
        }
        draft.note("licence", name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(language: Option<&str>, text: &str, licence: Option<Value>) -> Result<Option<Value>, String> {
        let mut record = Record { language: language.map(str::to_owned), ..Record::text("t", text) };
        record.extra.extend(licence.map(|value| ("license".to_owned(), value)));
        let mut draft = Draft::new(record);
        Licence::new(&CleanConfig::default()).check(&mut draft).map_err(|fault| fault.detail)?;
        Ok(draft.record().checks.get("licence").cloned())
    }

    #[test]
    fn headers() {
        let python = |text: &str| verdict(Some("python"), text, None);
        assert_eq!(python("x = 1\n"), Ok(None));
        assert_eq!(python("# SPDX-License-Identifier: MIT\nx = 1\n"), Ok(Some("MIT".into())));
        assert_eq!(
            python("# SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0\n"),
            Ok(Some("GPL-2.0-or-later OR Apache-2.0".into()))
        );
        assert!(python("# SPDX-License-Identifier: GPL-3.0-only\nx = 1\n").is_err());
        assert!(python("# SPDX-License-Identifier: MIT AND GPL-3.0-only\nx = 1\n").is_err());
        let gpl = "This program is free software: you can redistribute it under the terms of the GNU General\n# Public License.";
        assert_eq!(
            python(&format!("#!/usr/bin/python\n# {gpl}\nx = 1\n")),
            Err("GPL, in the header".to_owned())
        );
        assert!(python(&format!("\"\"\"{gpl}\"\"\"\nimport a\n")).is_err());
        assert!(
            verdict(Some("c"), &format!("/*\n * {}\n */\nint x;\n", gpl.replace('#', " *")), None).is_err()
        );
        assert!(verdict(None, &format!("// {gpl}\n"), None).is_err());
        let mit = "// Permission is hereby granted, free of charge, to any\n// person obtaining a copy\nfn f() {}\n";
        assert_eq!(verdict(Some("rust"), mit, None), Ok(Some("MIT".into())));
        let later = "x = 1\n# GNU General Public License\ntext = 'gnu general public license'\n";
        assert_eq!(python(later), Ok(None), "no header");
    }

    #[test]
    fn fields_of_data_sets() {
        let field = |value: Value| verdict(None, "some text", Some(value)).is_ok();
        assert!(
            field("mit".into()) && field(serde_json::json!(["MIT", "Apache-2.0"])) && field("unknown".into())
        );
        assert!(!field("gpl-3.0".into()) && !field(serde_json::json!(["MIT", "AGPL-3.0"])));
        assert!(field(Value::Null) && field("MIT/GPL-2.0".into()) && field("BSD-3-Clause".into()));
    }
}
