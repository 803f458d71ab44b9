//! The compiler that makes plugins, found in the same order by this room's build script and by `mks plugin build`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What plugins are compiled for: a standard library that asks the host for nothing.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// Variables of an outer build that must not reach an inner one. Settings of the network, the registry and the
/// jobserver are left alone.
const UNWANTED: [&str; 17] = [
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN_SOURCE",
];
/// Small, self-contained code; a crate's own profiles are for the host.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];
/// rustc's own linker is not part of Debian's packages.
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld";

/// A compiler that can build for WebAssembly.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    cargo: OsString,
    rustc: OsString,
    /// The standard library comes as source and is built along.
    build_std: bool,
}

/// The toolchain in use if it has the target, else the target is added, else Debian's packages serve.
pub(crate) fn find() -> Result<Toolchain, String> {
    let current = Toolchain {
        cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        rustc: env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
        build_std: false,
    };
    let may_install = env::var("RUSTUP_AUTO_INSTALL").map_or(true, |value| value != "0");
    if has_target(&current.rustc) || (may_install && add_target() && has_target(&current.rustc)) {
        return Ok(current);
    }
    let debian = Toolchain { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into(), build_std: true };
    let lacks = debian_lacks();
    if lacks.is_empty() {
        return Ok(debian);
    }
    Err(format!(
        "plugins need a Rust compiler for {TARGET}, and there is none. Do one of these:\n\
         - rustup target add {TARGET}\n\
         - apt-get install cargo-web rustc-web rust-web-src lld   (Debian; missing here: {})",
        lacks.join(", ")
    ))
}

fn has_target(rustc: &OsString) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    output.status.success() && sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn add_target() -> bool {
    Command::new("rustup").args(["target", "add", TARGET]).status().is_ok_and(|status| status.success())
}

/// The packages of Debian's own toolchain for the web that are not installed.
fn debian_lacks() -> Vec<&'static str> {
    let parts = [
        ("/usr/bin/cargo", "cargo-web"),
        ("/usr/bin/rustc", "rustc-web"),
        ("/usr/lib/rustlib/src/rust/library/std/Cargo.toml", "rust-web-src"),
        (DEBIAN_LINKER, "lld"),
    ];
    parts.into_iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| package).collect()
}

impl Toolchain {
    /// `cargo build` for WebAssembly in `root`, which lacks only what is to be built.
    pub(crate) fn cargo_build(&self, root: &Path, target_dir: &Path) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.current_dir(root).args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(target_dir);
        for name in UNWANTED {
            cargo.env_remove(name);
        }
        cargo.env("RUSTC", &self.rustc).env("CARGO_ENCODED_RUSTFLAGS", rustflags(root)).envs(PROFILE);
        if self.build_std {
            // Debian ships the standard library for this target as source only. Building it is not stable yet.
            cargo.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=std,panic_abort"]);
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
        }
        cargo
    }
}

/// Paths of this machine would get into panic messages, and so into the content hash by which nodes compare resolvers.
fn rustflags(root: &Path) -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=/mks", root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    flags.join("\u{1f}")
}
