//! The certificate authority through the real binary, its key in a SoftHSM token, judged by openssl.

#[path = "pki/bench.rs"]
mod bench;

use bench::{Bench, KINDS, MODULE, PIN};

fn opposite(profile: &str) -> &'static str {
    if profile == "server" {
        "client"
    } else {
        "server"
    }
}

#[test]
fn every_kind_of_authority_certifies_every_kind_of_key_for_one_role_only() {
    let kinds = KINDS.map(|(kind, _)| kind);
    let bench = Bench::new(&kinds);
    for kind in kinds {
        bench.request(kind, kind);
    }
    for authority in kinds {
        bench.authority(authority, authority);
        let root = bench.openssl(&format!(
            "verify -x509_strict -CAfile {0}/ca.pem {0}/ca.pem",
            authority
        ));
        root.succeeded();
        for (index, leaf) in kinds.into_iter().enumerate() {
            let profile = ["server", "client"][index % 2];
            bench
                .issue(
                    authority,
                    leaf,
                    profile,
                    "--dns node-a --ip 127.0.0.1 --ip ::1",
                )
                .succeeded();
            bench
                .verify(authority, leaf, &format!("-purpose ssl{profile}"))
                .succeeded();
            let other = bench.verify(
                authority,
                leaf,
                &format!("-purpose ssl{}", opposite(profile)),
            );
            other.refused("unsuitable certificate purpose");
            std::fs::remove_file(bench.path(&format!("{leaf}.pem"))).unwrap();
        }
        bench.list(authority, "").succeeded();
        bench
            .openssl(&format!(
                "crl -in {0}.crl -CAfile {0}/ca.pem -noout",
                authority
            ))
            .succeeded();
    }
}

#[test]
fn a_certificate_says_what_the_operator_said_and_nothing_of_the_request() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    bench
        .openssl(
            "req -new -key a.key -out a.csr -subj /CN=evil.example/O=Evil \
             -addext subjectAltName=URI:spiffe://mesh.example/node/b,DNS:evil.example \
             -addext extendedKeyUsage=serverAuth,clientAuth,codeSigning \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign",
        )
        .succeeded();
    bench
        .issue(
            "ca",
            "a",
            "client",
            "--dns Node-A.mesh.example --ip 192.0.2.7",
        )
        .succeeded();
    let text = bench.openssl("x509 -in a.pem -noout -text").succeeded();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Subject: CN = mesh.example/node/a ",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Extended Key Usage: TLS Web Client Authentication X509v3",
        "X509v3 Subject Alternative Name: URI:spiffe://mesh.example/node/a, \
         DNS:node-a.mesh.example, IP Address:192.0.2.7 Signature",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    for never in ["evil", "Evil", "node/b", "Certificate Sign", "Code Signing"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
}

#[test]
fn a_root_is_an_authority_for_end_entities_only_and_lasts_ten_years() {
    let bench = Bench::new(&["p384"]);
    bench.authority("ca", "p384");
    let text = bench.openssl("x509 -in ca/ca.pem -noout -text").succeeded();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Version: 3",
        "Issuer: CN = Root-ca Validity",
        "Subject: CN = Root-ca Subject",
        "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical Certificate Sign, CRL Sign X509v3",
        "X509v3 Subject Key Identifier:",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!text.contains("Name Constraints"));
    let days = 24 * 60 * 60;
    bench
        .openssl(&format!(
            "x509 -in ca/ca.pem -noout -checkend {}",
            3649 * days
        ))
        .succeeded();
    assert!(
        !bench
            .openssl(&format!(
                "x509 -in ca/ca.pem -noout -checkend {}",
                3651 * days
            ))
            .ok
    );
}

