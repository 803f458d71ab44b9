//! What can go wrong: a fault is one variant here, its rate is the plan's, and what it does is one arm in `trouble`.

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident, $name:literal;)*) => {
        /// A class of faults. Each seed has some of them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Fault { $($(#[$doc])* $fault,)* }

        impl Fault {
            /// All classes.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];

            /// As people write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)* }
            }
        }
    };
}

faults! {
    /// A stream breaks; what is on its way is lost.
    Break, "break";
    /// Two nodes do not hear each other for a while.
    Cut, "cut";
    /// One does not hear the other, who does hear the first.
    OneWay, "one-way";
    /// One node hears nobody and is heard by nobody.
    Isolate, "isolate";
    /// Links stop one after the other, and come back in another order.
    Swizzle, "swizzle";
    /// A link is slow for a while.
    SlowLink, "slow-link";
    /// Datagrams get lost, come twice, overtake each other. A rate, not an event.
    Datagrams, "datagrams";
    /// A process ends; its disk keeps what it was given.
    Kill, "kill";
    /// A machine loses power, and its disk what was not synced.
    PowerCut, "power-cut";
    /// All machines lose power at once.
    Blackout, "blackout";
    /// A process does not run for a while.
    Pause, "pause";
    /// A disk has no room for a while.
    DiskFull, "disk-full";
    /// A disk fails to read and write for a while.
    DiskError, "disk-error";
    /// A disk takes long for a while.
    DiskSlow, "disk-slow";
    /// An fsync fails: the process ends, and nobody knows what the disk holds.
    DiskSync, "disk-sync";
    /// One bit of one record is not what was written.
    BitFlip, "bit-flip";
    /// Clocks are off. A rate, not an event.
    Skew, "skew";
    /// Clocks run fast or slow. A rate, not an event.
    Drift, "drift";
    /// A clock jumps.
    Jump, "jump";
    /// A node does not hear of the epoch log for a while.
    LogLag, "log-lag";
    /// The epoch advances.
    Epoch, "epoch";
    /// A resolver traps, runs out of its budget or answers nonsense for a while.
    Resolver, "resolver";
    /// Nodes join, leave, are declared dead and replaced, get other weights and zones.
    Members, "members";
    /// The epoch log has no majority for a while: entries wait.
    LogStall, "log-stall";
    /// A machine is off for days: nothing happens anywhere meanwhile, but for all clocks.
    Away, "away";
    /// The code of the keyspace is in quarantine for a while.
    Quarantine, "quarantine";
    /// Streams break at writes, and what was on its way comes all the same, much later. A rate, not an event.
    Late, "late";
    /// The keyspace gets another number of copies.
    Copies, "copies";
}

impl Fault {
    /// Those that have dice of their own: all else of a seed is as it was before there were any.
    #[must_use]
    pub const fn is_apart(self) -> bool {
        matches!(self, Self::Members | Self::LogStall | Self::Away | Self::Quarantine | Self::Late | Self::Copies)
    }
}

/// Some classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultSet(u32);

impl FaultSet {
    /// With this one.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }

    /// Without those.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u32 != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.has(*fault))
    }
}

impl std::fmt::Display for FaultSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.iter().map(Fault::name).collect();
        f.write_str(&names.join(","))
    }
}

impl std::str::FromStr for FaultSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            let fault = Fault::ALL.iter().find(|fault| fault.name() == name);
            set = set.with(*fault.ok_or_else(|| format!("there is no fault {name:?}"))?);
        }
        Ok(set)
    }
}
