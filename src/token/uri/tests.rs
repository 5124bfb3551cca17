use proptest::prelude::*;

use super::*;

fn refused(text: &str) -> UriError {
    text.parse::<Pkcs11Uri>().unwrap_err()
}

#[test]
fn a_uri_that_p11tool_prints_is_read_and_written_back() {
    for text in [
        "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=2c1c1b9b5d3c7a11;token=node-a",
        "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=2c1c1b9b5d3c7a11;token=node-a;id=%0A%FF;object=server%3B%20%C3%A9;type=private",
        "pkcs11:library-manufacturer=p;library-description=d;library-version=2.6",
        "pkcs11:object=server?module-name=softhsm2&module-path=%2Fusr%2Flib%2Fx.so",
        "pkcs11:",
    ] {
        assert_eq!(text.parse::<Pkcs11Uri>().unwrap().to_string(), text);
    }
}

#[test]
fn what_need_not_be_encoded_may_stand_plain() {
    let uri: Pkcs11Uri = "PKCS11:object=a:[]@!$'()*+,=&b?module-path=/usr/lib/a?b|c.so"
        .parse()
        .unwrap();
    assert_eq!(uri.object.unwrap(), "a:[]@!$'()*+,=&b");
    assert_eq!(uri.module_path.unwrap(), "/usr/lib/a?b|c.so");
}

#[test]
fn slots_pins_doubles_and_strangers_are_refused_without_their_values() {
    assert_eq!(refused("pkcs11:slot-id=271828"), UriError::Slot("slot-id"));
    assert_eq!(
        refused("pkcs11:token=a?pin-value=271828"),
        UriError::PinValue
    );
    assert_eq!(
        refused("pkcs11:token=a;pin-value=271828"),
        UriError::PinValue
    );
    assert_eq!(
        refused("pkcs11:token=a?pin-source=file:/271828"),
        UriError::PinSource
    );
    assert_eq!(
        refused("pkcs11:token=271828;token=b"),
        UriError::Twice("token")
    );
    for text in [
        "pkcs11:tokn=271828",
        "pkcs11:x-vendor=271828",
        "pkcs11:pin 271828=x",
        "pkcs11:271828",
        "pkcs11:token=a?pin-valeu=271828",
        "271828",
        "pkcs11:token=271828 ",
        "pkcs11:token=271828%",
        "pkcs11:type=271828",
        "pkcs11:library-version=271828.",
    ] {
        let text = refused(text).to_string();
        assert!(!text.contains("271828"), "{text}");
    }
    assert!(
        refused("pkcs11:tokn=a")
            .to_string()
            .contains("did you mean `token`?")
    );
}

#[test]
fn broken_encoding_is_refused_at_its_place() {
    assert_eq!(refused("pkcs11:token=a b"), UriError::Character(14));
    assert_eq!(refused("pkcs11:token=a/b"), UriError::Character(14));
    assert_eq!(refused("pkcs11:token=é"), UriError::Character(13));
    assert_eq!(refused("pkcs11:token=a;serial=%0g"), UriError::Percent(22));
    assert_eq!(refused("pkcs11:token=%2"), UriError::Percent(13));
    assert_eq!(refused("pkcs11:token=%FF"), UriError::NotText("token"));
    assert_eq!(refused("pkcs11:token=a%00"), UriError::NotText("token"));
    assert_eq!(refused("pkcs11:token=a;"), UriError::NotAnAttribute(15));
    assert_eq!(refused("pkcs11:token=a?"), UriError::NotAnAttribute(15));
    assert_eq!(refused("pkcs11:=a"), UriError::NotAnAttribute(7));
    assert_eq!(refused("pkcs11:token="), UriError::Empty("token"));
    assert_eq!(refused("pkcs12:token=a"), UriError::Scheme);
    assert_eq!(refused(""), UriError::Scheme);
    assert_eq!(refused("pkcs1é"), UriError::Scheme);
}

#[test]
fn a_name_longer_than_the_token_can_hold_is_refused_and_never_cut() {
    let label = "x".repeat(32);
    assert!(format!("pkcs11:token={label}").parse::<TokenUri>().is_ok());
    assert!(matches!(
        refused(&format!("pkcs11:token={label}x")),
        UriError::ValueTooLong { .. }
    ));
    assert!(label.parse::<TokenLabel>().is_ok());
    assert!(format!("{label}x").parse::<TokenLabel>().is_err());
    assert!("a ".parse::<TokenLabel>().is_err());
    assert_eq!(
        refused(&format!("pkcs11:object={}", "x".repeat(2048))),
        UriError::TooLong
    );
}

#[test]
fn a_token_needs_a_label_or_a_serial_and_nothing_about_objects() {
    assert!("pkcs11:serial=1".parse::<TokenUri>().is_ok());
    assert_eq!("pkcs11:model=x".parse::<TokenUri>(), Err(UriError::NoToken));
    for text in [
        "pkcs11:token=a;object=b",
        "pkcs11:token=a;id=%01",
        "pkcs11:token=a?module-path=/x",
    ] {
        assert!(
            matches!(text.parse::<TokenUri>(), Err(UriError::Misplaced(..))),
            "{text}"
        );
    }
}