#[test]
fn a_leaf_lasts_ninety_days_and_never_longer_than_its_authority() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    bench.issue("ca", "a", "server", "").succeeded();
    let day = 24 * 60 * 60;
    bench
        .openssl(&format!("x509 -in a.pem -noout -checkend {}", 89 * day))
        .succeeded();
    assert!(
        !bench
            .openssl(&format!("x509 -in a.pem -noout -checkend {}", 91 * day))
            .ok
    );

    bench
        .fastness(&format!(
            "ca init --dir brief --module {MODULE} --key pkcs11:token=ca;object=p256 \
             --pin file:pin --name Brief --days 10"
        ))
        .succeeded();
    bench.request("b", "p256");
    bench.issue("brief", "b", "server", "").succeeded();
    let end = |file: &str| {
        bench
            .openssl(&format!("x509 -in {file} -noout -enddate"))
            .succeeded()
    };
    assert_eq!(end("b.pem"), end("brief/ca.pem"));
}

#[test]
fn serial_numbers_are_distinct_positive_and_of_128_random_bits() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    let mut serials = std::collections::HashSet::new();
    for name in ["a", "b", "c", "d"] {
        bench.request(name, "p256");
        bench.issue("ca", name, "server", "").succeeded();
        let line = bench
            .openssl(&format!("x509 -in {name}.pem -noout -serial"))
            .succeeded();
        let serial = line.trim().trim_start_matches("serial=").to_owned();
        // `openssl x509` writes a minus before a negative one. One in 2^40 has less than twelve octets.
        let is_hexadecimal = serial.bytes().all(|digit| digit.is_ascii_hexdigit());
        assert!(
            is_hexadecimal && (24..=32).contains(&serial.len()),
            "{serial}"
        );
        assert!(
            bench
                .read("ca/issued.jsonl")
                .windows(serial.len())
                .any(|window| window == serial.as_bytes())
        );
        assert!(serials.insert(serial));
    }
}

#[test]
fn a_revoked_certificate_is_refused_with_the_next_list_and_the_others_are_not() {
    let bench = Bench::new(&["rsa2048"]);
    bench.authority("ca", "rsa2048");
    for name in ["a", "b", "c"] {
        bench.request(name, "p256");
        bench.issue("ca", name, "server", "").succeeded();
    }
    bench.list("ca", "").succeeded();
    let check = "-crl_check -CRLfile ca.crl";
    for name in ["a", "b", "c"] {
        bench.verify("ca", name, check).succeeded();
    }
    bench
        .fastness("ca revoke --dir ca --certificate a.pem --reason key-compromise")
        .succeeded();
    let serial = bench.openssl("x509 -in b.pem -noout -serial").succeeded();
    let serial = serial.trim().trim_start_matches("serial=").to_lowercase();
    bench
        .fastness(&format!(
            "ca revoke --dir ca --serial {serial} --reason superseded"
        ))
        .succeeded();
    bench.verify("ca", "a", check).succeeded();
    bench.list("ca", "--force --days 3").succeeded();
    for name in ["a", "b"] {
        bench
            .verify("ca", name, check)
            .refused("certificate revoked");
    }
    bench.verify("ca", "c", check).succeeded();

    let text = bench
        .openssl("crl -in ca.crl -CAfile ca/ca.pem -noout -text")
        .succeeded();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Version 2",
        "X509v3 CRL Number: 2",
        "Authority Key Identifier",
        "Key Compromise",
        "Superseded",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn webpki_accepts_what_is_issued_and_refuses_what_is_revoked() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;

    let kinds = KINDS.map(|(kind, _)| kind);
    let bench = Bench::new(&kinds);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    bench.request("a", "p256");
    bench.request("b", "p384");
    for kind in kinds {
        bench.authority(kind, kind);
        bench.issue(kind, "a", "server", "--dns node-a").succeeded();
        bench.issue(kind, "b", "client", "").succeeded();
        let read = |name: &str| CertificateDer::from_pem_slice(&bench.read(name)).unwrap();
        let (server, client) = (read("a.pem"), read("b.pem"));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(read(&format!("{kind}/ca.pem"))).unwrap();
        let roots = Arc::new(roots);
        let accepted = || {
            bench.list(kind, "--force").succeeded();
            let list = bench.read(&format!("{kind}.crl"));
            let list = CertificateRevocationListDer::from_pem_slice(&list).unwrap();
            let servers =
                WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .with_crls([list.clone()])
                    .enforce_revocation_expiration()
                    .build()
                    .unwrap();
            let clients =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .with_crls([list])
                    .enforce_revocation_expiration()
                    .build()
                    .unwrap();
            let name = "node-a".try_into().unwrap();
            let now = UnixTime::now();
            [
                servers
                    .verify_server_cert(&server, &[], &name, &[], now)
                    .is_ok(),
                clients.verify_client_cert(&client, &[], now).is_ok(),
                // The wrong role.
                clients.verify_client_cert(&server, &[], now).is_ok(),
            ]
        };
        assert_eq!(accepted(), [true, true, false], "{kind}");
        bench
            .fastness(&format!("ca revoke --dir {kind} --certificate a.pem"))
            .succeeded();
        assert_eq!(accepted(), [false, true, false], "{kind}");
        for name in ["a.pem", "b.pem"] {
            std::fs::remove_file(bench.path(name)).unwrap();
        }
    }
}

