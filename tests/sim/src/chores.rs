//! What disks do that no client asked for: looks at what they hold, and work for partitions that move.

use crate::mutation::Mutation;
use crate::plan::MS;
use crate::site::Phase;
use crate::workloads::Kind;
use crate::world::{Local, World};
use mks_logic::event::{Input, Looked, MoveJob, MoveOutcome, MoveWork, ScrubJob, ScrubOutcome, ScrubWork};
use mks_logic::id::NodeId;
use mks_logic::moves;
use mks_logic::scrub;

impl World {
    /// A check and a mend lie between two commits, as commits happen in one moment.
    pub(crate) fn scrub(&mut self, id: NodeId, job: &ScrubJob) {
        let outcome = match (self.site.plan.mutation, &job.work) {
            (Some(Mutation::NoScrub), ScrubWork::Look { .. }) => ScrubOutcome::Looked(Looked::default()),
            (_, work) => scrub::work(self.machine(id).ports(), work),
        };
        let delay = self.dice.between(20, MS) * self.machine(id).slow;
        self.local(id, delay, Local::Input(Box::new(Input::Scrubbed { job: job.job, outcome })));
        if self.machine(id).disk.is_stopped() {
            self.local(id, delay, Local::Die);
        }
    }

    /// Where deletes are the point, disks often take their time to remove what their node does not own any more.
    pub(crate) fn moves_soon(&mut self, id: NodeId, job: MoveJob) {
        let drops = self.site.plan.workload == Kind::Graves && matches!(job.work, MoveWork::Drop { .. });
        if drops && self.site.phase == Phase::Safety && self.dice.chance(70) {
            let delay = self.dice.between(0, 2 * self.site.plan.lasting_us);
            return self.local(id, delay, Local::Move(job));
        }
        self.moves(id, &job);
    }

    /// It lies between two commits, as commits happen in one moment.
    pub(crate) fn moves(&mut self, id: NodeId, job: &MoveJob) {
        let keeps = self.site.plan.mutation == Some(Mutation::NothingDropped);
        let outcome = match job.work {
            MoveWork::Drop { .. } if keeps => MoveOutcome::Dropped { records: 0, next: None },
            MoveWork::Survey if keeps => MoveOutcome::Surveyed(Vec::new()),
            _ => moves::work(self.machine(id).ports(), &job.work),
        };
        let delay = self.dice.between(20, MS) * self.machine(id).slow;
        self.local(id, delay, Local::Input(Box::new(Input::Moved { job: job.job, outcome })));
        if self.machine(id).disk.is_stopped() {
            self.local(id, delay, Local::Die);
        }
    }
}
