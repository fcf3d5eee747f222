//! Compiles the migrations in again when they change.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
