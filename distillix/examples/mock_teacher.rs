//! A teacher that answers at once, for trying the foundry and measuring it: an OpenAI-compatible server below `/v1`, and an
//! OpenCode server beside it.
//!
//! ```sh
//! cargo run --release -p distillix --example mock_teacher -- 8123 [LATENCY_MS] [PERCENT_OF_FAULTS]
//! distillix foundry generate --prompts prompts.jsonl --teacher openai:http://127.0.0.1:8123/v1#mock --output train.jsonl
//! ```
//!
//! It prints how many requests it saw each five seconds.

#[path = "../tests/foundry/mock.rs"]
#[allow(dead_code)]
mod mock;

use mock::{Behaviour, Mock, share};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn main() {
    let number =
        |at: usize, default| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let behaviour = Behaviour {
        plan: share(number(3, 0)),
        latency: Duration::from_millis(number(2, 0)),
        ..Behaviour::default()
    };
    let mock = Mock::serve(behaviour, number(1, 8123) as u16);
    println!("listening on http://{}", mock.address);
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_secs(5));
        let requests = mock.requests();
        if requests != last {
            println!(
                "{requests} requests, at most {} at a time",
                mock.seen.most_active.load(Ordering::SeqCst)
            );
            last = requests;
        }
    }
}
