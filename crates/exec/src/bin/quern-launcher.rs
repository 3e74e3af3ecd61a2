//! A program that is nothing but a launcher; the tests and measurements of this crate use it.

fn main() {
    quern_exec::launcher_main()
}