#[test]
fn revoking_twice_unknown_or_foreign_certificates_is_refused() {
    let bench = Bench::new(&["p256", "p384"]);
    bench.authority("ca", "p256");
    bench.authority("other", "p384");
    bench.request("a", "p256");
    bench.authority("namesake", "p256");
    bench.issue("other", "a", "server", "").succeeded();
    bench.request("b", "p384");
    bench.issue("namesake", "b", "server", "").succeeded();
    let revoke = |which: &str| bench.fastness(&format!("ca revoke --dir ca {which}"));
    revoke("--certificate a.pem").refused("not issued by this authority");
    // The same key, another name: its entry would be in a list that nobody holds against this certificate.
    revoke("--certificate b.pem").refused("not issued by this authority");
    revoke("--certificate ca/ca.pem").refused("cannot revoke its own certificate");
    revoke("--serial 0123456789ABCDEF").refused("no certificate with serial number");
    revoke("--serial xyz").refused("not a serial number");
    revoke("--certificate a.csr").refused("does not hold a certificate");
    revoke("").refused("required");
    bench
        .fastness("ca revoke --dir other --certificate a.pem")
        .succeeded();
    bench
        .fastness("ca revoke --dir other --certificate a.pem")
        .refused("already revoked, since");
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused_and_nothing_is_issued() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    for kind in ["p256", "rsa2048", "ed25519"] {
        bench.request("a", kind);
        bench
            .openssl("req -in a.csr -outform DER -out a.der")
            .succeeded();
        let mut der = bench.read("a.der");
        let last = der.len() - 1;
        der[last] ^= 1;
        bench.write("a.csr", &der);
        bench
            .issue("ca", "a", "server", "")
            .refused("not made by this key");
        // The subject, so that the signature is over something else.
        der[last] ^= 1;
        let at = der
            .windows(3)
            .position(|window| window == [0x0c, 1, b'a'])
            .expect("CN=a")
            + 2;
        der[at] = b'b';
        bench.write("a.csr", &der);
        bench
            .issue("ca", "a", "server", "")
            .refused("not made by this key");
    }
    assert!(!bench.exists("a.pem"));
    assert!(bench.read("ca/issued.jsonl").is_empty());
}

#[test]
fn keys_outside_policy_are_refused_with_the_reason() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    for (arguments, words) in [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "1024 bits"),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3",
            "use 65537",
        ),
        (
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "id-RSASSA-PSS",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            "not P-256 or P-384",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "not P-256 or P-384",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "not P-256 or P-384",
        ),
        ("-algorithm ED448", "are not certified"),
    ] {
        bench
            .openssl(&format!("genpkey -out a.key {arguments}"))
            .succeeded();
        bench
            .openssl("req -new -key a.key -subj /CN=a -out a.csr")
            .succeeded();
        bench.issue("ca", "a", "server", "").refused(words);
    }
    bench.request("a", "rsa2048");
    bench
        .openssl("req -new -sha1 -key a.key -subj /CN=a -out a.csr")
        .succeeded();
    bench
        .issue("ca", "a", "server", "")
        .refused("does not fit the key or is not accepted");
}

