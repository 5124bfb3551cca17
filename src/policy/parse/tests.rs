use super::*;

const GOOD: &str = r#"
[[peer]]
name = "b"
id = "spiffe://mesh.example/node/b"
addresses = ["127.0.0.1:7443", "node-b.example:7443"]
[peer.server]
active = "sha256/YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="
backup = "sha256/Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M="
[peer.client]
active = "sha256/ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ="
backup = "sha256/ZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWU="

[[peer]]
name = "c"
id = "spiffe://mesh.example/node/c"
[peer.client]
active = "sha256/ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY="
backup = "sha256/Z2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2c="
"#;

fn faults(text: &str) -> Vec<(String, usize)> {
    let faults = PeerPolicy::parse(text).unwrap_err();
    faults
        .into_iter()
        .map(|fault| {
            assert!(!fault.mend.is_empty() && fault.file.is_none(), "{fault:?}");
            (fault.key, fault.line.unwrap_or(0))
        })
        .collect()
}

#[test]
fn a_good_policy_is_read() {
    let policy = PeerPolicy::parse(GOOD).unwrap();
    let b = policy.named("b").unwrap();
    assert_eq!(b.socket_addresses().count(), 1);
    assert_eq!(policy.hosts().collect::<Vec<_>>(), ["node-b.example:7443"]);
    assert!(b.pins(crate::role::TlsRole::Server).is_some());
    let c = policy
        .peer(&"spiffe://mesh.example/node/c".parse().unwrap())
        .unwrap();
    assert_eq!(c.name(), "c");
    assert!(c.pins(crate::role::TlsRole::Server).is_none());
}

#[test]
fn each_thing_that_must_be_unique_is_a_fault_the_second_time() {
    for (from, to, fault) in [
        ("\"c\"", "\"b\"", ("peer[1].name", 14)),
        ("node/c", "node/b", ("peer[1].id", 15)),
        (
            "\"node-b.example:7443\"",
            "\"127.0.0.1:7443\"",
            ("peer[0].addresses[1]", 5),
        ),
        // One key for two peers, for both roles of a peer, and as its own backup.
        (
            "Z2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2c",
            "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI",
            ("peer[1].client.backup", 18),
        ),
        (
            "ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ",
            "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI",
            ("peer[0].client.active", 10),
        ),
        (
            "Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M",
            "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI",
            ("peer[0].server.backup", 8),
        ),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        assert_eq!(
            faults(&text),
            [(fault.0.to_owned(), fault.1)],
            "{from} → {to}"
        );
    }
}

#[test]
fn every_fault_is_reported_at_once() {
    let text = GOOD
        .replace("\"b\"", "\"B!\"")
        .replace(
            "spiffe://mesh.example/node/c",
            "https://mesh.example/node/c",
        )
        .replace("127.0.0.1:7443", "0.0.0.0:7443")
        .replace("backup = \"sha256/Y2N", "# = \"sha256/Y2N")
        .replace("\"sha256/ZmZm", "\"sha512/ZmZm");
    let expected = [
        ("peer[0].name", 3),
        ("peer[0].addresses[0]", 5),
        ("peer[0].server.backup", 6),
        ("peer[1].id", 15),
        ("peer[1].client.active", 17),
    ];
    assert_eq!(
        faults(&text),
        expected.map(|(key, line)| (key.to_owned(), line))
    );
}

#[test]
fn an_unknown_key_is_a_fault_with_the_nearest_known_one() {
    let text = GOOD
        .replace("addresses", "adresses")
        .replace("[peer.client]", "[peer.klient]");
    let found = PeerPolicy::parse(&text).unwrap_err();
    let mends: Vec<_> = found.iter().map(|fault| fault.mend.as_str()).collect();
    assert_eq!(
        mends,
        [
            "did you mean `addresses`?",
            "did you mean `client`?",
            "did you mean `client`?"
        ]
    );
}

#[test]
fn a_peer_that_may_do_nothing_is_a_fault() {
    let text = "[[peer]]\nname = 'b'\nid = 'spiffe://a/b'\naddresses = ['127.0.0.1:1']\n";
    assert_eq!(
        faults(text),
        [
            ("peer[0]".to_owned(), 2),
            ("peer[0].addresses".to_owned(), 4)
        ]
    );
}

#[test]
fn a_peer_s_methods_are_those_that_it_lists() {
    let with = |methods: &str| GOOD.replacen("id = ", &format!("methods = {methods}\nid = "), 1);
    let shown = |text: &str| {
        let policy = PeerPolicy::parse(text).unwrap();
        let methods = policy.named("b").unwrap().methods().clone();
        methods
            .patterns()
            .map(|patterns| patterns.map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(shown(GOOD), None);
    assert_eq!(shown(&with("[]")), Some(Vec::new()));
    let listed = ["/a.S/M".to_owned(), "/b.T/*".to_owned()];
    assert_eq!(shown(&with("['/a.S/M', '/b.T/*']")), Some(listed.into()));

    let text = with("['/a.S/M',\n'a.S/M', '/a.S',\n'/a.S/*x']");
    let expected = [1, 2, 3].map(|index| format!("peer[0].methods[{index}]"));
    let found: Vec<_> = expected.into_iter().zip([5, 5, 6]).collect();
    assert_eq!(faults(&text), found);
    let many = format!("[{}]", vec!["'/a.S/M'"; MOST_METHODS + 1].join(","));
    assert_eq!(faults(&with(&many)), [("peer[0].methods".to_owned(), 4)]);
}

#[test]
fn methods_of_a_peer_that_is_no_client_are_a_fault() {
    let server = GOOD.split("[peer.client]").next().unwrap();
    let text = server.replace("addresses", "methods = ['/a.S/M']\naddresses");
    assert_eq!(faults(&text), [("peer[0].methods".to_owned(), 5)]);
}

#[test]
fn sizes_are_bounded() {
    let many = vec!["'127.0.0.1:1'"; MOST_ADDRESSES + 1].join(",");
    let text = GOOD.replace("\"127.0.0.1:7443\", \"node-b.example:7443\"", &many);
    assert_eq!(
        faults(&text).first(),
        Some(&("peer[0].addresses".to_owned(), 5))
    );
    let peer = "[[peer]]\nname = 'b'\nid = 'spiffe://a/b'\n";
    let found = PeerPolicy::parse(&peer.repeat(MOST_PEERS + 1)).unwrap_err();
    assert_eq!(
        found.first().map(|fault| fault.problem.as_str()),
        Some("too many peers")
    );
    let found = PeerPolicy::parse(&"#".repeat(LONGEST_TEXT + 1)).unwrap_err();
    assert_eq!(
        found.first().map(|fault| fault.problem.as_str()),
        Some("the policy is too long")
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[\\[peer\\]\\]\n|name = \"[a-z]\"\n|id = \"spiffe://a/b\"\n|\\[peer.server\\]\n|.{0,20}\n){0,12}") {
        drop(PeerPolicy::parse(&text));
    }
}
