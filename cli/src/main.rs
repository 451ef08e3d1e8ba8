//! The mill binary.
fn main() {}
