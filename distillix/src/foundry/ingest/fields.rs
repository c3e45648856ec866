//! The fields of other people's data, by the names that are in use.

use crate::foundry::record::Record;
use serde_json::{Map, Value};

/// Names of a field, the own one first. A name counts only if none before it is there.
const ALIASES: [(&str, &[&str]); 6] = [
    ("id", &["id", "task_id", "uid", "hexsha", "blob_id"]),
    ("text", &["text", "content", "code"]),
    ("messages", &["messages", "conversations", "conversation"]),
    ("prompt", &["prompt", "instruction", "question", "query", "problem"]),
    ("response", &["response", "output", "completion", "answer", "solution", "canonical_solution"]),
    ("language", &["language", "lang", "programming_language"]),
];

/// Makes a record of an object of JSON. `place` says where it is, and names a record that has no id. What the foundry does not
/// know stays, under its own name.
///
/// # Errors
/// What is wrong with the object.
pub fn record_of(mut fields: Map<String, Value>, place: String) -> Result<Record, String> {
    fields.retain(|_, value| !value.is_null());
    for (name, aliases) in ALIASES {
        // `text` and `code` beside a question are the question's, or its answer.
        let found = aliases.iter().find(|alias| fields.get(**alias).is_some_and(|value| fits(name, value)));
        if let Some(alias) = found.filter(|alias| **alias != name)
            && let Some(value) = fields.remove(*alias)
        {
            fields.insert(name.to_owned(), value);
        }
    }
    let has = |fields: &Map<String, Value>, name: &str| fields.contains_key(name);
    if has(&fields, "prompt") || has(&fields, "messages") {
        // MBPP and others: a prompt with `text` or `code` as what answers it.
        if let Some(text) = fields.remove("text") {
            let name =
                if has(&fields, "response") || has(&fields, "messages") { "extra_text" } else { "response" };
            fields.insert(name.to_owned(), text);
        }
    }
    if let (Some(prompt), Some(input)) =
        (fields.get("prompt").and_then(Value::as_str), fields.get("input").and_then(Value::as_str))
        && has(&fields, "response")
    {
        // Alpaca: an instruction with its input.
        let whole = if input.is_empty() { prompt.to_owned() } else { format!("{prompt}\n\n{input}") };
        fields.remove("input");
        fields.insert("prompt".to_owned(), whole.into());
    }
    if let Some(messages) = fields.get_mut("messages") {
        normalize_messages(messages);
    }
    for name in ["checks", "fim_spans", "messages", "sample", "extra"] {
        // Parquet of the foundry holds them as JSON.
        if let Some(Value::String(text)) = fields.get(name) {
            let value = serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
            fields.insert(name.to_owned(), value);
        }
    }
    if let Some(Value::Object(extra)) = fields.get("extra").cloned() {
        fields.remove("extra");
        fields.extend(extra);
    }
    normalize_tests(&mut fields);
    if let Some(id @ Value::Number(_)) = fields.get("id") {
        let id = id.to_string();
        fields.insert("id".to_owned(), id.into());
    }
    let mut record: Record =
        serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
    if record.body().is_none() {
        let what = "it needs `text`, or `messages` with an assistant's, or `prompt` and `response` (or `content`, `instruction` and `output`, …)";
        return Err(what.to_owned());
    }
    if record.id.is_empty() {
        record.id.clone_from(&place);
    }
    record.source.get_or_insert(place);
    if record.fim_spans.iter().any(|(start, end)| start >= end) {
        record.fim_spans.clear();
    }
    Ok(record)
}

/// True if a value is of the kind that a field holds.
fn fits(name: &str, value: &Value) -> bool {
    match name {
        "messages" => value.is_array() || value.is_string(),
        "id" => value.is_string() || value.is_number(),
        _ => value.is_string(),
    }
}

/// Brings `from`/`value` (ShareGPT) and other names of roles into the form of `role`/`content`.
fn normalize_messages(messages: &mut Value) {
    for message in messages.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, alias) in [("role", "from"), ("content", "value")] {
            if !message.contains_key(name)
                && let Some(value) = message.remove(alias)
            {
                message.insert(name.to_owned(), value);
            }
        }
        if let Some(Value::String(role)) = message.get_mut("role") {
            match role.as_str() {
                "human" => *role = "user".to_owned(),
                "gpt" | "bot" | "model" => *role = "assistant".to_owned(),
                _ => {}
            }
        }
    }
}

