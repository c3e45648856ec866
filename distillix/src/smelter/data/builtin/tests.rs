//! What the curriculum promises.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tokenizers::Tokenizer;

use super::baseline::{constants, normalized, signature};
use super::*;

fn deterministic(seed: u64) -> Curriculum {
    Curriculum::new(seed, Options::default())
}

/// The drawn constants of a prompt: numbers of two or more digits and quoted codes.
fn drawn_constants(prompt: &str) -> impl Iterator<Item = &str> {
    constants(prompt).into_iter().filter(|c| {
        c.bytes().last() != Some(b'\'') && c.len() > 1 || c.len() == 4 && c.as_bytes()[2].is_ascii_digit()
    })
}

#[test]
fn held_out_names_constants_and_compositions_never_occur_in_training() {
    let train = deterministic(3);
    let heldout = deterministic(4);
    let (mut names, mut values, mut forms) = (HashSet::new(), HashSet::new(), HashSet::new());
    for i in 0..200_000 {
        let example = train.train_example(i);
        names.extend(signature(&example.prompt).into_iter().map(str::to_owned));
        values.extend(drawn_constants(&example.prompt).map(str::to_owned));
        forms.insert(example.form);
    }
    let (mut constants_seen, mut unseen_forms) = (0, 0);
    for i in 0..20_000 {
        let example = heldout.heldout_example(i);
        for name in signature(&example.prompt) {
            assert!(!names.contains(name), "{name} occurs in training");
        }
        for value in drawn_constants(&example.prompt) {
            assert!(!values.contains(value), "{value} occurs in training");
            constants_seen += 1;
        }
        if i % 2 == 1 {
            assert!(example.composed && !forms.contains(&example.form), "{} is trained on", example.form);
            unseen_forms += 1;
        } else {
            assert!(forms.contains(&example.form), "{} is not trained on", example.form);
        }
    }
    assert!(constants_seen > 5_000 && unseen_forms == 10_000);
}

#[test]
fn each_step_of_a_held_out_pair_is_trained_on_in_other_pairs() {
    let curriculum = deterministic(0);
    for (seen, unseen) in curriculum.seen.iter().zip(&curriculum.unseen) {
        assert!(!unseen.pairs.is_empty(), "{} holds nothing out", seen.family.id);
        for (first, second) in &unseen.pairs {
            let firsts = seen.pairs.iter().filter(|pair| pair.0 == *first).count();
            let seconds = seen.pairs.iter().filter(|pair| pair.1 == *second).count();
            assert!(firsts >= 2 && seconds >= 2, "{} {first} {second}: {firsts} {seconds}", seen.family.id);
        }
    }
}

#[test]
fn there_are_hundreds_of_forms_with_unique_names() {
    let curriculum = deterministic(0);
    let (singles, seen, unseen) = curriculum.form_counts();
    assert!(singles >= 150 && seen >= 1000 && unseen >= 150, "{singles} {seen} {unseen}");
    let ids: HashSet<_> = forms::all().map(|f| f.id).chain(compose::FAMILIES.iter().map(|f| f.id)).collect();
    assert_eq!(ids.len(), singles + compose::FAMILIES.len());
}

#[test]
fn a_docstring_determines_its_body() {
    let curriculum = deterministic(1);
    let mut bodies: HashMap<String, (String, String)> = HashMap::new();
    for i in 0..100_000 {
        let example = curriculum.train_example(i);
        assert_eq!(example.accepted, std::slice::from_ref(&example.response));
        let names = signature(&example.prompt);
        let fills = constants(&example.prompt);
        let docstring = example.prompt.lines().nth(1).unwrap_or_default();
        let body = normalized(&example.response, &names, &fills);
        let (form, known) = bodies
            .entry(normalized(docstring, &names, &fills))
            .or_insert_with(|| (example.form.clone(), body.clone()));
        assert_eq!(*known, body, "{form} and {} say {docstring}", example.form);
    }
}

