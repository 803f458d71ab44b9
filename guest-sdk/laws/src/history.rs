//! Histories: replicas that write, and messages that get lost, come late or come twice.

use crate::random::Random;

/// Most replicas of a history.
pub(crate) const REPLICAS_MAX: u8 = 5;
/// Names of the replicas.
const NAMES: [char; REPLICAS_MAX as usize] = ['A', 'B', 'C', 'D', 'E'];

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step<W> {
    /// A client writes at a replica.
    Write { at: u8, write: W },
    /// A replica sends all that it holds.
    Send { from: u8, to: u8, fate: Fate },
    /// An earlier message comes again, or for the first time if it was lost.
    Again { mail: u8, to: u8 },
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Arrives,
    Lost,
}

/// What happened, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct History<W> {
    pub(crate) replicas: u8,
    pub(crate) steps: Vec<Step<W>>,
}

pub(crate) fn name(replica: u8) -> char {
    NAMES.get(usize::from(replica)).copied().unwrap_or('?')
}

impl<W> History<W> {
    /// A few phases, in each of which the replicas fall into groups that don't hear each other.
    pub(crate) fn generate(random: &mut Random, mut write: impl FnMut(&mut Random, u8) -> W) -> Self {
        let replicas = small(3 + random.below(u64::from(REPLICAS_MAX) - 2));
        let mut steps = Vec::new();
        let mut mails = 0;
        for _ in 0..=random.below(3) {
            let groups: Vec<u64> = (0..replicas).map(|_| random.below(2)).collect();
            for _ in 0..2 + random.below(3) {
                let (at, to) = (small(random.below(replicas.into())), small(random.below(replicas.into())));
                if steps.is_empty() || random.below(5) < 2 {
                    steps.push(Step::Write { at, write: write(random, at) });
                } else if mails > 0 && random.one_in(5) {
                    steps.push(Step::Again { mail: small(random.below(mails)), to });
                } else if at != to {
                    let apart = groups[usize::from(at)] != groups[usize::from(to)];
                    steps.push(Step::Send { from: at, to, fate: if apart { Fate::Lost } else { Fate::Arrives } });
                    mails += 1;
                }
            }
        }
        Self { replicas, steps }
    }

    /// The writes, in order.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (u8, &W)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Write { at, write } => Some((*at, write)),
            Step::Send { .. } | Step::Again { .. } => None,
        })
    }

    /// One step a line.
    pub(crate) fn show(&self, write: impl Fn(&W) -> String) -> String {
        let line = |step: &Step<W>| match step {
            Step::Write { at, write: what } => format!("{} {}\n", name(*at), write(what)),
            Step::Send { from, to, fate: Fate::Arrives } => format!("{} -> {}\n", name(*from), name(*to)),
            Step::Send { from, to, fate: Fate::Lost } => format!("{} -> {}, lost on the way\n", name(*from), name(*to)),
            Step::Again { mail, to } => format!("message {} comes late or again -> {}\n", mail + 1, name(*to)),
        };
        self.steps.iter().map(line).collect()
    }
}

/// Numbers here are below 256 by construction.
fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Carries a history out. `M` is what replicas send each other.
pub(crate) trait Play<W> {
    type Mail: Clone;
    type Stop;
    fn write(&mut self, at: u8, write: &W) -> Result<(), Self::Stop>;
    fn mail(&self, from: u8) -> Self::Mail;
    fn receive(&mut self, to: u8, mail: &Self::Mail) -> Result<(), Self::Stop>;

    /// All steps, and then everybody hears of everything.
    fn play(&mut self, history: &History<W>) -> Result<(), Self::Stop> {
        let mut mails: Vec<Self::Mail> = Vec::new();
        for step in &history.steps {
            match step {
                Step::Write { at, write } => self.write(*at, write)?,
                Step::Send { from, to, fate } => {
                    let mail = self.mail(*from);
                    if *fate == Fate::Arrives {
                        self.receive(*to, &mail)?;
                    }
                    mails.push(mail);
                }
                Step::Again { mail, to } => {
                    if let Some(mail) = mails.get(usize::from(*mail)).cloned() {
                        self.receive(*to, &mail)?;
                    }
                }
            }
        }
        // The first one hears of everybody and then tells everybody, from the last one on.
        let last = history.replicas.saturating_sub(1);
        for other in (1..=last).rev() {
            let mail = self.mail(other);
            self.receive(0, &mail)?;
        }
        for other in 1..=last {
            let mail = self.mail(0);
            self.receive(other, &mail)?;
        }
        Ok(())
    }
}
