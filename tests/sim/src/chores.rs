//! What machines do beside reads and writes: hints, questions to code, looks at what disks hold, and work for
//! partitions that move.

use crate::mutation::Mutation;
use crate::plan::MS;
use crate::rules::rehearse;
use crate::site::Phase;
use crate::workloads::Kind;
use crate::world::{Local, World};
use mks_logic::event::{
    AskJob, HintJob, HintOutcome, HintWork, Input, Looked, MoveJob, MoveOutcome, MoveWork, Question, ScrubJob,
    ScrubOutcome, ScrubWork, Told,
};
use mks_logic::hint;
use mks_logic::id::NodeId;
use mks_logic::moves;
use mks_logic::port::Durability;
use mks_logic::scrub;
use mks_logic::shadow::Trial;
use std::collections::BTreeMap;

impl World {
    pub(crate) fn ask_code(&mut self, id: NodeId, mut job: AskJob) {
        self.twist_question(&mut job);
        let machine = self.machine(id);
        let (told, slow) = (job.ask(&machine.rules, &machine.rules), machine.slow);
        if let (Question::Merge(siblings), Told::Merge(Ok(merged))) = (&job.question, &told) {
            let shadows = machine.state.shadowed();
            Trial::at_read(&shadows, job.code, &job.key, siblings, merged).iter().for_each(rehearse);
        }
        let told = self.twist_answer(told);
        let delay = self.dice.between(20, MS) * slow;
        self.local(id, delay, Local::Input(Box::new(Input::Told { job: job.job, told })));
    }

    pub(crate) fn hint(&mut self, id: NodeId, mut job: HintJob) {
        let mutation = self.site.plan.mutation;
        let fake = match (&mut job.work, mutation) {
            (HintWork::Keep(_, durability), Some(Mutation::HintNotSynced)) => {
                *durability = Durability::Os;
                None
            }
            (HintWork::Keep(..), Some(Mutation::HintNotKept)) => Some(HintOutcome::Done),
            (HintWork::Count, Some(Mutation::HintsForgotten)) => Some(HintOutcome::Counted(BTreeMap::new())),
            _ => None,
        };
        let machine = self.machine(id);
        let outcome = fake.unwrap_or_else(|| hint::work(&machine.disk, std::slice::from_ref(&job)).remove(0));
        if let (HintOutcome::Loaded { hints, .. }, Some(Mutation::HintDroppedEarly)) = (&outcome, mutation) {
            let work = HintWork::Drop(hints.iter().map(|hint| hint.id).collect());
            hint::work(&machine.disk, &[HintJob { job: job.job, work }]);
        }
        let (stopped, slow) = (machine.disk.is_stopped(), machine.slow);
        let delay = self.dice.between(20, MS) * slow;
        self.local(id, delay, Local::Input(Box::new(Input::Hinted { job: job.job, outcome })));
        if stopped {
            self.die_soon(id, delay);
        }
    }

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
