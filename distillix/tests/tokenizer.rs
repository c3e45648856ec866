//! Encoding and decoding with tokenizers of several kinds.

mod common;

use common::{Style, sentencepiece, sentencepiece_json};
use distillix::tokenizer::{DecodeStream, Segment, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Texts of the characters that the small vocabulary joins in all sorts of ways.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("def"),
        Just(" "),
        Just("    "),
        Just("\n"),
        Just("\t"),
        Just("return"),
        Just("():"),
        Just(" =="),
        Just("abc"),
        Just("ét"),
        Just("日本"),
        Just("xy"),
        Just("▁"),
        Just("<s>"),
        Just("\0"),
        Just("\u{fffd}"),
        Just("😀")
    ];
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

/// A byte-level vocabulary of single bytes, with control tokens as `tokens` lists them.
fn byte_level_json(add_prefix_space: bool, tokens: &[(&str, bool)]) -> Vec<u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut hidden = 256;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        let code = if printable(&byte) { u32::from(byte) } else { hidden };
        hidden += u32::from(!printable(&byte));
        vocab.insert(char::from_u32(code).expect("a character").to_string(), json!(byte));
    }
    let added: Vec<Value> = tokens
        .iter()
        .zip(256..)
        .map(|((content, special), id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": 0.5, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    serde_json::to_vec(&file).expect("JSON")
}

fn streamed(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32]) -> String {
    let mut stream = DecodeStream::new(tokenizer, prompt);
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text.push_str(&stream.finish());
    text
}

proptest! {
    #[test]
    fn words_give_the_ids_of_the_whole(text in text()) {
        let ours = sentencepiece(Style::Prepend);
        let mut library = tokenizers::Tokenizer::from_bytes(sentencepiece_json(Style::Prepend)).expect("loads");
        library.set_encode_special_tokens(true);
        let text = text.replace('▁', "_");
        let whole = library.encode_fast(text.as_str(), false).expect("encodes").get_ids().to_vec();
        prop_assert_eq!(ours.encode_document(&text).expect("encodes"), whole);
    }

    #[test]
    fn text_comes_back_from_pieces(parts in prop::collection::vec(text(), 1..4), metaspace: bool) {
        let tokenizer = sentencepiece(if metaspace { Style::Metaspace } else { Style::Prepend });
        let whole = parts.concat();
        let mut ids = tokenizer.encode_document(&parts[0]).expect("encodes");
        prop_assert_eq!(&tokenizer.decode_document(&ids), &parts[0]);
        let mut prompt = vec![tokenizer.bos()];
        prompt.extend(&ids);
        if !ids.is_empty() {
            for part in &parts[1..] {
                let piece = tokenizer.encode_piece(part).expect("encodes");
                prop_assert_eq!(&tokenizer.decode_completion(&prompt, &piece), part);
                ids.extend(piece);
            }
            prop_assert_eq!(&tokenizer.decode_document(&ids), &whole);
        }
        prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
    }

    #[test]
    fn byte_level_text_comes_back(text in "\\PC{0,40}", prefix: bool) {
        let file = byte_level_json(prefix, &[("<|endoftext|>", true)]);
        let tokenizer = Tokenizer::from_bytes(file, None).expect("loads");
        let ids = tokenizer.encode_document(&text).expect("encodes");
        prop_assert_eq!(ids.len(), text.len());
        prop_assert_eq!(tokenizer.decode_document(&ids), text);
    }
}

#[test]
fn both_styles_give_the_same_ids() {
    let (a, b) = (sentencepiece(Style::Prepend), sentencepiece(Style::Metaspace));
    for text in ["def abc():\n    return xy\n", " abc", "", "\n"] {
        assert_eq!(a.encode_document(text).expect("encodes"), b.encode_document(text).expect("encodes"));
    }
}

