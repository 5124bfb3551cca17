//! The order in which handshakes get a thread of the lane: addresses take turns within a class, first come
//! first served for each of them; classes take turns too, and never all threads for strangers.
//!
//! A handshake comes back for each of its steps, and one that was begun goes before those that were
//! not: otherwise, with a full queue, all of them get their first step and none its last in time. Not
//! for ever, though, or handshakes that sign in their second step are begun all at once, when the last
//! of those before is done.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Class;
use super::sources::Source;

/// Longer queues are refused, whatever their deadlines: at 400 signatures a second this is ten
/// seconds, which is more than any handshake may take.
pub(crate) const LONGEST: usize = 4096;
/// Turns of a class in a row of all turns: four own, four listed, one stranger.
const STRIDE: [u64; 3] = [1, 1, 4];
/// Turns of a class in a row for handshakes that were begun while others wait. Who asks for another key
/// share (RFC 8446 §4.1.4) needs so many after the first.
const BEGUN: u32 = 2;

/// How much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// Threads, at least one.
    pub threads: usize,
    /// Sessions of the token that has the fewest: it may be the only one that signs.
    pub sessions: usize,
}

/// Work of type `T` that waits, and how much of it runs.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    width: Width,
    next: u64,
    classes: [Waiting<T>; 3],
    /// The pass of the last turn.
    clock: u64,
    /// When each running job began.
    running: BTreeMap<Number, Instant>,
    /// How long a job takes: an average that forgets, by [`Step`].
    service: [Duration; 3],
}

#[derive(Debug)]
struct Waiting<T> {
    jobs: BTreeMap<Number, Job<T>>,
    /// Grows with each turn; the lowest has the next.
    pass: u64,
    running: usize,
    /// Turns in a row for handshakes that were begun.
    begun: u32,
    /// The round of the last turn: in each round an address has one.
    round: u64,
    /// The addresses that wait.
    sources: HashMap<Source, Place>,
}

/// What an address waits for.
#[derive(Clone, Copy, Debug)]
struct Place {
    jobs: usize,
    /// The round of its last job.
    last: u64,
}

#[derive(Debug)]
struct Job<T> {
    work: T,
    since: Instant,
    source: Option<Source>,
}

/// How far the job's handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// We speak first, which takes no signature.
    Greeting,
    /// It was begun.
    Next,
    /// It was not: nothing of it was verified or signed yet.
    First,
}

/// A job's name in its queue, and its place: the lower ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number {
    class: Class,
    step: Step,
    round: u64,
    number: u64,
}

/// What a new job is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) class: Class,
    pub(crate) step: Step,
    /// Who takes turns with others; nobody when we dial.
    pub(crate) source: Option<IpAddr>,
    /// When nobody wants it any more.
    pub(crate) until: Instant,
}

impl Number {
    /// The first of a class whose handshakes were not begun.
    fn unbegun(class: Class) -> Self {
        Self {
            class,
            step: Step::First,
            round: 0,
            number: 0,
        }
    }

    /// Whose job it is.
    pub(crate) fn class(self) -> Class {
        self.class
    }
}

/// A job whose turn has come.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    pub(crate) number: Number,
    pub(crate) work: T,
    /// How long it waited.
    pub(crate) waited: Duration,
}

/// Why a job does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hopeless {
    /// The queue is at its bound.
    Full,
    /// Its turn would come after its deadline.
    TooLate,
}

impl<T> Queue<T> {
    /// An empty queue before so many threads.
    pub(crate) fn new(width: Width) -> Self {
        let waiting = || Waiting {
            jobs: BTreeMap::new(),
            pass: 0,
            running: 0,
            begun: 0,
            round: 0,
            sources: HashMap::new(),
        };
        Self {
            width,
            next: 0,
            classes: [waiting(), waiting(), waiting()],
            clock: 0,
            running: BTreeMap::new(),
            service: [Duration::ZERO; 3],
        }
    }

    /// Lets `work` wait for its turn, unless it cannot be done in time.
    ///
    /// # Errors
    /// [`Hopeless`], and the work is dropped.
    pub(crate) fn push(
        &mut self,
        ticket: Ticket,
        work: T,
        now: Instant,
    ) -> Result<Number, Hopeless> {
        let Ticket {
            class,
            step,
            source,
            until,
        } = ticket;
        if self.waiting(class) >= LONGEST {
            return Err(Hopeless::Full);
        }
        let source = source.map(Source::of);
        let waiting = &self.classes[class.index()];
        let number = Number {
            class,
            step,
            round: waiting.round_of(step, source),
            number: self.next,
        };
        if now + self.expected(number, now) > until {
            return Err(Hopeless::TooLate);
        }
        self.next += 1;
        let waiting = &mut self.classes[class.index()];
        if waiting.jobs.is_empty() {
            // Turns that it did not need are not saved up.
            waiting.pass = waiting.pass.max(self.clock);
        }
        let job = Job {
            work,
            since: now,
            source,
        };
        waiting.insert(number, job);
        Ok(number)
    }