#[test]
fn a_key_needs_a_label_or_an_id_and_is_private() {
    assert!("pkcs11:object=a".parse::<KeyUri>().is_ok());
    assert!("pkcs11:id=%01;type=private".parse::<KeyUri>().is_ok());
    assert_eq!("pkcs11:token=a".parse::<KeyUri>(), Err(UriError::NoKey));
    for other in ["public", "cert", "secret-key", "data"] {
        let text = format!("pkcs11:object=a;type={other}");
        assert_eq!(text.parse::<KeyUri>(), Err(UriError::NotPrivate));
    }
}

#[test]
fn a_key_takes_its_token_from_elsewhere_but_does_not_contradict_it() {
    let token: TokenUri = "pkcs11:token=a;serial=1".parse().unwrap();
    let key: KeyUri = "pkcs11:object=server".parse().unwrap();
    assert_eq!(key.token(), None);
    let key = key.within(&token).unwrap();
    assert_eq!(key.token(), Some(token.clone()));
    assert_eq!(
        key.to_string(),
        "pkcs11:serial=1;token=a;object=server;type=private"
    );
    assert_eq!(key.within(&token).unwrap(), key);
    let other: TokenUri = "pkcs11:token=b".parse().unwrap();
    assert_eq!(key.within(&other), Err(UriError::Conflict("token")));
}

#[test]
fn the_longest_name_can_be_read_back_and_a_label_that_no_uri_can_say_is_left_out() {
    let longest = TokenUri::of(
        &"é".repeat(16),
        &"é".repeat(8),
        &"é".repeat(16),
        &"é".repeat(8),
    )
    .unwrap();
    let id = KeyId::from_bytes(&[0xff; 64]).unwrap();
    let key = KeyUri::new(&longest, &"€".repeat(85), Some(id.clone()));
    assert_eq!(key.to_string().parse(), Ok(key));
    for label in ["", "a\0", "\u{fffd}", &"x".repeat(256)] {
        let key = KeyUri::new(&longest, label, Some(id.clone()));
        assert_eq!(key.label(), None);
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

#[test]
fn a_key_id_is_hexadecimal() {
    let id: KeyId = "0aFF".parse().unwrap();
    assert_eq!(id.as_bytes(), [0x0a, 0xff]);
    assert_eq!(id.to_string(), "0aff");
    for text in ["", "0", "0g", "é0", &"00".repeat(65)] {
        assert!(text.parse::<KeyId>().is_err(), "{text}");
    }
}

#[test]
fn serde_errors_do_not_repeat_the_value() {
    for json in ["\"pkcs11:token=a?pin-value=271828\"", "\"271828\""] {
        let error = serde_json::from_str::<KeyUri>(json)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("271828"), "{error}");
    }
}

#[test]
fn two_names_may_be_one_token_unless_an_attribute_tells_them_apart() {
    let may_be = |one: &str, other: &str| {
        let [one, other]: [TokenUri; 2] = [one, other].map(|uri| uri.parse().unwrap());
        one.may_be(&other) && other.may_be(&one)
    };
    for (one, other, expected) in [
        ("pkcs11:token=a", "pkcs11:token=a", true),
        ("pkcs11:token=a", "pkcs11:serial=1", true),
        ("pkcs11:token=a;model=m", "pkcs11:token=a", true),
        ("pkcs11:token=a", "pkcs11:token=b", false),
        ("pkcs11:token=a;serial=1", "pkcs11:token=a;serial=2", false),
        (
            "pkcs11:token=a;manufacturer=x",
            "pkcs11:token=a;manufacturer=y",
            false,
        ),
    ] {
        assert_eq!(may_be(one, other), expected, "{one} {other}");
    }
}

fn text(longest: usize) -> impl Strategy<Value = Option<String>> {
    proptest::option::of(
        "[^\\x00]{1,10}".prop_filter("fits", move |text: &String| text.len() <= longest),
    )
}

proptest! {
    #[test]
    fn every_uri_survives_being_written_and_read(
        token in text(32), manufacturer in text(32), serial in text(16), model in text(16),
        object in text(255), id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=64)),
        module_path in text(255), private in any::<bool>(),
    ) {
        let uri = Pkcs11Uri {
            token, manufacturer, serial, model, object, module_path,
            id: id.map(|id| KeyId::from_bytes(&id).unwrap()),
            object_type: private.then_some(ObjectType::Private),
            ..Pkcs11Uri::default()
        };
        prop_assert_eq!(uri.to_string().parse::<Pkcs11Uri>(), Ok(uri));
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_takes_is_stable(text in "(pkcs11:)?[ -~é%=;?&]{0,80}") {
        if let Ok(uri) = text.parse::<Pkcs11Uri>() {
            prop_assert_eq!(uri.to_string().parse::<Pkcs11Uri>(), Ok(uri));
        }
    }
}
