# Shared by the checks that run inside the machine. Sourced by guest, never run.

passed=0 failed=0

# check SENTENCE COMMAND…: one line that says whether COMMAND succeeds.
check() {
    local sentence=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$sentence"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n' "$sentence"
        { printf '+ %s\n' "$*"; cat /tmp/check.out; } | tail -n 15 | sed 's/^/          /'
        journalctl -q -o cat -n 12 -u fastness -u peer-b | sed 's/^/          | /'
    fi
}

# within SECONDS COMMAND…: succeeds as soon as COMMAND does. Counted in tries, for the clock is turned too.
within() {
    local tries=$(($1 * 5))
    shift
    while ! "$@" >/tmp/within.out 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { cat /tmp/within.out; return 1; }
        sleep 0.2
    done
}

not() { ! "$@"; }
equal() { [ "$1" = "$2" ] || { printf "'%s' is not '%s'\n" "$1" "$2"; return 1; }; }

# --- the service ----------------------------------------------------------------------------------

prop() { systemctl show -P "$1" fastness.service; }
a() { fastness "$@" --admin /run/fastness/admin.sock; }
b() { fastness "$@" --admin /srv/b/admin.sock; }
state() { a status --format json | sed -n 's/.*"state":"\([a-z]*\)".*/\1/p'; }
is_ready() { [ "$(state)" = ready ]; }
# pid ROLE: its process; empty while there is none.
pid() { a status --format json | sed -n "s/.*{\"role\":\"$1\",\"pid\":\([1-9][0-9]*\).*/\1/p"; }
# replaced ROLE PID: another process has that role now, and all is well.
replaced() { local now; now=$(pid "$1"); [ -n "$now" ] && [ "$now" != "$2" ] && is_ready; }
user_of() { stat -c %U "/proc/$1"; }
gone() { local each; for each in "$@"; do [ ! -d "/proc/$each" ] || return 1; done; }
# Both ways: a call is dialled when none is open, so each needs a signature after a restart.
calls_pass() { b ping a && a ping b; }

score() { systemd-analyze security --no-pager "$@" fastness.service; }

# A line of the service's log since `mark`.
mark() { journalctl -q --sync; journalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p' >/tmp/mark; }
said() { journalctl -q -o cat --after-cursor "$(cat /tmp/mark)" -u fastness.service -u peer-b.service | grep -E -- "$1"; }

# --- a long call ----------------------------------------------------------------------------------

# lasting SECONDS: how much b transfers to a in about so long.
lasting() {
    local began took
    began=$(date +%s%N)
    b ping a --transfer 8MiB >/dev/null
    took=$((($(date +%s%N) - began) / 1000000))
    echo "$((8 * $1 * 1000 / (took + 1) + 1))MiB"
}
# Begins a transfer from b to a that outlasts what follows; `transfer_done` waits for its end.
begin_transfer() {
    b ping a --transfer "$1" --format json >/tmp/transfer.json 2>/tmp/transfer.err &
    transfer=$!
    sleep 1
}
under_way() { kill -0 "$transfer" 2>/dev/null; }
transfer_done() { wait "$transfer" || { cat /tmp/transfer.err; return 1; }; }
