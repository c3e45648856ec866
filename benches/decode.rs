//! One new token of a 50M-parameter ternary model, after 128 and 1024 earlier ones.

use divan::Bencher;
use nn::model::{LinearKind, ModelConfig, Student};
use std::hint::black_box;
use tensor::{Device, Tensor};

fn main() {
    divan::main();
}

fn model(linear: LinearKind) -> Student {
    let config =
        ModelConfig { hidden: 512, heads: 8, kv_heads: 2, mlp: 1408, linear, ..ModelConfig::default() };
    Student::random(config, 32_004, &Device::Cpu, 1).expect("the dimensions are a model's")
}

#[divan::bench(args = [128, 1024])]
fn ternary(bencher: Bencher, context: usize) {
    decode(bencher, LinearKind::Ternary, context);
}

#[divan::bench(args = [128])]
fn dense(bencher: Bencher, context: usize) {
    decode(bencher, LinearKind::Dense, context);
}

fn decode(bencher: Bencher, linear: LinearKind, context: usize) {
    let model = model(linear);
    let mut cache = model.kv_cache(context + 1).expect("it fits");
    let ids: Vec<u32> = (0..context as u32).map(|i| i * 37 % 32_000).collect();
    for ids in ids.chunks(128) {
        let ids = Tensor::from_slice(ids, &[1, ids.len()], &Device::Cpu).expect("the length fits");
        model.decode(&ids, &mut cache).expect("it fits");
    }
    let next = Tensor::from_slice(&[7u32], &[1, 1], &Device::Cpu).expect("the length fits");
    bencher.counter(divan::counter::ItemsCount::new(1usize)).bench_local(|| {
        cache.truncate(context);
        black_box(model.decode(black_box(&next), &mut cache).expect("it fits"))
    });
}
