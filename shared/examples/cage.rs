//! The program that tests of this crate start as a cage; `cargo test` builds it before they run.

fn main() {
    errand_shared::workflow::cage::run_if_caged();
}
