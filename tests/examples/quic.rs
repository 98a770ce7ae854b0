//! The program of `tests/programs/quic.rs` by itself, for `tools/bench`.

#[path = "../tests/programs/quic.rs"]
mod quic;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    quic::run(&words.iter().map(String::as_str).collect::<Vec<_>>());
}
