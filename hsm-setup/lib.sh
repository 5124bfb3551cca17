# Shared by the scripts of this folder and by tests/run. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say()  { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

# The oldest Rust that builds this crate, as Cargo.toml states it.
wanted_rust() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml"; }

# Whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Puts a cargo that is new enough first in PATH. Fails when there is none.
find_cargo() {
    local wanted folder version
    wanted=$(wanted_rust)
    while IFS= read -r folder; do
        [ -x "$folder/cargo" ] || continue
        # In the crate's folder, so that a rustup override is seen.
        version=$(cd "$root" && PATH="$folder:$PATH" "$folder/cargo" --version 2>/dev/null | awk '{print $2}') || continue
        if [ -n "$version" ] && at_least "$version" "$wanted"; then
            PATH="$folder:$PATH"
            export PATH
            return 0
        fi
    done < <(printf '%s\n' "$PATH" | tr ':' '\n'; printf '%s\n' "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin" /usr/bin)
    return 1
}

# Where Debian puts a file of a package that differs by architecture: the first that exists.
first_of() {
    local path
    for path in "$@"; do
        [ -e "$path" ] && { printf '%s\n' "$path"; return 0; }
    done
    return 1
}

softhsm_module() {
    first_of /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so
}
