"""python-pkcs11 looks into a token: shows a private key's attributes, tries to get it out, or makes a
key that Fastness must not like."""

import argparse
import json
import struct

import pkcs11
from asn1crypto.keys import PrivateKeyInfo
from asn1crypto.pem import unarmor
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.util.ec import encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

SHOWN = [
    "SENSITIVE", "ALWAYS_SENSITIVE", "EXTRACTABLE", "NEVER_EXTRACTABLE", "LOCAL", "PRIVATE", "TOKEN",
    "SIGN", "DECRYPT", "UNWRAP", "SIGN_RECOVER", "DERIVE", "MODIFIABLE", "COPYABLE",
]
SECRETS = ["VALUE", "PRIVATE_EXPONENT", "PRIME_1"]
P256 = bytes.fromhex("06082a8648ce3d030107")

# The protections that `fastness token keygen` asks for, and how each bad key differs from them.
GOOD = {
    Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.SIGN: True,
    Attribute.EXTRACTABLE: False, Attribute.DECRYPT: False, Attribute.UNWRAP: False,
    Attribute.SIGN_RECOVER: False, Attribute.DERIVE: False, Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}
FLAWS = {
    "extractable": {Attribute.EXTRACTABLE: True},
    "readable": {Attribute.SENSITIVE: False},
    "derives": {Attribute.DERIVE: True},
    "decrypts": {Attribute.DECRYPT: True},
    "unwraps": {Attribute.UNWRAP: True},
    "signs-with-recovery": {Attribute.SIGN_RECOVER: True},
    "modifiable": {Attribute.MODIFIABLE: True},
    "none": {},
}


def refuses(what):
    """True when `what` fails, as it should."""
    try:
        what()
    except pkcs11.exceptions.PKCS11Error as error:
        return type(error).__name__
    return None


def show(session, label):
    key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=label)
    found = {"attributes": {}, "refused": {}}
    for name in SHOWN:
        try:
            found["attributes"][name] = key[Attribute[name]]
        except pkcs11.exceptions.PKCS11Error as error:
            found["attributes"][name] = type(error).__name__
    for name in SECRETS:
        found["refused"][name] = refuses(lambda: key[Attribute[name]])
    wrapping = session.generate_key(
        KeyType.AES, 256, store=False, template={Attribute.WRAP: True, Attribute.ENCRYPT: True}
    )
    # SoftHSM and kryoptic agree on this way to wrap a private key.
    found["refused"]["wrap"] = refuses(lambda: wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD))
    print(json.dumps(found))


def make_ec(session, label, flaw):
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: P256}, local=True)
    public, _ = parameters.generate_keypair(
        label=label, id=label.encode(), store=True, capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template={**GOOD, **FLAWS[flaw]}, public_template={Attribute.TOKEN: True, Attribute.VERIFY: True},
    )
    print(encode_ec_public_key(public).hex())


def make_rsa_without_pss(session, label):
    public, _ = session.generate_keypair(
        KeyType.RSA, 2048, label=label, id=label.encode(), store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template={**GOOD, Attribute.ALLOWED_MECHANISMS: [Mechanism.SHA256_RSA_PKCS]},
        public_template={Attribute.TOKEN: True, Attribute.VERIFY: True},
    )
    print(encode_rsa_public_key(public).hex())


def import_ec(session, label, path):
    """A key from a file, as `openssl ecparam -genkey` writes it: never generated in the token."""
    with open(path, "rb") as file:
        info = PrivateKeyInfo.load(unarmor(file.read())[2])
    key = info["private_key"].parsed
    common = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: P256, Attribute.LABEL: label,
              Attribute.ID: label.encode(), Attribute.TOKEN: True}
    session.create_object({
        **GOOD, **common, Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.VALUE: key["private_key"].native.to_bytes(32, "big"),
    })
    point = key["public_key"].native
    session.create_object({
        **common, Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True,
        Attribute.EC_POINT: b"\x04" + bytes([len(point)]) + point,
    })


def mapper():
    """CKA_ALLOWED_MECHANISMS, an array of CK_MECHANISM_TYPE, which python-pkcs11 does not know."""
    attributes = AttributeMapper()
    size = struct.calcsize("L")
    attributes.register_handler(
        Attribute.ALLOWED_MECHANISMS,
        lambda mechanisms: struct.pack(f"{len(mechanisms)}L", *mechanisms),
        lambda data: struct.unpack(f"{len(data) // size}L", data),
    )
    return attributes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--pin-file", required=True)
    parser.add_argument("action", choices=["show", "make-ec", "make-rsa-without-pss", "import-ec"])
    parser.add_argument("arguments", nargs="*")
    args = parser.parse_args()
    with open(args.pin_file) as file:
        pin = file.read()
    token = pkcs11.lib(args.module).get_token(token_label=args.token)
    with token.open(rw=True, user_pin=pin, attribute_mapper=mapper()) as session:
        {
            "show": show, "make-ec": make_ec, "make-rsa-without-pss": make_rsa_without_pss,
            "import-ec": import_ec,
        }[args.action](session, *args.arguments)


main()
