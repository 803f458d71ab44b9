//! Clients in other languages need nothing but the protos, or not even those.

use mks_tests_cluster::{Cluster, python_venv, run, skipped};
use std::path::Path;

#[test]
fn a_python_client_generated_from_the_protos_works() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = here.ancestors().nth(2).unwrap().join("proto");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let python = match python_venv(&venv, &["grpcio", "grpcio-tools", "grpcio-reflection"]) {
        Ok(python) => python,
        Err(reason) => return skipped("a_python_client_generated_from_the_protos_works", &reason),
    };
    let cluster = Cluster::of(3);
    let generated = cluster.path("generated");
    std::fs::create_dir(&generated).unwrap();
    let (protos, out) = (protos.to_string_lossy(), generated.to_string_lossy());
    let made = run(
        &python,
        &[
            "-m",
            "grpc_tools.protoc",
            &format!("--proto_path={protos}"),
            &format!("--python_out={out}"),
            &format!("--grpc_python_out={out}"),
            "mks/v1/kv.proto",
            "mks/v1/admin.proto",
        ],
        b"",
    );
    assert_eq!(made.status, 0, "{made:?}");

    let python_path = format!("PYTHONPATH={out}");
    let script = here.join("python/client.py");
    let addresses = [1, 2, 3].map(|id| cluster.node(id).client_address().to_string());
    let client = run(
        "env",
        &[
            &python_path,
            &python.to_string_lossy(),
            &script.to_string_lossy(),
            &addresses[0],
            &addresses[1],
            &addresses[2],
        ],
        b"",
    );
    assert_eq!(client.status, 0, "{client:?}");
    assert!(client.text().contains("fine"), "{client:?}");
}
