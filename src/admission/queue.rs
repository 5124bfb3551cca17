//! The order in which handshakes get a thread of the lane: addresses take turns within a class, first come
//! first served for each of them; classes take turns too, and never all threads for strangers.
//!
//! A handshake comes back for each of its steps, and one that was begun goes before those that were
//! not: otherwise, with a full queue, all of them get their first step and none its last in time.

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

/// Work of type `T` that waits, and how much of it runs.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    threads: usize,
    next: u64,
    classes: [Waiting<T>; 3],
    /// The pass of the last turn.
    clock: u64,
    /// When each running job began.
    running: BTreeMap<Number, Instant>,
    /// How long a job takes: an average that forgets, by [`Step`].
    service: [Duration; 2],
}

#[derive(Debug)]
struct Waiting<T> {
    jobs: BTreeMap<Number, Job<T>>,
    /// Grows with each turn; the lowest has the next.
    pass: u64,
    running: usize,
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
    /// It was in the lane before.
    Next,
    /// It was not.
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
    /// An empty queue before `threads` threads, at least one.
    pub(crate) fn new(threads: usize) -> Self {
        let waiting = || Waiting {
            jobs: BTreeMap::new(),
            pass: 0,
            running: 0,
            round: 0,
            sources: HashMap::new(),
        };
        Self {
            threads: threads.max(1),
            next: 0,
            classes: [waiting(), waiting(), waiting()],
            clock: 0,
            running: BTreeMap::new(),
            service: [Duration::ZERO; 2],
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
        let number = *waiting.jobs.first_key_value()?.0;
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

    /// Threads that `class` may have at once. A quarter, rounded up, is out of the strangers' reach;
    /// where there is only one thread they share it by turns.
    fn threads_for(&self, class: Class) -> usize {
        match class {
            Class::Own | Class::Listed => self.threads,
            Class::Stranger => (self.threads - self.threads.div_ceil(4)).max(1),
        }
    }

    /// How long until the new job `new` would be done: the rounds before it, each as long as
    /// handshakes take now, and its own. With nothing before it there is nothing to fear, so a token
    /// that was slow is tried again.
    fn expected(&self, new: Number, now: Instant) -> Duration {
        let class = new.class;
        let own = self.classes[class.index()].jobs.range(..new).count();
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
    /// The round of a new job: after those that its address has waiting already.
    fn round_of(&self, step: Step, source: Option<Source>) -> u64 {
        match (step, source.and_then(|source| self.sources.get(&source))) {
            (Step::Next, _) => 0,
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
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(100);

    /// Runs everything that waits on `threads` threads, each job 1 ms, and returns the classes in
    /// the order of their turns.
    fn order(queue: &mut Queue<()>, mut now: Instant) -> Vec<Class> {
        let (threads, mut turns) = (queue.threads, Vec::new());
        loop {
            let round: Vec<_> = std::iter::from_fn(|| queue.pop(now))
                .take(threads)
                .collect();
            if round.is_empty() {
                return turns;
            }
            now += MILLISECOND;
            for turn in round {
                turns.push(turn.number.class);
                queue.done(turn.number, now);
            }
        }
    }

    fn fill(queue: &mut Queue<()>, class: Class, count: usize, now: Instant) {
        for _ in 0..count {
            push(queue, class, now, LONG).unwrap();
        }
    }

    fn push(
        queue: &mut Queue<()>,
        class: Class,
        now: Instant,
        within: Duration,
    ) -> Result<Number, Hopeless> {
        queue.push(
            Ticket {
                class,
                step: Step::First,
                source: None,
                until: now + within,
            },
            (),
            now,
        )
    }

    #[test]
    fn one_thread_is_shared_by_turns_and_no_class_starves() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        fill(&mut queue, Class::Stranger, 1000, now);
        fill(&mut queue, Class::Listed, 100, now);
        fill(&mut queue, Class::Own, 100, now);
        let turns = order(&mut queue, now);
        assert_eq!(turns.len(), 1200);
        let busy = &turns[..225];
        let count = |class| busy.iter().filter(|turn| **turn == class).count();
        assert_eq!((count(Class::Own), count(Class::Listed)), (100, 100));
        assert!((24..=26).contains(&count(Class::Stranger)));
        let first = |class| turns.iter().position(|turn| *turn == class).unwrap();
        assert!(Class::ALL.into_iter().all(|class| first(class) < 9));
    }

    #[test]
    fn turns_that_were_not_needed_are_not_saved_up() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        fill(&mut queue, Class::Listed, 1000, now);
        order(&mut queue, now);
        // Strangers have had no turn for long, and still do not get a thousand in a row.
        fill(&mut queue, Class::Stranger, 50, now);
        fill(&mut queue, Class::Listed, 50, now);
        let turns = order(&mut queue, now);
        assert!(
            turns[..10]
                .iter()
                .filter(|turn| **turn == Class::Listed)
                .count()
                >= 7,
            "{turns:?}"
        );
    }

    #[test]
    fn strangers_never_have_all_threads() {
        for (threads, most) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (32, 24)] {
            let now = Instant::now();
            let mut queue = Queue::new(threads);
            fill(&mut queue, Class::Stranger, 100, now);
            let running: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
            assert_eq!(running.len(), most, "of {threads}");
            fill(&mut queue, Class::Listed, 1, now);
            assert_eq!(queue.pop(now).unwrap().number.class, Class::Listed);
            assert!(queue.pop(now).is_none());
            queue.done(running[0].number, now);
            assert_eq!(queue.pop(now).unwrap().number.class, Class::Stranger);
        }
    }

    #[test]
    fn what_cannot_be_served_before_its_deadline_is_refused_at_once() {
        let mut now = Instant::now();
        let mut queue = Queue::new(2);
        // Jobs take 100 ms.
        for _ in 0..100 {
            fill(&mut queue, Class::Listed, 1, now);
            let turn = queue.pop(now).unwrap();
            now += 100 * MILLISECOND;
            queue.done(turn.number, now);
        }
        let within = |queue: &mut Queue<()>, class, milliseconds| {
            push(queue, class, now, milliseconds * MILLISECOND)
        };
        fill(&mut queue, Class::Listed, 20, now);
        assert_eq!(
            within(&mut queue, Class::Listed, 1000),
            Err(Hopeless::TooLate)
        );
        let last = within(&mut queue, Class::Listed, 1100).unwrap();
        // Own dials take turns with them: two before one's turn at most.
        assert!(within(&mut queue, Class::Own, 210).is_ok());
        // A stranger waits for four of each.
        assert_eq!(
            within(&mut queue, Class::Stranger, 500),
            Err(Hopeless::TooLate)
        );
        assert!(within(&mut queue, Class::Stranger, 1000).is_ok());
        assert!(queue.withdraw(last).is_some() && queue.withdraw(last).is_none());
        assert_eq!(queue.waiting(Class::Listed), 20);
    }

    #[test]
    fn a_token_that_hangs_is_noticed_before_any_job_ends_and_tried_again_when_nothing_waits() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        fill(&mut queue, Class::Listed, 2, now);
        let hung = queue.pop(now).unwrap();
        let later = now + 5 * Duration::from_secs(1);
        assert_eq!(
            push(&mut queue, Class::Listed, later, 100 * MILLISECOND),
            Err(Hopeless::TooLate)
        );
        queue.done(hung.number, later);
        let turn = queue.pop(later).unwrap();
        queue.done(turn.number, later);
        assert!(push(&mut queue, Class::Listed, later, MILLISECOND).is_ok());
    }

    #[test]
    fn one_address_cannot_spend_the_turns_of_another() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        let push = |queue: &mut Queue<u8>, from: u8, within| {
            let ticket = Ticket {
                class: Class::Listed,
                step: Step::First,
                source: Some([192, 0, 2, from].into()),
                until: now + within,
            };
            queue.push(ticket, from, now)
        };
        // A job takes 1 ms.
        push(&mut queue, 1, LONG).unwrap();
        let first = queue.pop(now).unwrap();
        queue.done(first.number, now + MILLISECOND);
        for _ in 0..1000 {
            push(&mut queue, 1, LONG).unwrap();
        }
        for _ in 0..5 {
            push(&mut queue, 2, LONG).unwrap();
        }
        assert_eq!(
            push(&mut queue, 1, 500 * MILLISECOND),
            Err(Hopeless::TooLate)
        );
        let given_up = push(&mut queue, 3, 10 * MILLISECOND).unwrap();
        assert!(queue.withdraw(given_up).is_some());
        let mut turns = |count| -> Vec<u8> {
            std::iter::from_fn(|| queue.pop(now))
                .take(count)
                .map(|turn| turn.work)
                .collect()
        };
        assert_eq!(turns(12), [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]);
        // Who comes later has not saved up the rounds before.
        for _ in 0..3 {
            push(&mut queue, 4, LONG).unwrap();
        }
        let mut turns = std::iter::from_fn(|| queue.pop(now)).map(|turn| turn.work);
        let busy: Vec<_> = turns.by_ref().take(6).collect();
        assert_eq!(
            busy.iter().filter(|from| **from == 4).count(),
            3,
            "{busy:?}"
        );
        assert_eq!(turns.count(), 1000 - 7 - 3);
        assert!(queue.classes[Class::Listed.index()].sources.is_empty());
    }

    #[test]
    fn a_handshake_that_was_begun_goes_before_those_that_were_not() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        let number = |step, queue: &mut Queue<u8>, work| {
            let ticket = Ticket {
                class: Class::Listed,
                step,
                source: None,
                until: now + LONG,
            };
            queue.push(ticket, work, now).unwrap()
        };
        for (step, work) in [
            (Step::First, 3),
            (Step::Next, 1),
            (Step::First, 4),
            (Step::Next, 2),
        ] {
            number(step, &mut queue, work);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now))
            .map(|turn| turn.work)
            .collect();
        assert_eq!(order, [1, 2, 3, 4]);
    }

    #[test]
    fn a_queue_has_a_bound() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        fill(&mut queue, Class::Stranger, LONGEST, now);
        assert_eq!(
            push(&mut queue, Class::Stranger, now, LONG),
            Err(Hopeless::Full)
        );
        assert!(push(&mut queue, Class::Listed, now, LONG).is_ok());
    }
}
