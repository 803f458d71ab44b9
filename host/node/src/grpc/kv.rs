//! `mks.v1.Kv`: unary calls, one request to the pump each. The hungry use [`super::session`].

use super::convert::{self, Checker, timeout_of};
use super::session::Session;
use crate::fault::Fault;
use crate::handle::Handle;
use crate::metrics::Surface;
use crate::net::Stopping;
use crate::token::Seals;
use mks_logic::event;
use mks_proto::v1::kv_server::Kv;
use mks_proto::v1::{
    ApplyRequest, ApplyResponse, BatchRequest, BatchResponse, DeleteRequest, GetRequest, GetResponse, PutRequest,
    SessionRequest, ViewRequest, ViewResponse, WriteResponse,
};
use tonic::{Request, Response, Status, Streaming};

/// The service on one node.
#[derive(Clone, Debug)]
pub(super) struct KvService {
    handle: Handle,
    stopping: Stopping,
}

impl KvService {
    pub(super) const fn new(handle: Handle, stopping: Stopping) -> Self {
        Self { handle, stopping }
    }

    /// Checks a message, asks the pump, and waits for its reply.
    async fn ask<M>(
        &self,
        request: Request<M>,
        check: impl FnOnce(Checker<'_>, M) -> Result<event::Request, Fault>,
    ) -> Result<(event::Reply, Seals), Fault> {
        let handle = &self.handle;
        let checked = timeout_of(request.metadata()).and_then(|timeout| {
            let state = handle.state.load();
            check(Checker::new(&handle.limits, &state, &handle.tokens).within(timeout), request.into_inner())
        });
        match checked {
            Ok(request) => {
                let seals = handle.seals(&request);
                Ok((handle.call(request).await, seals))
            }
            Err(fault) => {
                if fault.reason.blames_input() {
                    handle.metrics.malformed(Surface::Grpc);
                }
                Err(fault)
            }
        }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type SessionStream = Session;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        let (reply, seals) = self.ask(request, |checker, message| checker.put(message)).await?;
        Ok(Response::new(convert::written(reply, &seals)?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (reply, seals) = self.ask(request, |checker, message| checker.get(message)).await?;
        Ok(Response::new(convert::found(reply, &seals)?))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        let (reply, seals) = self.ask(request, |checker, message| checker.delete(message)).await?;
        Ok(Response::new(convert::written(reply, &seals)?))
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        let (reply, seals) = self.ask(request, |checker, message| checker.batch(message)).await?;
        Ok(Response::new(convert::batch(reply, &seals)?))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let (reply, _) = self.ask(request, |checker, message| checker.apply(message)).await?;
        Ok(Response::new(convert::applied(reply)?))
    }

    async fn view(&self, request: Request<ViewRequest>) -> Result<Response<ViewResponse>, Status> {
        let (reply, _) = self.ask(request, |checker, message| checker.view(message)).await?;
        Ok(Response::new(convert::viewed(reply)?))
    }

    async fn session(&self, request: Request<Streaming<SessionRequest>>) -> Result<Response<Session>, Status> {
        Ok(Response::new(Session::new(self.handle.clone(), request.into_inner(), self.stopping.clone())))
    }
}
