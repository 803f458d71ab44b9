//! Turns the contracts in `mks/v1` into Rust, without needing `protoc` on the machine.

use prost::Message;
use std::path::PathBuf;

/// What clients may see through reflection. `peer.proto` is nobody's business.
const PUBLIC: [&str; 2] = ["mks/v1/kv.proto", "mks/v1/admin.proto"];
const PRIVATE: &str = "mks/v1/peer.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("public.bin"), protox::compile(PUBLIC, ["."])?.encode_to_vec())?;

    let [kv, admin] = PUBLIC;
    // Keys and values are shared with the buffer that the socket filled, never copied.
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile([kv, admin, PRIVATE], ["."])?)?;
    println!("cargo::rerun-if-changed=mks");
    Ok(())
}
