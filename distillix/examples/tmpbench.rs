use distillix::bench::*;
use nn::model::*;
use nn::optim::*;
fn main() {
    let model = ModelConfig {
        vocab_size: 4096,
        hidden: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        mlp: 704,
        max_seq: 256,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        attn_softcap: 0.,
        final_softcap: 0.,
        qk_norm: false,
        tie_embeddings: false,
        ..Default::default()
    };
    let optimizer = OptimizerConfig {
        matrices: MatrixOptimizer::AdamW,
        muon: Muon { lr: 0.02, momentum: 0.95, weight_decay: 0. },
        adamw: AdamW { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
    };
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global().unwrap();
    println!(
        "{:#?}",
        train(&TrainBench { model, optimizer, batch: 8, seq_len: 256, steps: 8, recompute: false }, |_| {})
            .unwrap()
    );
}