#[test]
fn requests_are_taken_in_pem_or_der_and_signed_with_pss_or_longer_hashes() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    let pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest";
    for (name, kind, how) in [
        ("a", "rsa2048", pss),
        ("b", "rsa2048", "-sha512"),
        ("c", "p256", "-sha384"),
        ("d", "p384", "-sha256 -outform DER"),
    ] {
        bench.request(name, kind);
        bench
            .openssl(&format!(
                "req -new -key {name}.key -subj /CN=x -out {name}.csr {how}"
            ))
            .succeeded();
        bench.issue("ca", name, "client", "").succeeded();
        bench.verify("ca", name, "-purpose sslclient").succeeded();
    }
}

#[test]
fn a_request_signed_in_a_token_verifies_and_is_certified() {
    let kinds = KINDS.map(|(kind, _)| kind);
    let bench = Bench::new(&kinds);
    bench.authority("ca", "p256");
    for (index, kind) in kinds.into_iter().enumerate() {
        bench
            .fastness(&format!(
                "token csr --module {MODULE} --key pkcs11:token=ca;object={kind} --pin file:pin \
                 --subject node/{kind} --out {kind}.csr"
            ))
            .succeeded();
        let verified = bench.openssl(&format!("req -in {kind}.csr -noout -verify -subject"));
        assert!(verified.stderr.contains("verify OK"), "{verified:?}");
        assert!(
            verified.stdout.contains(&format!("CN = node/{kind}")),
            "{verified:?}"
        );
        let outcome = bench.issue("ca", kind, ["server", "client"][index % 2], "");
        if kind == "p256" {
            outcome.refused("the authority's own key");
        } else {
            outcome.succeeded();
            bench.verify("ca", kind, "").succeeded();
        }
    }
}

#[test]
fn a_key_gets_certificates_for_one_profile_only() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    bench.issue("ca", "a", "server", "").succeeded();
    std::fs::rename(bench.path("a.pem"), bench.path("old.pem")).unwrap();
    bench
        .issue("ca", "a", "client", "")
        .refused("already has a server certificate");
    bench.issue("ca", "a", "server", "").succeeded();
    bench
        .fastness("ca revoke --dir ca --certificate old.pem --reason key-compromise")
        .succeeded();
    std::fs::remove_file(bench.path("a.pem")).unwrap();
    bench
        .issue("ca", "a", "server", "")
        .refused("revoked as compromised");
}

#[test]
fn identities_and_names_that_are_not_ones_are_refused() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let issue = |id: &str, more: &str| {
        bench.fastness(&format!(
            "ca issue --dir ca --pin file:pin --csr a.csr --profile server --id {id} --out a.pem {more}"
        ))
    };
    for id in [
        "mesh.example/a",
        "https://mesh.example/a",
        "SPIFFE://mesh.example/a",
        "spiffe://mesh.example",
        "spiffe://mesh.example/",
        "spiffe://mesh.example/a/",
        "spiffe://mesh.example//a",
        "spiffe://mesh.example/./a",
        "spiffe://mesh.example/../a",
        "spiffe://Mesh.example/a",
        "spiffe://mesh.example:1/a",
        "spiffe://mesh.example/a%20b",
        "spiffe://mesh.example/a?b",
    ] {
        issue(id, "").refused("--id");
    }
    for name in ["*.example", "10.0.0.1", "a_b", "-a", "a..b"] {
        issue("spiffe://mesh.example/a", &format!("--dns={name}")).refused("--dns");
    }
    issue("spiffe://mesh.example/a", "--ip node-a").refused("--ip");
    assert!(!bench.exists("a.pem"));
}

