//! Stories of the product, told from outside. See `TestApp`.

fn main() {}
