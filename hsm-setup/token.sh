# The part of preparing a token that is the same for every module. Sourced, never run.

# Makes FOLDER and the two PINs in it; sets $folder to its absolute path.
prepare_folder() {
    umask 077
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    local name
    for name in pin so-pin; do
        # 30 hexadecimal digits: 120 bits, plain text for every module, and no longer than the 31
        # characters that libp11 (openssl) reads of a PIN file.
        [ -s "$folder/$name" ] || od -An -N15 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    done
}

find_fastness() {
    local found
    found=${FASTNESS:-$(first_of "$root/target/release/fastness" "$root/target/debug/fastness" || command -v fastness || true)}
    [ -x "$found" ] || die "no fastness binary: build it (cargo build --release), or name it with FASTNESS=…"
    printf '%s\n' "$found"
}

# finish_token LABEL MODULE NAME=VALUE…: writes down what the module needs, and initialises the
# token unless there is one with this label.
finish_token() {
    local label=$1 module=$2 fastness
    shift 2
    printf '%s\n' "$module" >"$folder/module"
    printf '%s\n' "$@" >"$folder/environment"
    fastness=$(find_fastness)
    if env "$@" "$fastness" token list --module "$module" --format json | grep "\"label\":\"$label\"" >/dev/null; then
        say "token '$label' is there already: $folder"
        return 0
    fi
    env "$@" "$fastness" token init --module "$module" --label "$label" \
        --so-pin "file:$folder/so-pin" --pin "file:$folder/pin"
}