/// Brings the tests of other people's data into one text under `tests`, which a sandbox can run as it is: MBPP's list of assertions
/// with what has to run before them, HumanEval's `check(candidate)` with the call that its runner makes.
pub(in crate::foundry) fn normalize_tests(fields: &mut Map<String, Value>) {
    join("tests", fields, &["tests", "test", "test_list"]);
    for setup in ["test_setup_code", "test_imports"] {
        join(setup, fields, &[setup]);
        let Some(code) = fields.get(setup).and_then(Value::as_str).filter(|code| !code.trim().is_empty())
        else {
            continue;
        };
        let code = code.to_owned();
        if let Some(Value::String(tests)) = fields.get_mut("tests") {
            *tests = format!("{code}\n{tests}");
            fields.remove(setup);
        }
    }
    let name = fields.get("entry_point").and_then(Value::as_str);
    let is_name = |name: &&str| name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
    if let Some(call) = name.filter(is_name).map(|name| format!("check({name})"))
        && let Some(Value::String(tests)) = fields.get_mut("tests")
        && tests.lines().any(|line| line.starts_with("def check("))
        && !tests.lines().any(|line| line.trim_start().starts_with("check("))
    {
        *tests = format!("{}\n\n\n{call}\n", tests.trim_end());
    }
}

/// Makes one text of the first of `names` that is there, a list of lines or a text; another kind of value is left alone.
fn join(name: &str, fields: &mut Map<String, Value>, names: &[&str]) {
    for alias in names {
        let text = match fields.get(*alias) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(lines)) if lines.iter().all(Value::is_string) => {
                lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
            }
            Some(other) if *alias == name => {
                // Not ours: `tests` of another form would be an error.
                let other = other.clone();
                fields.remove(name);
                fields.insert(format!("{name}_raw"), other);
                continue;
            }
            _ => continue,
        };
        fields.remove(*alias);
        fields.insert(name.to_owned(), text.into());
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Record, String> {
        let Value::Object(fields) = value else { unreachable!("an object") };
        record_of(fields, "f.jsonl:1".to_owned())
    }

    #[test]
    fn names_in_use() {
        let record =
            read(json!({"content": "x = 1", "lang": "Python", "stars": 3, "hexsha": "ab"})).expect("reads");
        assert_eq!((record.text.as_deref(), record.id.as_str()), (Some("x = 1"), "ab"));
        assert_eq!((record.language.as_deref(), &record.extra["stars"]), (Some("Python"), &json!(3)));
        let record = read(json!({"instruction": "do", "input": "this", "output": "done"})).expect("reads");
        assert_eq!(
            (record.prompt.as_deref(), record.response.as_deref()),
            (Some("do\n\nthis"), Some("done"))
        );
        let mbpp =
            json!({"task_id": 2, "prompt": "Add.", "code": "x", "test_list": ["assert a", "assert b"]});
        let record = read(mbpp).expect("reads");
        assert_eq!((record.id.as_str(), record.response.as_deref()), ("2", Some("x")));
        assert_eq!(record.tests.as_deref(), Some("assert a\nassert b"));
        let setup =
            json!({"prompt": "p", "code": "x", "test_list": ["assert a"], "test_setup_code": "import b"});
        assert_eq!(read(setup).expect("reads").tests.as_deref(), Some("import b\nassert a"));
        let human_eval = json!({"prompt": "p", "response": "x", "entry_point": "f",
            "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1)\n"});
        let record = read(human_eval).expect("reads");
        assert!(record.tests.as_deref().is_some_and(|tests| tests.ends_with("(1)\n\n\ncheck(f)\n")));
        // Read again, as it was written.
        let again = serde_json::to_value(&record).expect("writes");
        assert_eq!(read(again).expect("reads").tests, record.tests);
        let chat = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]});
        let record = read(chat).expect("reads");
        assert_eq!((record.body(), record.id.as_str()), (Some("a"), "f.jsonl:1"));
        assert_eq!(record.source.as_deref(), Some("f.jsonl:1"));
    }

    #[test]
    fn what_is_no_record_says_so() {
        assert!(read(json!({"title": "x"})).is_err_and(|error| error.contains("`prompt` and `response`")));
        assert!(read(json!({"prompt": "q"})).is_err());
        assert!(read(json!({"text": null, "messages": []})).is_err());
        let record = read(json!({"text": "x", "tests": {"a": 1}, "fim_spans": "[[0,1]]"})).expect("reads");
        assert_eq!((record.tests, record.fim_spans), (None, vec![(0, 1)]));
    }
}
