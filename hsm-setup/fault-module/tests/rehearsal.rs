//! Every fault, seen as a client sees it, with SoftHSM behind.

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]
#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectClass;
use cryptoki::session::UserType;
use cryptoki::slot::Limit;
use support::*;

const MS: Duration = Duration::from_millis(1);

#[test]
fn every_call_is_counted_exactly() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        thread::scope(|scope| {
            for _ in 0..4 {
                let session = client.session();
                scope.spawn(move || (0..250).for_each(|_| drop(sign(&session, key).unwrap())));
            }
        });
        assert_eq!(count("C_Initialize", "calls"), 1);
        assert_eq!(count("C_Login", "calls"), 1);
        assert_eq!(count("C_OpenSession", "calls"), 5);
        assert_eq!(count("C_CloseSession", "calls"), 4);
        assert_eq!(count("C_SignInit", "calls"), 1000);
        // cryptoki asks for the size first.
        assert_eq!(count("C_Sign", "calls"), 2000);
        assert_eq!(count("C_Sign", "size_queries"), 1000);
        assert_eq!(count("C_Sign", "injected"), 0);
        assert!(order("counts --json").contains("\"sessions\":1,\"alive\":true"));
        order("zero-counts");
        assert_eq!(count("C_Sign", "calls"), 0);
        // An error of the real module is told apart from ours.
        assert_eq!(
            code(session.sign_init(&Mechanism::Ecdsa, found(&session, ObjectClass::PUBLIC_KEY))),
            Err(RvError::KeyFunctionNotPermitted)
        );
        assert_eq!(
            (
                count("C_SignInit", "errors"),
                count("C_SignInit", "injected")
            ),
            (1, 0)
        );
    });
}

#[test]
fn a_delay_is_how_long_a_call_takes() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("set C_Sign delay=30ms");
        let took = timed(|| drop(sign(&session, key).unwrap()));
        assert!(took >= 30 * MS, "{took:?}");
        order("set C_Sign delay=30ms jitter=10ms");
        let took: Vec<_> = (0..8)
            .map(|_| timed(|| drop(sign(&session, key).unwrap())))
            .collect();
        assert!(took.iter().all(|took| *took >= 20 * MS), "{took:?}");
        assert!(
            took.iter()
                .max()
                .unwrap()
                .abs_diff(*took.iter().min().unwrap())
                > MS,
            "{took:?}"
        );
        assert_eq!(count("C_Sign", "delayed"), 9, "a size query is not delayed");
        order("clear");
        drop(sign(&session, key).unwrap());
        assert_eq!(count("C_Sign", "delayed"), 9, "cleared");
    });
}

#[test]
fn a_serialised_delay_serves_so_many_at_once() {
    rehearse("", || {
        let client = Client::new();
        let login = client.login();
        let (_, key) = key_pair(&login);
        let all = || {
            thread::scope(|scope| {
                for _ in 0..16 {
                    let session = client.session();
                    scope.spawn(move || (0..5).for_each(|_| drop(sign(&session, key).unwrap())));
                }
            });
        };
        // 80 signatures, 20 ms each: four at a time 400 ms, all at a time 100 ms.
        order("set C_Sign delay=20ms sessions=4");
        let four = timed(all);
        assert!(four >= 400 * MS, "{four:?}");
        order("set C_Sign delay=20ms");
        let sixteen = timed(all);
        assert!(sixteen >= 100 * MS && sixteen < four, "{sixteen:?}");
    });
}

#[test]
fn the_lanes_are_shared_by_all_processes() {
    if inside() {
        let client = Client::new();
        let login = client.login();
        let key = found(&login, ObjectClass::PRIVATE_KEY);
        await_count("C_FindObjectsFinal", "calls", 2);
        (0..10).for_each(|_| drop(sign(&login, key).unwrap()));
        return;
    }
    let scene = Scene::new("");
    let tool = [
        "--login",
        "--pin",
        PIN,
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
    ];
    succeeds(
        scene
            .command("pkcs11-tool")
            .arg("--module")
            .arg(module())
            .args(tool),
    );
    scene.ctl("zero-counts");
    scene.ctl("set C_Sign delay=50ms sessions=1");
    let took = timed(|| {
        // SoftHSM writes at a login what the other's calls read: one after the other, and then they sign.
        let first = scene.spawn();
        await_count_in(
            || scene.ctl("counts --json"),
            "C_FindObjectsFinal",
            "calls",
            1,
        );
        let children = [first, scene.spawn()];
        children
            .into_iter()
            .for_each(|mut child| assert!(child.wait().unwrap().success()));
    });
    assert!(took >= 1000 * MS, "{took:?}");
}

