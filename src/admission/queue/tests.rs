use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(100);

/// So many threads, each with a session.
fn width(threads: usize) -> Width {
    Width {
        threads,
        sessions: threads,
    }
}

/// Runs everything that waits on `threads` threads, each job 1 ms, and returns the classes in
/// the order of their turns.
fn order(queue: &mut Queue<()>, mut now: Instant) -> Vec<Class> {
    let (threads, mut turns) = (queue.width.threads, Vec::new());
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
    let mut queue = Queue::new(width(1));
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
    let mut queue = Queue::new(width(1));
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
        let mut queue = Queue::new(width(threads));
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
fn strangers_never_have_all_sessions_of_the_token_that_is_left_of_several() {
    // Two tokens of four sessions, one of each size, and one of a single session.
    for (threads, sessions, most) in [(9, 4, 3), (9, 8, 6), (13, 4, 3), (3, 1, 1)] {
        let mut queue = Queue::new(Width { threads, sessions });
        fill(&mut queue, Class::Stranger, 100, Instant::now());
        let running = std::iter::from_fn(|| queue.pop(Instant::now())).count();
        assert_eq!(running, most, "of {threads} threads, {sessions} sessions");
    }
}

#[test]
fn what_cannot_be_served_before_its_deadline_is_refused_at_once() {
    let mut now = Instant::now();
    let mut queue = Queue::new(width(2));
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
    let mut queue = Queue::new(width(1));
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
    let mut queue = Queue::new(width(1));
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
    let mut queue = Queue::new(width(1));
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
fn a_handshake_that_was_not_begun_waits_for_no_more_than_two_that_were() {
    let now = Instant::now();
    let mut queue = Queue::new(width(1));
    let ticket = |step| Ticket {
        class: Class::Listed,
        step,
        source: None,
        until: now + LONG,
    };
    for step in [Step::First, Step::Greeting, Step::Next] {
        for _ in 0..4 {
            queue.push(ticket(step), step, now).unwrap();
        }
    }
    let turns = std::iter::from_fn(|| queue.pop(now));
    let firsts: Vec<_> = turns.map(|turn| turn.work == Step::First).collect();
    let [begun, first] = [false, true];
    let three = [begun, begun, first];
    assert_eq!(firsts, [three, three, three, three].concat());
}

#[test]
fn a_queue_has_a_bound() {
    let now = Instant::now();
    let mut queue = Queue::new(width(1));
    fill(&mut queue, Class::Stranger, LONGEST, now);
    assert_eq!(
        push(&mut queue, Class::Stranger, now, LONG),
        Err(Hopeless::Full)
    );
    assert!(push(&mut queue, Class::Listed, now, LONG).is_ok());
}