#[test]
fn varied_bodies_are_several_and_all_get_drawn() {
    let curriculum = Curriculum::new(1, Options { bodies: Bodies::Varied });
    let mut drawn = HashSet::new();
    let mut several = 0;
    for i in 0..20_000 {
        let example = curriculum.train_example(i);
        assert!(example.accepts(&example.response));
        if example.accepted.len() > 1 {
            several += 1;
            let family = example.form.split('/').next().unwrap_or_default().to_owned();
            drawn.insert((family, example.accepted.iter().position(|body| *body == example.response)));
        }
    }
    assert!(several > 1_000, "{several}");
    assert!(drawn.contains(&("guard".to_owned(), Some(0))) && drawn.contains(&("guard".to_owned(), Some(1))));
}

proptest! {
    #[test]
    fn an_example_is_a_function_of_seed_and_index(seed: u64, index: u64) {
        for (one, two) in [
            (deterministic(seed).train_example(index), deterministic(seed).train_example(index)),
            (deterministic(seed).heldout_example(index), deterministic(seed).heldout_example(index)),
        ] {
            prop_assert_eq!(&one, &two);
            prop_assert!(one.prompt.starts_with("def ") && one.prompt.ends_with("\"\"\"\n"));
            prop_assert!(one.response.starts_with("    ") && !one.response.ends_with('\n'));
            prop_assert!(!one.prompt.contains('$') && !one.response.contains('$'));
        }
    }

    #[test]
    fn the_tokenizer_is_lossless(text in "(\\PC|[ \n\t_a-z0-9]){0,60}") {
        let tokenizer: Tokenizer = TOKENIZER_JSON.parse().unwrap();
        // Special tokens are atoms, so text that spells one is another matter.
        prop_assume!(!SPECIAL_TOKENS.iter().any(|token| text.contains(token)));
        let ids = tokenizer.encode_fast(text.as_str(), false).unwrap();
        prop_assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
}

#[test]
fn the_stream_is_the_one_the_project_was_measured_on() {
    let curriculum = deterministic(0);
    let text: String = (0..500)
        .flat_map(|i| [curriculum.train_example(i), curriculum.heldout_example(i)])
        .map(|e| e.prompt + &e.response)
        .collect();
    assert_eq!(
        rng::hash(&[&text]),
        STREAM,
        "a change of the curriculum: train the tokenizer and models anew"
    );
}

const STREAM: u64 = 15200437579822968161;

#[test]
fn the_committed_tokenizer_is_what_training_gives() {
    let trained: serde_json::Value =
        serde_json::from_str(&train_tokenizer().unwrap().to_string(false).unwrap()).unwrap();
    let committed: serde_json::Value = serde_json::from_str(TOKENIZER_JSON).unwrap();
    assert!(trained == committed, "run `cargo run --example builtin tokenizer` and commit its output");
}

#[test]
fn the_tokenizer_splits_digits_keeps_indentation_and_cuts_before_the_body() {
    let tokenizer: Tokenizer = TOKENIZER_JSON.parse().unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 1024);
    for (id, token) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
    let tokens = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
    let pieces = |text: &str| -> Vec<String> {
        tokens(text).iter().map(|id| tokenizer.decode(&[*id], false).unwrap()).collect()
    };
    assert_eq!(pieces("        return 4096"), ["        ", "return", " 4", "0", "9", "6"]);

    let curriculum = deterministic(0);
    let mut total = 0;
    for i in 0..2_000 {
        let Example { prompt, response, .. } = curriculum.train_example(i);
        let apart = [tokens(&prompt), tokens(&response)].concat();
        assert_eq!(tokens(&(prompt + &response)), apart);
        total += apart.len();
    }
    assert!(total < 2_000 * 45, "{} tokens an example", total as f64 / 2e3);
}

#[test]
fn the_baseline_reaches_known_forms_but_not_unseen_compositions() {
    let curriculum = deterministic(5);
    let neighbours = NearestNeighbour::new((0..20_000).map(|i| curriculum.train_example(i)));
    let example = curriculum.train_example(17);
    assert_eq!(neighbours.nearest(&example.prompt).map(|n| &n.form), Some(&example.form));
    let part =
        |odd: u64| -> Vec<Example> { (0..150).map(|i| curriculum.heldout_example(2 * i + odd)).collect() };
    let known = neighbours.score(&part(0));
    let unseen = neighbours.score(&part(1));
    assert!(known.verbatim <= known.renamed && known.renamed <= known.adapted, "{known:?}");
    assert!(known.renamed > 0.2 && known.adapted > 0.8, "{known:?}");
    assert!(unseen.adapted < 0.1, "{unseen:?}");
}
