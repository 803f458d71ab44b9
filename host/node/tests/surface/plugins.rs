//! Uploads of plugins that make no sense, and names that mean nothing.

use super::fake::FakeNode;
use mks_proto::detail_of;
use mks_proto::v1::alter_plugin_request::Change;
use mks_proto::v1::{AlterPluginRequest, InstallPluginRequest, ListPluginsRequest, RemovePluginRequest};
use tonic::{Code, Status};

fn said(status: &Status) -> (Code, String, String) {
    let detail = detail_of(status).unwrap();
    (status.code(), detail.reason, detail.message)
}

#[tokio::test]
async fn uploads_that_end_early_or_are_too_large_or_nothing_are_refused_and_leave_nothing() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let piece = |total_bytes, piece: &'static [u8]| InstallPluginRequest { total_bytes, piece: piece.into() };
    let uploads = [
        (vec![], Code::InvalidArgument, "no bytes"),
        (vec![piece(0, b"")], Code::InvalidArgument, "no bytes"),
        (vec![piece(8, b"half")], Code::InvalidArgument, "ended after 4 of 8 bytes"),
        (vec![piece(4, b"four"), piece(4, b"and more")], Code::InvalidArgument, "ended after 12 of 4 bytes"),
        (vec![piece(200 << 20, b"begin")], Code::ResourceExhausted, "209715200 bytes, and 4194304 are allowed"),
        (vec![piece(u64::MAX, b"begin")], Code::ResourceExhausted, "4194304 are allowed"),
        (vec![piece(6, b"a text")], Code::InvalidArgument, "no valid WebAssembly component"),
    ];
    for (pieces, code, why) in uploads {
        let refused = said(&admin.install_plugin(tokio_stream::iter(pieces)).await.unwrap_err());
        assert!(refused.0 == code && refused.2.contains(why), "{refused:?}");
    }
    let listed = admin.list_plugins(ListPluginsRequest {}).await.unwrap().into_inner();
    assert!(listed.plugins.is_empty(), "{listed:?}");
    let empty = blake3::hash(b"").to_hex().to_string();
    assert_eq!((listed.node, listed.fingerprint), (1, empty), "no file is left");
}

#[tokio::test]
async fn what_is_said_of_no_plugin_is_refused_with_what_there_is() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    for plugin in ["", "biggest", "biggest@1.0.0", "0123456789abcdef"] {
        let removed = admin.remove_plugin(RemovePluginRequest { plugin: plugin.into() }).await.unwrap_err();
        let release = AlterPluginRequest { plugin: plugin.into(), change: Some(Change::Release(true)) };
        let altered = admin.alter_plugin(release).await.unwrap_err();
        for refused in [said(&removed), said(&altered)] {
            assert_eq!((refused.0, &*refused.1), (Code::NotFound, "UNKNOWN_PLUGIN"), "{refused:?}");
            assert!(refused.2.contains("mks plugin install"), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_installed_while_the_cluster_forms() {
    let node = FakeNode::start_forming().await;
    let piece = InstallPluginRequest { total_bytes: 4, piece: b"four".as_slice().into() };
    let refused = node.admin().await.install_plugin(tokio_stream::iter([piece])).await.unwrap_err();
    assert_eq!(said(&refused).1, "FORMING");
}
