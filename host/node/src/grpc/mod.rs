//! The gRPC surface: `mks.v1.Kv` and `mks.v1.Admin`, server reflection, and the standard health service.

mod admin;
pub mod convert;
mod kv;
mod serve;
mod session;

pub use serve::{CallLimits, serve_routes};
pub use session::SESSION_WINDOW;

use crate::handle::Handle;
use crate::metrics::Surface;
use crate::net::Stopping;
use crate::status;
use admin::AdminService;
use anyhow::Context;
use kv::KvService;
use mks_proto::v1::admin_server::AdminServer;
use mks_proto::v1::kv_server::KvServer;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often the health service looks whether the node is ready.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);

/// The names that the health service knows; the empty one means the whole node.
const HEALTH_NAMES: [&str; 3] = ["", "mks.v1.Kv", "mks.v1.Admin"];

/// Serves gRPC to clients until `shutdown`, then lets what is under way finish for a bounded time.
///
/// # Errors
/// When the descriptors for reflection can't be read, which a test rules out.
pub async fn serve(listener: TcpListener, handle: Handle, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (stop, receiver) = watch::channel(false);
    let stopping = Stopping::new(receiver);
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, ServingStatus::NotServing).await;

    let limits = CallLimits::new(&handle.limits);
    let kv = KvServer::new(KvService::new(handle.clone(), stopping.clone()));
    let admin = AdminServer::new(AdminService::new(handle.clone()));
    let routes = Routes::default()
        .add_service(kv.max_decoding_message_size(limits.message_bytes_max))
        .add_service(admin.max_decoding_message_size(limits.message_bytes_max))
        .add_service(health)
        .add_service(reflection().build_v1().context("descriptors for reflection")?)
        .add_service(reflection().build_v1alpha().context("descriptors for reflection")?);

    let serving = serve_routes(listener, routes, limits, Surface::Grpc, handle.metrics.clone(), stopping);
    let life = async {
        tokio::select! {
            () = watch_health(&handle, &reporter) => {}
            () = shutdown => {}
        }
        report(&reporter, ServingStatus::NotServing).await;
        stop.send_replace(true);
    };
    tokio::join!(serving, life);
    Ok(())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mks_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Follows the node's readiness. Never returns.
async fn watch_health(handle: &Handle, reporter: &HealthReporter) {
    let mut period = tokio::time::interval(HEALTH_PERIOD);
    let mut shown = ServingStatus::NotServing;
    loop {
        period.tick().await;
        let status =
            if status::not_ready(handle).is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        if status != shown {
            report(reporter, status).await;
            shown = status;
        }
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}
