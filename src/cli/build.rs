//! Links the binary smaller where the linker can: equal functions, of which generic code makes thousands, become one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// No code here tells functions apart by their addresses, nor constants.
const FOLD: &str = "-Wl,--icf=all";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // It costs time at each link, and is of use to what is shipped alone.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") && links_with(FOLD) {
        println!("cargo:rustc-link-arg-bins={FOLD}");
    }
}

/// Whether the linker that will link the binary takes `argument`. It is asked, by linking a program: which one it is follows from the
/// toolchain, its version, the target, and what users and their machines have configured.
fn links_with(argument: &str) -> bool {
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return false };
    let source = out.join("probe.rs");
    fs::write(&source, "fn main() {}\n").is_ok() && compile(&source, &out.join("probe"), argument)
}

fn compile(source: &Path, program: &Path, argument: &str) -> bool {
    let (Some(rustc), Some(target)) = (env::var_os("RUSTC"), env::var_os("TARGET")) else { return false };
    let mut command = Command::new(rustc);
    command.arg("--edition=2024").arg("--target").arg(target).arg(source).arg("-o").arg(program);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut value = std::ffi::OsString::from("linker=");
        value.push(linker);
        command.arg("-C").arg(value);
    }
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        command.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    }
    command.arg("-C").arg(format!("link-arg={argument}")).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