#[test]
fn streams_are_cut_between_characters() {
    let tokenizer = sentencepiece(Style::Prepend);
    let ids = tokenizer.encode_document("a😀b").expect("encodes");
    let mut stream = DecodeStream::new(&tokenizer, &[tokenizer.bos()]);
    let parts: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    assert!(parts.iter().any(String::is_empty) && parts.concat() == "a😀b", "{parts:?}");
    // A character that is never completed, and a byte that starts none.
    let byte = |b: u8| tokenizer.id(&format!("<0x{b:02X}>")).expect("a byte token");
    let prompt = [ids[0]];
    assert_eq!(streamed(&tokenizer, &prompt, &[byte(0xF0), byte(0x9F)]), "\u{fffd}");
    assert_eq!(streamed(&tokenizer, &prompt, &[byte(0xFF), ids[0]]), "\u{fffd} a");
    assert_eq!(streamed(&tokenizer, &prompt, &[byte(0xE6), tokenizer.eos(), ids[0]]), "\u{fffd} a");
}

#[test]
fn fim_tokens_are_added_at_the_end_and_kept() {
    let tokenizer = sentencepiece(Style::Prepend);
    let fim = tokenizer.fim();
    let loaded = tokenizer.len() as u32 - 4;
    assert_eq!([fim.prefix, fim.suffix, fim.middle, fim.pad], [0, 1, 2, 3].map(|at| loaded + at));
    assert_eq!(tokenizer.name(fim.pad), "<|fim_pad|>");
    assert_eq!(tokenizer.padded_len() % 64, 0);
    let folder = tempfile::tempdir().expect("a folder");
    tokenizer.save(folder.path()).expect("saves");
    let again = Tokenizer::load(folder.path()).expect("loads");
    assert_eq!((again.hash(), again.file(), again.fim()), (tokenizer.hash(), tokenizer.file(), fim));
    assert_eq!((again.bos(), again.eos()), (1, 2));
}

#[test]
fn known_fim_tokens_are_recognised_and_the_file_is_kept_as_it_was() {
    let names = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"];
    // Some vocabularies do not call them special; text must not produce them all the same.
    let file = byte_level_json(false, &names.map(|name| (name, name == "<|endoftext|>")));
    let tokenizer = Tokenizer::from_bytes(file.clone(), None).expect("loads");
    let fim = tokenizer.fim();
    assert_eq!([fim.prefix, fim.suffix, fim.middle, fim.pad], [257, 259, 258, 260]);
    assert_eq!((tokenizer.len(), tokenizer.bos(), tokenizer.eos()), (261, 256, 256));
    assert_eq!(tokenizer.file(), file);
    let ids = tokenizer.encode_document("<fim_prefix>").expect("encodes");
    assert_eq!(ids.len(), "<fim_prefix>".len());
    assert_eq!(
        tokenizer.segments("a<fim_pad><|endoftext|>b"),
        [Segment::Text("a"), Segment::Token(260), Segment::Token(256), Segment::Text("b")]
    );
}

#[test]
fn bos_and_eos_as_the_config_says() {
    let file =
        byte_level_json(false, &[("<|endoftext|>", true), ("<|im_start|>", true), ("<|im_end|>", true)]);
    let config = br#"{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}"#;
    let tokenizer = Tokenizer::from_bytes(file, Some(config)).expect("loads");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (257, 258));
    let folder = tempfile::tempdir().expect("a folder");
    tokenizer.save(folder.path()).expect("saves");
    let again = Tokenizer::load(folder.path()).expect("loads");
    assert_eq!((again.bos(), again.eos(), again.hash()), (257, 258, tokenizer.hash()));
}

#[test]
fn bad_files_are_errors() {
    let fails = |bytes: &[u8]| format!("{:#}", Tokenizer::from_bytes(bytes, None).expect_err("must fail"));
    assert!(fails(b"{").contains("not JSON"));
    assert!(fails(b"{}").contains("vocab"));
    assert!(fails(&byte_level_json(false, &[])).contains("eos_token"));
    let missing = Tokenizer::load(std::path::Path::new("/nonexistent/tokenizer.json"));
    assert!(format!("{:#}", missing.expect_err("must fail")).contains("/nonexistent"));
}

#[test]
fn byte_lengths_count_the_text() {
    let tokenizer = sentencepiece(Style::Prepend);
    let text = "def abc(): 日本 😀\n";
    let lengths = tokenizer.byte_lengths();
    let ids = tokenizer.encode_document(text).expect("encodes");
    let bytes: u32 = ids.iter().map(|id| lengths[*id as usize]).sum();
    assert_eq!(bytes as usize, text.len() + 1);
    assert_eq!((lengths.len(), lengths[1], tokenizer.dummy_prefix_bytes()), (tokenizer.len(), 0, 1));
}
