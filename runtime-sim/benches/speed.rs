//! How fast simulated time passes.
fn main() { divan::main(); }