#[test]
fn a_function_fails_with_a_code_for_some_calls() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("fail C_SignInit CKR_DEVICE_ERROR times=3 after=2");
        let outcomes: Vec<_> = (0..7).map(|_| sign(&session, key).err()).collect();
        let error = Some(RvError::DeviceError);
        assert_eq!(outcomes, [None, None, error, error, error, None, None]);
        assert_eq!(count("C_SignInit", "injected"), 3);
        assert_eq!(count("C_Sign", "size_queries"), 4);
        order("fail C_SignInit CKR_GENERAL_ERROR");
        assert!((0..20).all(|_| sign(&session, key) == Err(RvError::GeneralError)));
        order("clear C_SignInit");
        assert!(sign(&session, key).is_ok());
        order("fail C_SignInit 0x80000001 times=1");
        assert!(matches!(
            sign(&session, key),
            Err(RvError::VendorDefined(_))
        ));
    });
}

#[test]
fn a_broken_module_is_cured_by_nothing_but_a_login_or_a_fresh_start() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        let broken = Err(RvError::DeviceError);
        order("fail C_SignInit CKR_DEVICE_ERROR until=C_Login");
        assert!(order("rules").contains("CKR_DEVICE_ERROR times=forever until=C_Login"));
        assert_eq!(sign(&session, key), broken);
        assert_eq!(sign(&client.session(), key), broken, "in any session");
        code(session.logout()).unwrap();
        code(session.login(UserType::User, Some(&PIN.into()))).unwrap();
        let key = found(&session, ObjectClass::PRIVATE_KEY);
        assert!(sign(&session, key).is_ok());

        order("fail C_SignInit CKR_DEVICE_ERROR until=C_Initialize");
        code(session.logout()).unwrap();
        code(session.login(UserType::User, Some(&PIN.into()))).unwrap();
        let key = found(&session, ObjectClass::PRIVATE_KEY);
        assert_eq!(sign(&session, key), broken, "a login is not enough");
        drop(session);
        code(client.pkcs11.finalize()).unwrap();
        let client = Client::new();
        let session = client.login();
        let key = found(&session, ObjectClass::PRIVATE_KEY);
        assert!(sign(&session, key).is_ok());
    });
}

#[test]
fn an_error_of_the_module_is_told_in_other_words() {
    rehearse("", || {
        let client = Client::new();
        let session = client.session();
        order("reword C_Login CKR_GENERAL_ERROR");
        let wrong = code(session.login(UserType::User, Some(&"wrong".into())));
        assert_eq!(wrong, Err(RvError::GeneralError));
        let info = client.pkcs11.get_token_info(client.slot).unwrap();
        assert!(info.user_pin_count_low(), "it was really tried");
        code(session.login(UserType::User, Some(&PIN.into()))).unwrap();
    });
}

#[test]
fn a_module_that_is_finalised_under_a_call_is_told() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("hang C_Sign times=1");
        thread::scope(|scope| {
            let pkcs11 = client.pkcs11.clone();
            scope.spawn(move || sign(&session, key));
            await_count("C_Sign", "hung", 1);
            drop(pkcs11.finalize());
            order("release");
        });
        assert_eq!(count("C_Finalize", "overlapped"), 1);
        drop(Client::new().pkcs11.finalize());
        assert_eq!(count("C_Finalize", "overlapped"), 1);
    });
}

#[test]
fn every_function_of_the_token_fails_when_it_is_unplugged() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("fail all CKR_DEVICE_REMOVED");
        let gone = RvError::DeviceRemoved;
        assert_eq!(sign(&session, key), Err(gone));
        assert_eq!(
            code(client.pkcs11.get_token_info(client.slot)).err(),
            Some(gone)
        );
        assert_eq!(
            code(client.pkcs11.open_ro_session(client.slot)).err(),
            Some(gone)
        );
        assert!(client.pkcs11.get_library_info().is_ok());
        order("clear");
        assert!(sign(&session, key).is_ok());
    });
}

