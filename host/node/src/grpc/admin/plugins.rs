//! Plugins of the cluster: uploads, what became of them, and their end.

use super::{AdminService, PROGRESS_PERIOD, shadows};
use crate::fault::{Fault, Reason};
use crate::handle::Handle;
use crate::plugins::{Local, PluginError, Plugins, hex};
use futures_util::stream::{self, BoxStream, StreamExt};
use mks_logic::cluster::{Entry, Plugin, State};
use mks_logic::port::ResolverHash;
use mks_proto::v1::alter_plugin_request::Change;
use mks_proto::v1::{
    self, AlterPluginRequest, AlterPluginResponse, InstallPluginProgress, InstallPluginRequest, ListPluginsResponse,
    PluginHere, PluginQuarantine, RemovePluginRequest, RemovePluginResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Status, Streaming};

/// Digits of a hash that name a plugin.
const DIGITS_MIN: usize = 8;
/// A piece that takes longer to arrive ends the upload: others wait for their turn.
const PIECE_WAIT: Duration = Duration::from_secs(10);
/// How long an upload waits for the one before it.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// Longest explanation of a refusal: it travels in the headers of the answer.
const MESSAGE_BYTES_MAX: usize = 3 << 10;

impl AdminService {
    /// Takes an upload to its end, and says what it is.
    pub(super) async fn install(
        &self,
        mut pieces: Streaming<InstallPluginRequest>,
        sign: impl Fn(Entry) -> Entry,
    ) -> Result<ResolverHash, Fault> {
        super::ring(&self.state())?;
        let plugins = &self.handle.plugins;
        let turn = tokio::time::timeout(TURN_WAIT, plugins.turn()).await.ok().flatten();
        let turn = turn.ok_or_else(|| Fault::new(Reason::Busy, "other uploads are under way here; try again"))?;
        let bytes = collect(&mut pieces, plugins.bytes_max()).await?;
        let upload = plugins.receive(turn, bytes, u64::from(std::process::id())).await?;
        let about = upload.about.clone();
        let entry = Entry::InstallPlugin {
            plugin: about.hash,
            node: self.handle.node,
            name: about.name,
            version: about.version,
            bytes: about.bytes,
            role: about.role,
        };
        match self.propose(sign(entry)).await {
            Ok(_) => upload.keep(),
            // The log may name it yet.
            Err(fault) if fault.reason == Reason::Unconfirmed => {
                upload.keep();
                return Err(fault);
            }
            Err(fault) => return Err(fault),
        }
        Ok(about.hash)
    }

    pub(super) fn list_of_plugins(&self) -> ListPluginsResponse {
        let (state, plugins) = (self.latest(), &self.handle.plugins);
        let all = state.plugins.iter().map(|(hash, plugin)| shown(plugins, &state, *hash, plugin));
        ListPluginsResponse { plugins: all.collect(), fingerprint: plugins.fingerprint(), node: self.handle.node.0 }
    }

    pub(super) async fn remove(
        &self,
        request: RemovePluginRequest,
        sign: impl Fn(Entry) -> Entry,
    ) -> Result<RemovePluginResponse, Fault> {
        let (hash, plugin) = named(&self.latest(), &request.plugin)?;
        self.propose(sign(Entry::RemovePlugin { plugin: hash })).await?;
        Ok(RemovePluginResponse { plugin: plugin.full_name(), epoch: self.latest().epoch.0 })
    }

    pub(super) async fn alter_plugin_entry(
        &self,
        request: AlterPluginRequest,
        sign: impl Fn(Entry) -> Entry,
    ) -> Result<AlterPluginResponse, Fault> {
        let (hash, _) = named(&self.latest(), &request.plugin)?;
        let entry = match request.change {
            Some(Change::Quarantine(reason)) if reason.trim().is_empty() => {
                return Err(Fault::invalid("a quarantine has a reason; give one"));
            }
            Some(Change::Quarantine(reason)) => {
                Entry::QuarantinePlugin { plugin: hash, node: self.handle.node, reason }
            }
            Some(Change::Release(true)) => Entry::ReleasePlugin { plugin: hash },
            Some(Change::Shadow(keyspace)) => Entry::ShadowPlugin { plugin: hash, keyspace, on: true },
            Some(Change::ShadowOff(keyspace)) => Entry::ShadowPlugin { plugin: hash, keyspace, on: false },
            Some(Change::Release(false)) | None => {
                let what = "what shall change? `quarantine` with a reason, `release`, `shadow` or `shadow_off`";
                return Err(Fault::invalid(what));
            }
        };
        self.propose(sign(entry)).await?;
        let state = self.latest();
        let plugin = state.plugins.get(&hash).map(|plugin| shown(&self.handle.plugins, &state, hash, plugin));
        Ok(AlterPluginResponse { plugin, epoch: state.epoch.0 })
    }

    /// As the log has it now: the pump may hear of it a moment later.
    fn latest(&self) -> Arc<State> {
        self.handle.epoch_log.watch().borrow().clone()
    }
}