#[test]
fn no_file_is_overwritten_unless_a_list_is_renewed() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    let root = bench.read("ca/ca.pem");
    let again = format!(
        "ca init --dir ca --module {MODULE} --key pkcs11:token=ca;object=p256 --pin file:pin --name X"
    );
    bench.fastness(&again).refused("already an authority");
    assert_eq!(bench.read("ca/ca.pem"), root);

    bench.request("a", "p256");
    bench.write("a.pem", b"mine");
    bench
        .issue("ca", "a", "server", "")
        .refused("exists and is not overwritten");
    assert_eq!(bench.read("a.pem"), b"mine");
    assert!(bench.read("ca/issued.jsonl").is_empty());

    bench.write("ca.crl", b"mine");
    bench
        .list("ca", "")
        .refused("exists and is not overwritten");
    assert_eq!(bench.read("ca.crl"), b"mine");
    bench.list("ca", "--force").succeeded();
    bench
        .openssl("crl -in ca.crl -CAfile ca/ca.pem -noout")
        .succeeded();
}

#[test]
fn a_certificate_that_cannot_be_written_is_recorded_and_named() {
    crate::support::as_root("who may not write in a folder is refused before");
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let issue = |out: &str| {
        bench.fastness(&format!(
            "ca issue --dir ca --pin file:pin --csr a.csr --profile server \
             --id spiffe://mesh.example/a --out {out}"
        ))
    };
    issue("nowhere/a.pem").refused("nowhere/a.pem does not exist");
    assert!(bench.read("ca/issued.jsonl").is_empty());
    // A folder in which nobody can make files.
    issue("/proc/a.pem").refused("issued and recorded");
    assert_eq!(
        bench
            .read("ca/issued.jsonl")
            .iter()
            .filter(|byte| **byte == b'\n')
            .count(),
        1
    );
}

#[test]
fn commands_at_the_same_time_lose_nothing() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let all_at_once = |commands: Vec<String>| {
        let started: Vec<_> = commands
            .iter()
            .map(|command| bench.start(command))
            .collect();
        let ends = started
            .into_iter()
            .map(|mut child| child.wait().expect("a child"));
        ends.filter(std::process::ExitStatus::success).count()
    };
    let issue = |number: usize| {
        format!(
            "ca issue --dir ca --pin file:pin --csr a.csr --profile server \
             --id spiffe://mesh.example/a --out {number}.pem"
        )
    };
    // SoftHSM may refuse one of several logins at once, which is not the authority's affair.
    let issued = all_at_once((0..4).map(issue).collect());
    assert!(issued > 0);
    assert_eq!(
        (0..4)
            .filter(|number| bench.exists(&format!("{number}.pem")))
            .count(),
        issued
    );
    let lines = |name: &str| String::from_utf8(bench.read(name)).unwrap().lines().count();
    assert_eq!(lines("ca/issued.jsonl"), issued);

    for number in 4..16 {
        bench.fastness(&issue(number)).succeeded();
    }
    let revoke = |number| format!("ca revoke --dir ca --certificate {number}.pem");
    assert_eq!(all_at_once((4..16).map(revoke).collect()), 12);
    assert_eq!(lines("ca/revoked.jsonl"), 12);
}

#[test]
fn a_wrong_pin_issues_nothing_and_a_bare_one_is_not_repeated() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let issue = |pin: &str| {
        bench.fastness(&format!(
            "ca issue --dir ca --pin {pin} --csr a.csr --profile server --id spiffe://m/a --out a.pem"
        ))
    };
    bench.write("pin", b"000000");
    issue("file:pin").refused("PIN");
    let bare = issue(PIN);
    assert!(!bare.ok && !bare.stderr.contains(PIN), "{bare:?}");
    let uri = bench.fastness(&format!(
        "ca init --dir x --module {MODULE} --name X --pin file:pin \
         --key pkcs11:token=ca;object=p256?pin-value={PIN}"
    ));
    assert!(!uri.ok && !uri.stderr.contains(PIN), "{uri:?}");
    assert!(!bench.exists("a.pem") && bench.read("ca/issued.jsonl").is_empty());
}