#[test]
fn a_failure_may_come_late() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        order("set C_GenerateRandom delay=30ms");
        order("fail C_GenerateRandom CKR_DEVICE_ERROR times=1");
        let mut outcome = Ok(());
        let took = timed(|| outcome = code(session.generate_random_slice(&mut [0; 8])));
        assert_eq!(outcome, Err(RvError::DeviceError));
        assert!(took >= 30 * MS, "{took:?}");
    });
}

#[test]
fn a_hung_call_goes_on_when_it_is_released() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("hang C_Sign times=1");
        thread::scope(|scope| {
            let other = client.session();
            let hung = scope.spawn(move || sign(&other, key));
            await_count("C_Sign", "hung", 1);
            // Only one was to hang; sessions beside it go on.
            assert!(sign(&session, key).is_ok());
            thread::sleep(150 * MS);
            assert!(!hung.is_finished());
            order("release");
            assert!(hung.join().unwrap().is_ok());
        });
    });
}

#[test]
fn clearing_a_long_delay_ends_the_wait() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("set C_Sign delay=60s sessions=1");
        thread::scope(|scope| {
            let waiting = scope.spawn(move || sign(&session, key));
            await_count("C_Sign", "delayed", 1);
            order("clear");
            let took = timed(|| assert!(waiting.join().unwrap().is_ok()));
            assert!(took < Duration::from_secs(30), "{took:?}");
        });
    });
}

#[test]
fn a_hung_process_can_be_killed_and_leaves_nothing_behind() {
    if inside() {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        drop(sign(&session, key));
        return;
    }
    let scene = Scene::new("");
    scene.ctl("set C_Sign delay=20ms sessions=1");
    scene.ctl("hang C_Sign times=1");
    let mut child = scene.spawn();
    let start = Instant::now();
    while count_in(&scene.ctl("counts --json"), "C_Sign", "hung") == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        thread::sleep(5 * MS);
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(scene.ctl("counts").contains("gone"));
    assert!(
        scene.spawn().wait().unwrap().success(),
        "the next process signs"
    );
}

#[test]
fn a_corrupted_signature_does_not_verify() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (public, key) = key_pair(&session);
        order("corrupt C_Sign times=1");
        let (first, second) = (sign(&session, key).unwrap(), sign(&session, key).unwrap());
        let verify =
            |signature: &[u8]| code(session.verify(&Mechanism::Ecdsa, public, &[7; 32], signature));
        assert_eq!(verify(&first), Err(RvError::SignatureInvalid));
        assert_eq!(verify(&second), Ok(()));
        assert_eq!(count("C_Sign", "corrupted"), 1);
    });
}

#[test]
fn sessions_are_limited_and_the_limit_is_reported() {
    rehearse("", || {
        let client = Client::new();
        order("max-sessions 2");
        let info = client.pkcs11.get_token_info(client.slot).unwrap();
        assert!(
            matches!(info.max_session_count(), Limit::Max(2)),
            "{info:?}"
        );
        let (_first, second) = (client.session(), client.session());
        let third = code(client.pkcs11.open_ro_session(client.slot));
        assert_eq!(third.err(), Some(RvError::SessionCount));
        drop(second);
        let third = client.session();
        drop(third);
        order("max-sessions none");
        let many: Vec<_> = (0..20).map(|_| client.session()).collect();
        assert!(order("counts --json").contains("\"sessions\":21,"));
        drop(many);
        assert!(order("counts --json").contains("\"sessions\":1,"));
        assert_eq!(count("C_OpenSession", "injected"), 1);
    });
}

#[test]
fn a_process_is_aborted_once() {
    let body = || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        (0..20).for_each(|_| drop(sign(&session, key).unwrap()));
    };
    if inside() {
        return body();
    }
    let scene = Scene::new("");
    scene.ctl("abort C_Sign after=10");
    assert_eq!(scene.spawn().wait().unwrap().signal(), Some(6));
    let json = scene.ctl("counts --json");
    let made = count_in(&json, "C_Sign", "calls") - count_in(&json, "C_Sign", "size_queries");
    assert_eq!(made, 11, "the eleventh signature killed it");
    assert!(
        scene.spawn().wait().unwrap().success(),
        "its replacement lives"
    );
}

