//! Figures of what owners missed: how it is kept for them, and how they get it.

use super::{counter, family, raise};
use mks_logic::node::{Cause, Figures, HintDropped};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// What [`super::Metrics`] counts of it.
pub(super) struct Counters {
    repairs: [Counter; Cause::ALL.len()],
    repairs_dropped: Counter,
    hints_kept: Counter,
    hints_counted: Counter,
    stand_ins: Counter,
    hints_replayed: Counter,
    hints_dropped: [Counter; HintDropped::ALL.len()],
}

impl Counters {
    pub(super) fn new(r: &mut Registry) -> Self {
        let (repairs, repairs_dropped) = (
            "Records that an owner lacked and was sent, by what found it",
            "Owners that a read found behind and left as they were: too many repairs were under way",
        );
        Self {
            repairs: family(r, "repairs", repairs, Cause::ALL, |c| [("cause", c.name())]),
            repairs_dropped: counter(r, "repairs_dropped", repairs_dropped),
            hints_kept: counter(r, "hints_kept", "Writes kept for owners that did not take them"),
            hints_counted: counter(r, "hints_counted", "Those of them that counted towards a sloppy quorum"),
            stand_ins: counter(r, "stand_ins", "Nodes that were asked to stand in for an owner of a sloppy write"),
            hints_replayed: counter(r, "hints_replayed", "Kept writes that their owner holds now"),
            hints_dropped: family(r, "hints_dropped", "Kept writes that nobody will get", HintDropped::ALL, |d| {
                [("reason", d.name())]
            }),
        }
    }

    /// Takes over what was counted since `before`.
    pub(super) fn add(&self, before: Figures, now: Figures) {
        raise(&self.repairs, before.repairs, now.repairs);
        self.repairs_dropped.inc_by(now.repairs_dropped - before.repairs_dropped);
        self.hints_kept.inc_by(now.hints_kept - before.hints_kept);
        self.hints_counted.inc_by(now.hints_counted - before.hints_counted);
        self.stand_ins.inc_by(now.stand_ins - before.stand_ins);
        self.hints_replayed.inc_by(now.hints_replayed - before.hints_replayed);
        raise(&self.hints_dropped, before.hints_dropped, now.hints_dropped);
    }
}