#[test]
fn a_key_that_can_do_more_than_sign_does_not_become_an_authority() {
    let bench = Bench::new(&[]);
    let generated = bench.tool(
        "pkcs11-tool",
        &format!(
            "--module {MODULE} --login --pin {PIN} --token-label ca --keypairgen \
             --key-type EC:prime256v1 --label loose --id 01 --extractable"
        ),
    );
    generated.succeeded();
    let outcome = bench.fastness(&format!(
        "ca init --dir ca --module {MODULE} --key pkcs11:token=ca;object=loose --pin file:pin --name X"
    ));
    outcome.refused("EXTRACTABLE");
    assert!(!bench.exists("ca/ca.pem"));
}

#[test]
fn another_key_under_the_authoritys_name_is_refused() {
    let bench = Bench::new(&["p256", "p384"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let settings = String::from_utf8(bench.read("ca/authority.toml")).unwrap();
    bench.write(
        "ca/authority.toml",
        settings.replace("object=p256", "object=p384").as_bytes(),
    );
    bench
        .issue("ca", "a", "server", "")
        .refused("not the authority's");
    bench.list("ca", "").refused("not the authority's");
    assert_eq!(bench.read("ca/crl-number"), b"0\n");
}

#[test]
fn the_pin_of_key_request_and_certificate_is_the_one_that_openssl_gives() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "rsa2048");
    bench.issue("ca", "a", "server", "").succeeded();
    let pin_by_openssl = |read: &str| {
        let public = bench.openssl(read).succeeded();
        bench.write("public.pem", public.as_bytes());
        bench
            .openssl("pkey -pubin -in public.pem -outform DER -out public.der")
            .succeeded();
        bench
            .openssl("dgst -sha256 -binary -out digest public.der")
            .succeeded();
        format!(
            "sha256/{}\n",
            bench.openssl("base64 -A -in digest").succeeded()
        )
    };
    let of = |what: &str| bench.fastness(&format!("spki-pin {what}")).succeeded();
    let expected = pin_by_openssl("x509 -in a.pem -noout -pubkey");
    assert_eq!(of("a.pem"), expected);
    assert_eq!(of("a.csr"), expected);
    assert_eq!(of("public.pem"), expected);
    assert_eq!(of("public.der"), expected);
    let chain = [bench.read("a.pem"), bench.read("ca/ca.pem")].concat();
    bench.write("chain.pem", &chain);
    assert_eq!(of("chain.pem"), expected);

    let expected = pin_by_openssl("x509 -in ca/ca.pem -noout -pubkey");
    let key = format!("pkcs11:token=ca;object=p256 --module {MODULE} --pin file:pin");
    assert_eq!(of(&key), expected);
    let json = bench
        .fastness("--format json spki-pin ca/ca.pem")
        .succeeded();
    assert_eq!(
        json,
        format!(
            "{{\"source\":\"certificate\",\"spki_pin\":\"{}\"}}\n",
            expected.trim()
        )
    );
    bench.fastness("spki-pin a.key").refused("private key");
    bench
        .fastness("spki-pin pkcs11:token=ca;object=p256")
        .refused("--module");
    bench
        .fastness("spki-pin nothing.pem")
        .refused("cannot read");
}

#[test]
fn results_are_json_when_asked_for() {
    let bench = Bench::new(&["p256"]);
    bench.authority("ca", "p256");
    bench.request("a", "p256");
    let issued = bench
        .issue("ca", "a", "client", "--format json")
        .succeeded();
    let issued: serde_json::Value = serde_json::from_str(&issued).unwrap();
    assert_eq!(issued["profile"], "client");
    assert_eq!(issued["id"], "spiffe://mesh.example/node/a");
    assert_eq!(issued["certificate"], "a.pem");
    let pin = bench.fastness("spki-pin a.pem").succeeded();
    assert_eq!(issued["spki_pin"], pin.trim());
    let list = bench.list("ca", "--format json").succeeded();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&list["number"], &list["revoked"]), (&1.into(), &0.into()));
}