/// The whole upload; what is larger than it may be is refused as soon as that shows.
async fn collect(pieces: &mut Streaming<InstallPluginRequest>, bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut total = None;
    loop {
        let piece = tokio::time::timeout(PIECE_WAIT, pieces.message()).await;
        let piece = piece.map_err(|_| Fault::invalid("the upload stopped half way; nothing of it was kept"))?;
        let piece = piece.map_err(|status| Fault::invalid(format!("the upload broke: {}", status.message())))?;
        let Some(InstallPluginRequest { total_bytes, piece }) = piece else { break };
        let total = *total.get_or_insert(total_bytes);
        let so_far = (bytes.len() + piece.len()) as u64;
        if total.max(so_far) > bytes_max as u64 {
            let message = format!(
                "the component has {} bytes, and {bytes_max} are allowed: strip it of debug information",
                total.max(so_far)
            );
            return Err(Fault::new(Reason::TooLarge, message));
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.is_empty() {
        return Err(Fault::invalid("the upload has no bytes; name the file that `mks plugin build` wrote"));
    }
    if total.is_some_and(|total| total != bytes.len() as u64) {
        let (got, said) = (bytes.len(), total.unwrap_or_default());
        return Err(Fault::invalid(format!("the upload ended after {got} of {said} bytes; nothing of it was kept")));
    }
    Ok(bytes)
}

/// How far an installation is, again and again until it is armed or in quarantine.
pub(super) fn progress(
    handle: Handle,
    hash: ResolverHash,
) -> BoxStream<'static, Result<InstallPluginProgress, Status>> {
    let next = move |going_on: Option<(Handle, u32)>| async move {
        let (handle, turn) = going_on?;
        let mut states = handle.epoch_log.watch();
        if turn > 0 {
            // Whoever waits hears of each member at once, and now and then that there is nothing new.
            let _ = tokio::time::timeout(PROGRESS_PERIOD, states.changed()).await;
        }
        let state = states.borrow_and_update().clone();
        let Some(plugin) = state.plugins.get(&hash) else {
            let removed = Fault::new(Reason::UnknownPlugin, "somebody has removed the plugin meanwhile");
            return Some((Err(removed.into()), None));
        };
        let ended = plugin.armed.is_some() || plugin.quarantine.is_some();
        let plugin = Some(shown(&handle.plugins, &state, hash, plugin));
        Some((Ok(InstallPluginProgress { plugin }), (!ended).then_some((handle, turn + 1))))
    };
    stream::unfold(Some((handle, 0)), next).boxed()
}

/// A plugin by its name, or by the first digits of its hash.
pub(super) fn named(state: &State, name: &str) -> Result<(ResolverHash, Plugin), Fault> {
    if let Some((hash, plugin)) = state.plugin(name) {
        return Ok((hash, plugin.clone()));
    }
    if name.len() >= DIGITS_MIN {
        let mut fits = state.plugins.iter().filter(|(hash, _)| hex(**hash).starts_with(name));
        if let (Some((hash, plugin)), None) = (fits.next(), fits.next()) {
            return Ok((*hash, plugin.clone()));
        }
    }
    let of_name = || state.plugins.values().filter(|plugin| plugin.name == name);
    let mut known: Vec<String> = match of_name().count() {
        0 => state.plugins.values().map(Plugin::full_name).collect(),
        _ => of_name().map(Plugin::full_name).collect(),
    };
    known.sort();
    let known = if known.is_empty() { "none; `mks plugin install` adds one".to_owned() } else { known.join(", ") };
    Err(Fault::new(Reason::UnknownPlugin, format!("no one plugin is meant by {name:?}; there is {known}")))
}

fn shown(plugins: &Plugins, state: &State, hash: ResolverHash, plugin: &Plugin) -> v1::Plugin {
    let (calls, conflicts, failures) = plugins.figures(hash);
    let mut here = PluginHere { calls, conflicts, failures, ..PluginHere::default() };
    match plugins.local(hash) {
        Local::Ready => here.ready = true,
        Local::Fetching(progress) => here.fetched_bytes = progress.done,
        Local::Missing(why) => here.missing = why,
    }
    v1::Plugin {
        hash: hex(hash),
        name: plugin.name.clone(),
        version: plugin.version.clone(),
        bytes: plugin.bytes,
        holders: plugin.holders.iter().map(|node| node.0).collect(),
        waits: state.plugin_waits(plugin).iter().map(|node| node.0).collect(),
        armed: plugin.armed.map(|epoch| epoch.0),
        quarantine: plugin.quarantine.as_ref().map(|quarantine| PluginQuarantine {
            node: quarantine.node.0,
            reason: quarantine.reason.clone(),
            since_epoch: quarantine.since.0,
        }),
        keyspaces: state.plugin_keyspaces(hash),
        shadows: shadows::shown(plugins.shadows(), state, hash),
        here: Some(here),
        role: plugin.role.name().to_owned(),
    }
}

impl From<PluginError> for Fault {
    fn from(error: PluginError) -> Self {
        let reason = match &error {
            PluginError::Sandbox(_) | PluginError::Kind { .. } | PluginError::AtWrite(_) => Reason::BadPlugin,
            PluginError::Builtin(_) => Reason::Exists,
            PluginError::Lawless { .. } => Reason::Lawless,
            PluginError::Disk(_) | PluginError::Died => Reason::Internal,
        };
        let mut message = error.to_string();
        let end = (0..=MESSAGE_BYTES_MAX.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        Self::new(reason, message)
    }
}
