#![no_main]

#[path = "../checks/spec.rs"]
#[expect(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| checks::dockerignore(text));