    /// The next job; `None` when none may run now.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Turn<T>> {
        let strangers_may =
            self.classes[Class::Stranger.index()].running < self.threads_for(Class::Stranger);
        let class = Class::ALL
            .into_iter()
            .filter(|class| *class != Class::Stranger || strangers_may)
            .filter(|class| self.waiting(*class) > 0)
            .min_by_key(|class| self.classes[class.index()].pass)?;
        let waiting = &mut self.classes[class.index()];
        let number = waiting.next()?;
        let job = waiting.remove(number)?;
        waiting.round = waiting.round.max(number.round);
        self.clock = waiting.pass;
        waiting.pass += STRIDE[class.index()];
        waiting.running += 1;
        self.running.insert(number, now);
        Some(Turn {
            number,
            work: job.work,
            waited: now.saturating_duration_since(job.since),
        })
    }

    /// A job that [`Queue::pop`] gave out is done.
    pub(crate) fn done(&mut self, number: Number, now: Instant) {
        if let Some(began) = self.running.remove(&number) {
            self.classes[number.class.index()].running -= 1;
            let took = now.saturating_duration_since(began);
            let service = &mut self.service[number.step as usize];
            *service = match *service {
                Duration::ZERO => took,
                service => service - service / 8 + took / 8,
            };
        }
    }

    /// Takes a job out whose caller has given up. `None` when its turn has come already.
    pub(crate) fn withdraw(&mut self, number: Number) -> Option<T> {
        let job = self.classes[number.class.index()].remove(number)?;
        Some(job.work)
    }

    /// How many of `class` wait.
    pub(crate) fn waiting(&self, class: Class) -> usize {
        self.classes[class.index()].jobs.len()
    }

    /// How many of `class` run.
    pub(crate) fn running(&self, class: Class) -> usize {
        self.classes[class.index()].running
    }

    /// Threads that `class` may have at once. A quarter of a token's sessions, rounded up, is out of the
    /// strangers' reach; where there is only one they share it by turns.
    fn threads_for(&self, class: Class) -> usize {
        let Width { threads, sessions } = self.width;
        let most = match class {
            Class::Own | Class::Listed => threads,
            Class::Stranger => threads.min(sessions - sessions.div_ceil(4)),
        };
        most.max(1)
    }

    /// How long until the new job `new` would be done: the rounds before it, each as long as
    /// handshakes take now, and its own. With nothing before it there is nothing to fear, so a token
    /// that was slow is tried again.
    fn expected(&self, new: Number, now: Instant) -> Duration {
        let class = new.class;
        let jobs = &self.classes[class.index()].jobs;
        let mut own = jobs.range(..new).count();
        if new.step != Step::First {
            // Those that were not begun have their turn meanwhile.
            let unbegun = jobs.range(Number::unbegun(class)..).count();
            own += unbegun.min(own / BEGUN as usize);
        }
        let stride = STRIDE[class.index()];
        let others = Class::ALL.into_iter().filter(|other| *other != class);
        // Of the other classes, as many as have their turns while ours have theirs.
        let others = others.map(|other| {
            let turns = (own as u64 + 1) * stride / STRIDE[other.index()];
            self.waiting(other)
                .min(usize::try_from(turns).unwrap_or(usize::MAX))
        });
        let before: usize = own + others.sum::<usize>();
        if before == 0 {
            return Duration::ZERO;
        }
        let rounds = before / self.threads_for(class) + 1;
        self.service_time(now)
            .saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// How long a handshake has a thread, all steps together: what the last ones took, or more when
    /// those that run take longer.
    fn service_time(&self, now: Instant) -> Duration {
        let running = self
            .running
            .values()
            .map(|began| now.saturating_duration_since(*began));
        let under_way: Duration = running.sum();
        let count = u32::try_from(self.running.len().max(1)).unwrap_or(u32::MAX);
        self.service.iter().sum::<Duration>().max(under_way / count)
    }
}

impl<T> Waiting<T> {
    /// Whose turn it is.
    fn next(&mut self) -> Option<Number> {
        let first = *self.jobs.first_key_value()?.0;
        let waits_long = self.begun >= BEGUN;
        let unbegun = Number::unbegun(first.class);
        let next = match self.jobs.range(unbegun..).next() {
            Some((number, _)) if waits_long => *number,
            _ => first,
        };
        self.begun = match next.step {
            Step::First => 0,
            Step::Greeting | Step::Next => self.begun.saturating_add(1),
        };
        Some(next)
    }

    /// The round of a new job: after those that its address has waiting already.
    fn round_of(&self, step: Step, source: Option<Source>) -> u64 {
        match (step, source.and_then(|source| self.sources.get(&source))) {
            (Step::Greeting | Step::Next, _) => 0,
            (Step::First, Some(place)) => (place.last + 1).max(self.round),
            (Step::First, None) => self.round,
        }
    }

    fn insert(&mut self, number: Number, job: Job<T>) {
        if let Some(source) = job.source {
            let place = self
                .sources
                .entry(source)
                .or_insert(Place { jobs: 0, last: 0 });
            place.jobs += 1;
            place.last = place.last.max(number.round);
        }
        self.jobs.insert(number, job);
    }

    fn remove(&mut self, number: Number) -> Option<Job<T>> {
        let job = self.jobs.remove(&number)?;
        if let Some(source) = job.source
            && let Some(place) = self.sources.get_mut(&source)
        {
            place.jobs -= 1;
            if place.jobs == 0 {
                self.sources.remove(&source);
            }
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests;
