//! Plugins in C: bindings made from the contracts, then clang and its linker. No C library: guest-sdk/c has the little
//! that bindings need, so that nothing asks the node for anything.

use anyhow::{Context as _, Result, bail, ensure};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::{Resolve, WorldId};

/// The contracts, in a plugin's directory.
const CONTRACTS: &str = "wit";
/// Made anew by each build: bindings and the library.
const GENERATED: &str = "gen";
/// What every plugin in C is linked with.
const LIBRARY: [(&str, &str); 3] = [
    ("library.c", include_str!("../../../../guest-sdk/c/library.c")),
    ("stdlib.h", include_str!("../../../../guest-sdk/c/stdlib.h")),
    ("string.h", include_str!("../../../../guest-sdk/c/string.h")),
];
/// WebAssembly without a system, small and fast. The stack comes first, so that one that is too deep traps and
/// overwrites nothing; the memory is large enough from the start that a short call never has to grow it, which takes
/// longer than the call itself.
const FLAGS: [&str; 16] = [
    "--target=wasm32-unknown-unknown",
    "-std=c11",
    "-O2",
    "-mbulk-memory",
    "-ffreestanding",
    "-nostdlib",
    "-nostdlibinc",
    "-Igen",
    "-Wall",
    "-Wextra",
    "-Werror=implicit-function-declaration",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    "-Wl,--stack-first",
    "-Wl,-z,stack-size=65536",
    "-Wl,--initial-memory=1048576",
];

/// Writes the bindings of a plugin's world, and the library, where the compiler looks for them.
///
/// # Errors
/// When the contracts can't be read, or the plugin includes the header of none of their worlds.
pub fn bindings(directory: &Path) -> Result<()> {
    generate(directory).map(drop)
}

/// The same, and gives what of it is to be linked with the plugin. The directory may hold files of an earlier world.
fn generate(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut contracts = Resolve::default();
    let package = contracts.push_dir(directory.join(CONTRACTS));
    let (package, _) = package.context("can't read the contracts in wit/: `mks plugin new` lays them there")?;
    let worlds = contracts.packages[package].worlds.values().copied().collect();
    let world = included(directory, &contracts, worlds)?;
    let mut files = Files::default();
    let options = wit_bindgen_c::Opts { rename: short_names(&contracts, world), ..wit_bindgen_c::Opts::default() };
    options.build().generate(&mut contracts, world, &mut files).context("can't make bindings of the contracts")?;
    let generated = directory.join(GENERATED);
    std::fs::create_dir_all(&generated).with_context(|| format!("can't make {}", generated.display()))?;
    let mut linked = Vec::new();
    for (name, bytes) in files.iter().chain(LIBRARY.map(|(name, text)| (name, text.as_bytes()))) {
        let file = generated.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("can't write {}", file.display()))?;
        if !name.ends_with(".h") {
            linked.push(Path::new(GENERATED).join(name));
        }
    }
    Ok(linked)
}

/// The world whose header the plugin includes.
fn included(directory: &Path, contracts: &Resolve, worlds: Vec<WorldId>) -> Result<WorldId> {
    let mut text = String::new();
    for source in sources(directory)? {
        let read = std::fs::read_to_string(directory.join(&source));
        text.push_str(&read.with_context(|| format!("can't read {}", source.display()))?);
    }
    let include = |world: &WorldId| format!("#include \"{}.h\"", contracts.worlds[*world].name.replace('-', "_"));
    let found = worlds.iter().copied().find(|world| text.lines().any(|line| line.starts_with(&include(world))));
    found.with_context(|| {
        let known: Vec<String> = worlds.iter().map(include).collect();
        format!("plugin.c does not say which world it is of; add one of these lines: {}", known.join(", "))
    })
}

/// Names in C begin with the interface's name alone, where it is the only one of that name.
fn short_names(contracts: &Resolve, world: WorldId) -> Vec<(String, String)> {
    let world = &contracts.worlds[world];
    let full = world.imports.keys().chain(world.exports.keys()).map(|key| contracts.name_world_key(key));
    let mut names: Vec<(String, String)> = full
        .map(|full| {
            let (_, short) = full.rsplit_once('/').unwrap_or(("", &full));
            let short = short.split('@').next().unwrap_or(short).replace('-', "_");
            (full, short)
        })
        .collect();
    let all = names.clone();
    names.retain(|(full, short)| !all.iter().any(|(other, same)| same == short && other != full));
    names
}

/// The author's own files, in a fixed order: the same sources are the same component.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("can't read {}", directory.display()))?;
    let names = entries.flatten().map(|entry| PathBuf::from(entry.file_name()));
    let mut sources: Vec<PathBuf> = names.filter(|name| name.extension().is_some_and(|kind| kind == "c")).collect();
    sources.sort();
    Ok(sources)
}

/// A core module that carries the types of its world.
pub(super) fn module(directory: &Path) -> Result<Vec<u8>> {
    let clang = clang()?;
    let bindings = generate(directory)?;
    let output = tempfile::NamedTempFile::new().context("can't make a temporary file")?;
    let mut compile = Command::new(&clang);
    // Relative names, so that a path of this machine gets into no component.
    compile.current_dir(directory).args(FLAGS).arg("-o").arg(output.path()).args(sources(directory)?).args(bindings);
    let status = compile.stdout(Stdio::null()).status().with_context(|| format!("can't run {}", clang.display()))?;
    ensure!(status.success(), "the plugin does not compile ({status}); the compiler's words are above");
    std::fs::read(output.path()).context("can't read what the compiler has written")
}

/// A clang that can compile for WebAssembly and finds a linker for it.
fn clang() -> Result<OsString> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let says = |argument: &str| {
        let output = Command::new(&clang).args(["--target=wasm32", argument]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let lacks = match says("--print-targets") {
        None => "clang",
        // Apple's has none.
        Some(targets) if !targets.contains("wasm32") => "clang's target wasm32",
        // A bare name is what it says of a program that it does not find.
        Some(_) if says("-print-prog-name=wasm-ld").is_none_or(|path| path.trim() == "wasm-ld") => "wasm-ld",
        Some(_) => return Ok(clang),
    };
    bail!(
        "plugins in C need a clang for wasm32 with its linker, and there is none. Do one of these:\n\
         - brew install llvm lld, and set CLANG to the clang in `brew --prefix llvm`/bin   (macOS)\n\
         - dnf install clang lld   (Fedora)\n\
         - apt-get install clang lld   (Debian, Ubuntu; missing here: {lacks})"
    )
}
