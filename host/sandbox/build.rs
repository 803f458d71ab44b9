//! Builds the plugins that are part of every node for `wasm32-unknown-unknown` and turns them into components.
//!
//! A nested cargo does it, with a target directory of its own, so that it neither waits for the outer one nor shares
//! its flags. The components land in `OUT_DIR`, from where the library embeds them; no binary is kept in the
//! repository.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
/// Packages of the built-in plugins, and the names of their components in `OUT_DIR`.
const GUESTS: [(&str, &str); 5] = [
    ("mks-plugin-lww", "lww"),
    ("mks-plugin-first-write-wins", "first-write-wins"),
    ("mks-plugin-keep-siblings", "keep-siblings"),
    ("mks-plugin-fjall-adapter", "fjall"),
    ("mks-plugin-rocksdb-adapter", "rocksdb"),
];
/// What of the repository the components are made from.
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "guest-sdk",
    "plugins/lww",
    "plugins/first-write-wins",
    "plugins/keep-siblings",
    "plugins/fjall-adapter",
    "plugins/rocksdb-adapter",
    "proto/plugin",
];
/// Variables of the outer build that must not reach the inner one. Settings of the network, the registry and the
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
/// Small, self-contained code; the workspace's own profiles are for the host.
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
struct Toolchain {
    cargo: OsString,
    rustc: OsString,
    /// The standard library comes as source and is built along.
    build_std: bool,
}

fn main() -> Result<()> {
    let room = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    let root = room.ancestors().nth(2).context("host/sandbox lies two levels below the root")?.to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed={}", room.join("build.rs").display());
    println!("cargo::rerun-if-env-changed=RUSTUP_AUTO_INSTALL");

    let target_dir = guests_dir(&out, &root);
    build(&find_toolchain()?, &root, &target_dir)?;
    for (package, name) in GUESTS {
        let module = target_dir.join(TARGET).join("release").join(format!("{}.wasm", package.replace('-', "_")));
        encode(&module, &out.join(format!("{name}.wasm")))
            .with_context(|| format!("cannot make the component `{name}`"))?;
    }
    Ok(())
}

/// Shared by all profiles of the outer build: the guests are the same for all of them. Not shared by two checkouts that
/// have one target directory: the modules carry no hash in their names, one would embed what the other has built.
fn guests_dir(out: &Path, root: &Path) -> PathBuf {
    let mut checkout = DefaultHasher::new();
    root.hash(&mut checkout);
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    out.ancestors().nth(4).unwrap_or(out).join("guests").join(format!("{:016x}", checkout.finish()))
}

/// The toolchain in use if it has the target, else the target is added, else Debian's packages serve.
fn find_toolchain() -> Result<Toolchain> {
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
    bail!(
        "the plugins of my-key-store need a Rust compiler for {TARGET}, and there is none. Do one of these:\n\
         - rustup target add {TARGET}\n\
         - apt-get install cargo-web rustc-web rust-web-src lld   (Debian; missing here: {})",
        lacks.join(", ")
    )
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

fn build(toolchain: &Toolchain, root: &Path, target_dir: &Path) -> Result<()> {
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(root)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    for (package, _) in GUESTS {
        cargo.args(["--package", package]);
    }
    for name in UNWANTED {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC", &toolchain.rustc).env("CARGO_ENCODED_RUSTFLAGS", rustflags(root)).envs(PROFILE);
    if toolchain.build_std {
        // Debian ships the standard library for this target as source only. Building it is not stable yet.
        cargo.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=std,panic_abort"]);
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
    }
    let status = cargo.status().with_context(|| format!("cannot run {}", toolchain.cargo.display()))?;
    ensure!(status.success(), "building the plugins for {TARGET} failed ({status}); the compiler's words are above");
    Ok(())
}

/// Paths of this machine would get into panic messages, and so into the content hash by which nodes compare resolvers.
fn rustflags(root: &Path) -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=/mks", root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    flags.join("\u{1f}")
}

fn encode(module: &Path, component: &Path) -> Result<()> {
    let module = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let bytes = ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    fs::write(component, bytes).with_context(|| format!("cannot write {}", component.display()))
}
