//! The binary `mks`: a node of my-key-store, and the command line that talks to one.

/// tonic allocates a lot per call: with the system allocator the network part costs 25 to 40 % more CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mks::cli::main()
}
