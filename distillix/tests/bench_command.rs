//! `distillix bench ops` as a program.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    let program = std::env::var("CARGO_BIN_EXE_distillix").unwrap_or(env!("CARGO_BIN_EXE_distillix").into());
    Command::new(program).args(["bench", "ops", "--device", "cpu"]).args(args).output().expect("it starts")
}

#[test]
fn every_op_is_timed_in_both_directions() {
    let output = bench(&["--preset", "tiny", "--batch", "1", "--seq-len", "16", "--repeats", "2", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("a JSON line")).collect();
    let (rates, times) = lines.split_last().expect("lines");
    assert!(rates["bytes_per_second"].as_f64() > Some(1e6) && rates["flops_per_second"].as_f64() > Some(1e6));
    let find = |op: &str, pass: &str| {
        let found = times.iter().filter(|time| time["op"] == op && time["pass"] == pass);
        let [time] = found.collect::<Vec<_>>()[..] else { panic!("{op} {pass}: {times:?}") };
        assert!(time["milliseconds"].as_f64() > Some(0.0) && time["share"].as_f64() > Some(0.0), "{time}");
        (time["flops"].as_f64().expect("a number"), time["bytes"].as_f64().expect("a number"))
    };
    let ops = [
        "embedding",
        "add, norm, q, k, v",
        "head norm, rope",
        "attention",
        "o",
        "add, norm, gate, up",
        "swiglu, down",
        "head, loss",
    ];
    assert_eq!(times.len(), 2 * ops.len());
    for op in ops {
        let (forward, backward) = (find(op, "forward"), find(op, "backward"));
        assert!(forward.1 > 0.0 && backward.1 > 0.0, "{op}");
        assert_eq!(forward.0 > 0.0, backward.0 > 0.0 || op == "head, loss", "{op}");
    }
    // 16 tokens, 128 wide: 2·16·128·(2·352) operations; x and delta, their sum, gate and up in f32, codes in a byte.
    let bytes = 16 * 4 * (3 * 128 + 2 * 352) + 2 * 352 * 128;
    assert_eq!(find("add, norm, gate, up", "forward"), (2.0 * 16.0 * 128.0 * 704.0, f64::from(bytes)));
}

#[test]
fn an_unknown_preset_is_wrong_use() {
    assert_eq!(bench(&["--preset", "huge"]).status.code(), Some(2));
}
