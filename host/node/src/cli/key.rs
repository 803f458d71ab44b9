//! `keygen`: a key file, for a new cluster or for what a node encrypts.

use super::client::Failure;
use super::output::Output;
use crate::config::ClusterKey;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// `mks keygen`
#[derive(Clone, Debug, Args)]
pub(super) struct KeygenArgs {
    /// Where to write it; only the owner will be able to read it
    #[arg(default_value = "cluster.key")]
    file: PathBuf,
}

pub(super) fn keygen(args: &KeygenArgs, output: &Output) -> Result<(), Failure> {
    let path = &args.file;
    let key = ClusterKey::random().context("the operating system gives no random bytes")?;
    key.write_new(path).with_context(|| match path.exists() {
        true => {
            format!("{} exists and is left as it is; a key is never overwritten, choose another name", path.display())
        }
        false => format!("can't write {}", path.display()),
    })?;
    output.result(&json!({ "key_file": path }), |_| {
        format!("{} is a new key; that of a cluster goes to every node (cluster.key_file, --key-file)", path.display())
    })
}
