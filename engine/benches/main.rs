//! Microbenchmarks of the engine and of HTTP/1.1 heads: `make bench-engine`, or one of them with
//! `cargo bench -p holdfast-engine --bench engine -- NAME`.
//!
//! All but those of commands run without a kernel: the send path goes over a ring that completes
//! nothing but what fails.

mod commands;
mod http_head;
#[allow(dead_code)] // What only tests use.
mod null_ring;
mod send;
mod slots;
mod wheel;

fn main() {
    divan::main();
}
