//! Reloads come in turn, and none is lost.

use crate::support::Mesh;

#[test]
fn reloads_that_are_asked_for_at_once_come_one_after_the_other() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let mut generations: Vec<u64> = std::thread::scope(|scope| {
        let reload = || {
            let reloaded = a.ask(&["reload"]).expect("a good policy");
            reloaded["generation"].as_u64().unwrap()
        };
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(reload)).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    generations.sort_unstable();
    assert_eq!(generations, (2..10).collect::<Vec<_>>());
}