#[test]
fn an_idle_session_dies_for_good() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("idle-death 150ms CKR_DEVICE_ERROR");
        let busy = client.session();
        for _ in 0..8 {
            thread::sleep(30 * MS);
            assert!(sign(&busy, key).is_ok(), "a used session lives");
        }
        assert_eq!(sign(&session, key), Err(RvError::DeviceError));
        assert_eq!(
            sign(&session, key),
            Err(RvError::DeviceError),
            "and does not come back"
        );
        order("idle-death none");
        assert_eq!(
            sign(&session, key),
            Err(RvError::SessionHandleInvalid),
            "it is really gone"
        );
        assert!(sign(&busy, key).is_ok());
        assert!(order("counts --json").contains("\"sessions\":1,"));
    });
}

#[test]
fn pin_flags_are_shown_and_a_locked_pin_is_not_tried() {
    rehearse("", || {
        let client = Client::new();
        let info = || client.pkcs11.get_token_info(client.slot).unwrap();
        assert!(!info().user_pin_locked() && !info().user_pin_count_low());
        order("pin-flags count-low,keypad");
        assert!(info().user_pin_count_low() && info().protected_authentication_path());
        assert!(!info().user_pin_locked());
        order("pin-flags final-try");
        assert!(info().user_pin_final_try() && !info().user_pin_count_low());
        order("pin-flags to-be-changed");
        assert!(info().user_pin_to_be_changed());
        order("pin-flags locked");
        assert!(info().user_pin_locked());
        let session = client.session();
        assert_eq!(
            code(session.login(UserType::User, Some(&pin()))),
            Err(RvError::PinLocked)
        );
        order("pin-flags none");
        assert!(session.login(UserType::User, Some(&pin())).is_ok());
    });
}

#[test]
fn a_logout_elsewhere_kills_handles_until_login_and_search() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("logout");
        assert_eq!(sign(&session, key), Err(RvError::UserNotLoggedIn));
        assert_eq!(sign(&client.session(), key), Err(RvError::UserNotLoggedIn));
        session.login(UserType::User, Some(&pin())).unwrap();
        assert_eq!(
            sign(&session, key),
            Err(RvError::ObjectHandleInvalid),
            "the old handle is dead"
        );
        let session = client.session();
        assert!(sign(&session, found(&session, ObjectClass::PRIVATE_KEY)).is_ok());
    });
}

#[test]
fn a_logout_may_speak_in_other_words_and_close_sessions() {
    rehearse("", || {
        let client = Client::new();
        let session = client.login();
        let (_, key) = key_pair(&session);
        order("logout native");
        assert_eq!(
            sign(&session, key),
            Err(RvError::ObjectHandleInvalid),
            "SoftHSM's own code"
        );
        session.login(UserType::User, Some(&pin())).unwrap();
        order("logout CKR_GENERAL_ERROR close-sessions");
        assert_eq!(sign(&session, key), Err(RvError::GeneralError));
        assert_eq!(
            code(session.get_session_info()).err(),
            Some(RvError::SessionHandleInvalid)
        );
        let session = client.login();
        assert!(sign(&session, found(&session, ObjectClass::PRIVATE_KEY)).is_ok());
    });
}

#[test]
fn a_logout_waits_for_the_calls_inside() {
    rehearse("", || {
        let client = Client::new();
        let login = client.login();
        let (_, key) = key_pair(&login);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..600 {
                        // A failed operation stays active: a new session each time.
                        drop(sign(&client.session(), key));
                    }
                });
            }
            for _ in 0..10 {
                thread::sleep(10 * MS);
                order("logout native close-sessions");
            }
        });
        assert!(count("C_SignInit", "errors") + count("C_OpenSession", "errors") > 0);
    });
}

#[test]
fn settings_bring_rules_for_the_first_start_only() {
    rehearse("fail C_GenerateRandom CKR_DEVICE_ERROR", || {
        let client = Client::new();
        let session = client.login();
        assert_eq!(
            code(session.generate_random_slice(&mut [0; 8])),
            Err(RvError::DeviceError)
        );
        assert_eq!(
            order("rules"),
            "fail C_GenerateRandom CKR_DEVICE_ERROR times=forever\n"
        );
        order("clear");
        drop(session);
        // A process that starts later finds the state as it is.
        let restarted = std::process::Command::new("pkcs11-tool")
            .arg("--module")
            .arg(module())
            .args(["--generate-random", "8"])
            .output()
            .unwrap();
        assert!(restarted.status.success(), "{restarted:?}");
        assert!(session_is_fine(&client));
    });
}

fn session_is_fine(client: &Client) -> bool {
    client.session().generate_random_slice(&mut [0; 8]).is_ok()
}
