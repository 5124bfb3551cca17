# Two nodes' tokens, keys, certificates, policies and configurations, made outside the machine: SoftHSM's
# work takes long in an emulated one. Sourced by run, never run; needs $work, $binary and hsm-setup/lib.sh.

export FASTNESS=$binary
softhsm=$(softhsm_module) || die "SoftHSM is missing: run hsm-setup/install"

# in_token NAME COMMAND…: fastness with that token's settings.
in_token() { SOFTHSM2_CONF=$work/$1/token/softhsm2.conf "$binary" "${@:2}" 2>/dev/null; }
key() { # NAME LABEL PURPOSE: prints the pin
    in_token "$1" token keygen --module "$softhsm" --token "pkcs11:token=$1" --pin "file:$work/$1/token/pin" \
        --label "$2" --purpose "$3" --format json | sed -n 's/.*"spki_pin":"\([^"]*\)".*/\1/p'
}
certificate() { # NAME ROLE
    in_token "$1" token csr --module "$softhsm" --key "pkcs11:token=$1;object=$2" \
        --pin "file:$work/$1/token/pin" --out "$work/$1-$2.csr" >/dev/null
    in_token ca ca issue --dir "$work/ca/authority" --pin "file:$work/ca/token/pin" --csr "$work/$1-$2.csr" \
        --profile "$2" --id "spiffe://vm.example/node/$1" --ip 127.0.0.1 --days 90 \
        --out "$work/$1/$2.pem" >/dev/null
}
peer() { # NAME PORT
    cat <<TOML
[[peer]]
name = "$1"
id = "spiffe://vm.example/node/$1"
addresses = ["127.0.0.1:$2"]
server = { active = "${pin[$1/server]}", backup = "${pin[ca/server]}" }
client = { active = "${pin[$1/client]}", backup = "${pin[ca/client]}" }
TOML
}
configuration() { # NAME PORT ADMIN PIN FOLDER
    cat <<TOML
id = "spiffe://vm.example/node/$1"
listen = ["0.0.0.0:$2"]
trust_anchors = "ca.pem"
peers = "peers.toml"
admin = "$3"

[[token]]
module = "/usr/lib/softhsm/libsofthsm2.so"
uri = "pkcs11:token=$1"
pin = "$4"

[token.environment]
SOFTHSM2_CONF = "$5/token/softhsm2.conf"

[token.server]
key = "pkcs11:object=server"
certificate = "server.pem"

[token.client]
key = "pkcs11:object=client"
certificate = "client.pem"
TOML
}

declare -A pin
for name in ca a b; do
    "$root/hsm-setup/softhsm" "$work/$name/token" $name >/dev/null 2>&1
    for role in server client; do pin[$name/$role]=$(key $name $role $role); done
done
key ca root ca >/dev/null
in_token ca ca init --dir "$work/ca/authority" --module "$softhsm" --key 'pkcs11:token=ca;object=root' \
    --pin "file:$work/ca/token/pin" --name Root >/dev/null
for name in a b; do
    for role in server client; do certificate $name $role; done
    cp "$work/ca/authority/ca.pem" "$work/$name/"
done
# Where the guest puts them.
configuration a 7443 /run/fastness/admin.sock credential:user-pin /var/lib/fastness >"$work/a/node.toml"
configuration b 7444 admin.sock file:token/pin /srv/b >"$work/b/node.toml"
peer b 7444 >"$work/a/peers.toml"
peer a 7443 >"$work/b/peers.toml"
sed -i "s|$work/a/|/var/lib/fastness/|" "$work/a/token/softhsm2.conf"
sed -i "s|$work/b/|/srv/b/|" "$work/b/token/softhsm2.conf"
