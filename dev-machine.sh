#!/usr/bin/env bash
# What building and testing need of a machine, found or installed: the half of ./dev that knows Debian and rustup.
# Sourced, in the root of the project.
#
# What is absent: cargo's work and nodes. Whatever is installed is missing, and said before.

packages_timeout=20m

# --- words to the person ---------------------------------------------------------------------------------------------

if [ -t 2 ]; then bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'; else bold='' red='' plain=''; fi

step() { printf '%s==> %s%s\n' "$bold" "$*" "$plain" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() { printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# `timeout` that leaves Ctrl-C and the terminal to the command; $1 is the bound.
bounded() {
  local bound=$1 code=0
  shift
  timeout --foreground --kill-after=10s "$bound" "$@" || code=$?
  [ "$code" -ne 124 ] || note "gave up after $bound: $*"
  return "$code"
}

# --- what the machine must have --------------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif ! have sudo; then
    die "this needs root, and sudo is missing; run as root: $*"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@" || die "sudo wants a password and there is no terminal; run this yourself: sudo $*"
  fi
}

# Without questions, bounded.
apt_get() { as_root timeout --foreground "$packages_timeout" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

apt_refreshed=''
apt_refresh() {
  [ -z "$apt_refreshed" ] || return 0
  apt_get update || die "apt-get update failed; see above"
  apt_refreshed=yes
}

# Installs Debian packages; the caller has found out that they are missing.
install_packages() {
  have apt-get || die "these packages (by their Debian names) are missing and this system has no apt-get: $*"
  step "installing $*"
  apt_refresh
  apt_get install -y --no-install-recommends "$@" || die "apt-get could not install: $*"
}

has_package() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# C compiler and friends: crates such as mimalloc bring C sources along.
need_basics() {
  local tool missing=()
  have cc || missing+=(gcc libc6-dev)
  for tool in pkg-config curl git; do have "$tool" || missing+=("$tool"); done
  [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ] || [ -e /etc/pki ] || missing+=(ca-certificates)
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

downloads_allowed() { [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ]; }

# The oldest compiler that builds this, as Cargo.toml says it.
rust_wanted() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1; }

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

need_rust() {
  # A shell that was open when rustup came does not know it yet.
  if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
  local wanted found
  wanted=$(rust_wanted)
  have cargo || have rustup || install_rust "$wanted"
  if have rustup && ! cargo --version >/dev/null 2>&1; then
    downloads_allowed || die "rustup has no toolchain here and RUSTUP_AUTO_INSTALL=0 forbids one; run: rustup toolchain install stable"
    step "installing the stable Rust toolchain"
    bounded "$packages_timeout" rustup toolchain install stable --profile minimal || die "rustup could not install it; see above"
  fi
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
  at_least "$wanted" "${found:-0}" || die "Rust $wanted or later is needed, this is ${found:-none}; run: rustup update stable"
}

# No Rust at all: the distribution's rustup, else a recent compiler of the distribution, else the reader's choice.
install_rust() {
  local wanted=$1 manual="Rust is missing. Install it as https://rustup.rs shows, then run this again."
  have apt-get || die "$manual"
  apt_refresh
  if downloads_allowed && [ -n "$(apt_candidate rustup)" ]; then
    install_packages rustup
  elif at_least "$wanted" "$(apt_candidate rustc-web)"; then
    install_packages rustc-web cargo-web rust-web-src lld
  else
    die "$manual"
  fi
}

# The version that apt would install, empty if none.
apt_candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9][^+~-]*\).*/\1/p'; }

# Components are WebAssembly: the target of rustup where it may be had, Debian's compiler with its sources where not.
need_wasm() {
  [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ] || return 0
  if have rustup && downloads_allowed; then
    step "adding the WebAssembly target to the Rust toolchain"
    if bounded "$packages_timeout" rustup target add wasm32-unknown-unknown; then return 0; fi
    note "rustup could not; trying Debian packages"
  fi
  local package missing=()
  for package in rustc-web cargo-web rust-web-src lld; do has_package "$package" || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

need_toolchain() { need_basics; need_rust; need_wasm; }

# libclang.so or libclang-14.so.1, but not libclang-cpp.so, which is another library.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*' >/dev/null ||
    ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so'
}

# RocksDB is C++ and its bindings are made by libclang.
need_rocksdb() {
  local missing=()
  have c++ || missing+=(g++)
  has_libclang || missing+=(libclang-dev)
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# Tests cut the power of a FUSE file system and the cables between network namespaces, talk to nodes with a generated
# Python client, and build a plugin in C.
need_test_tools() {
  local tool missing=()
  have fusermount3 || missing+=(fuse3)
  have ip || [ -x /usr/sbin/ip ] || missing+=(iproute2)
  have nft || [ -x /usr/sbin/nft ] || missing+=(nftables)
  for tool in python3 shellcheck clang; do have "$tool" || missing+=("$tool"); done
  have wasm-ld || missing+=(lld)
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

need_lint_tools() {
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
  if have rustup && downloads_allowed; then
    step "adding rustfmt and clippy to the Rust toolchain"
    bounded "$packages_timeout" rustup component add rustfmt clippy || die "rustup could not add them; see above"
  elif has_package rustc-web; then
    install_packages rustfmt-web rust-web-clippy
  else
    die "rustfmt and clippy are missing; run: rustup component add rustfmt clippy"
  fi
}
