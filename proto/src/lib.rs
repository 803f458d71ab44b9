//! The contracts that cross a process wall: client to node (`kv`, `admin`) and node to node (`peer`).
//!
//! The `.proto` files are the source of truth and generate clients in any language; this crate is what they are in
//! Rust, plus the one convention that protobuf can't express: where the details of an error travel.

/// Package `mks.v1`.
pub mod v1 {
    tonic::include_proto!("mks.v1");
}

mod status;

pub use status::{detail_of, status_of};

/// The compiled form of `kv.proto` and `admin.proto`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
