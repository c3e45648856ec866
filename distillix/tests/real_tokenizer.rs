//! The real Llama-2 tokenizer on real code. `DISTILLIX_LLAMA2_TOKENIZER` names its `tokenizer.json` (it may not be
//! distributed with the project), `DISTILLIX_CODE` a folder of code; without them these tests say that they are skipped.

use distillix::tokenizer::{DecodeStream, Tokenizer};
use std::path::{Path, PathBuf};

fn real() -> Option<Tokenizer> {
    let Some(path) = std::env::var_os("DISTILLIX_LLAMA2_TOKENIZER") else {
        eprintln!("skipped: DISTILLIX_LLAMA2_TOKENIZER names no tokenizer.json");
        return None;
    };
    Some(Tokenizer::load(Path::new(&path)).expect("the tokenizer loads"))
}

fn code() -> Vec<(PathBuf, String)> {
    let Some(root) = std::env::var_os("DISTILLIX_CODE") else {
        eprintln!("skipped: DISTILLIX_CODE names no folder of code");
        return Vec::new();
    };
    let files = ignore::WalkBuilder::new(root).sort_by_file_name(|a, b| a.cmp(b)).build();
    files
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|end| end == "py" || end == "rs"))
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)))
        .collect()
}

/// Encodes as the tokenizers library does with the file as it is.
fn library_ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("encodes").get_ids().to_vec()
}

#[test]
fn llama2_ids_and_text() {
    let Some(tokenizer) = real() else { return };
    assert_eq!((tokenizer.len(), tokenizer.padded_len()), (32_004, 32_064));
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (1, 2));
    let fim = tokenizer.fim();
    assert_eq!([fim.prefix, fim.suffix, fim.middle, fim.pad], [32_000, 32_001, 32_002, 32_003]);
    let expected: [(&str, &[u32]); 9] = [
        ("Hello world", &[15043, 3186]),
        ("héllo 😀 wörld", &[298, 3610, 417, 29871, 243, 162, 155, 131, 281, 1340, 430]),
        (
            "  def f(x):\n\treturn x**2\n",
            &[259, 822, 285, 29898, 29916, 1125, 13, 12, 2457, 921, 1068, 29906, 13],
        ),
        ("    leading spaces", &[268, 8236, 8162]),
        ("日本語\0\u{7}", &[29871, 30325, 30346, 30968, 3, 10]),
        ("grabbed", &[2646, 1327, 287]),
        (" grabbed", &[29871, 2646, 1327, 287]),
        (
            "fn main() { println!(\"{}\", 1 << 3); }",
            &[7876, 1667, 580, 426, 22088, 28457, 8875, 613, 29871, 29896, 3532, 29871, 29941, 416, 500],
        ),
        ("", &[]),
    ];
    for (text, ids) in expected {
        assert_eq!(tokenizer.encode_document(text).expect("encodes"), ids, "{text:?}");
        assert_eq!(tokenizer.decode_document(ids), text);
    }
    // Control tokens written in a text are text.
    let ids = tokenizer.encode_document("<s>x</s><|fim_pad|>").expect("encodes");
    assert!(ids.iter().all(|id| !tokenizer.is_special(*id)), "{ids:?}");
    assert_eq!(tokenizer.decode_document(&ids), "<s>x</s><|fim_pad|>");
}

#[test]
fn real_code_is_encoded_as_the_library_does_and_comes_back() {
    let Some(tokenizer) = real() else { return };
    let path = std::env::var_os("DISTILLIX_LLAMA2_TOKENIZER").expect("set above");
    let mut library = tokenizers::Tokenizer::from_file(path).expect("loads");
    library.set_encode_special_tokens(true);
    let (mut bytes, mut compared) = (0, 0);
    for (index, (path, text)) in code().iter().enumerate() {
        let ids = tokenizer.encode_document(text).expect("encodes");
        assert_eq!(tokenizer.decode_document(&ids), *text, "{}", path.display());
        bytes += text.len();
        // The library is slow on whole files, and reads a literal mark as a space.
        if index % 16 == 0 && !text.contains('\u{2581}') {
            assert_eq!(ids, library_ids(&library, text), "{}", path.display());
            compared += 1;
        }
        // Three pieces, as a fill-in has them.
        let cut = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (a, b) = (cut(text.len() / 3), cut(text.len() * 2 / 3));
        let mut pieces = tokenizer.encode_document(&text[..a]).expect("encodes");
        pieces.extend(tokenizer.encode_piece(&text[a..b]).expect("encodes"));
        pieces.extend(tokenizer.encode_piece(&text[b..]).expect("encodes"));
        assert_eq!(tokenizer.decode_document(&pieces), *text, "{} in pieces", path.display());
        if index % 64 == 0 {
            let mut stream = DecodeStream::new(&tokenizer, &[tokenizer.bos()]);
            let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
            streamed.push_str(&stream.finish());
            assert_eq!(streamed, *text);
        }
    }
    eprintln!("{bytes} bytes of code came back; {compared} files have the library's ids");
}
