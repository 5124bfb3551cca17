# The clock is set while the nodes serve (clock_settime)

systemctl start fastness
# turn SECONDS: as `date -s` does; what has a deadline goes by the monotonic clock and must not notice.
turned=0
turn() {
    turned=$((turned + $1))
    date -u -s "@$(($(date +%s) + $1))" >/dev/null
}
connections() { a status --format json | grep -o '"peer_id"' | wc -l; }
pids() { printf '%s ' "$(prop MainPID)" "$(prop NRestarts)" "$(pid keeper)" "$(pid node)"; }
day=86400

check "calls pass" within 30 calls_pass
serving=$(pids)
open=$(connections)
begin_transfer 1GiB
for hours in 5 -5 -20 20; do
    turn $((hours * 3600))
    sleep 2
    check "${hours} h: the call that was under way goes on" under_way
    check "${hours} h: calls pass" within 10 calls_pass
    check "${hours} h: no process was replaced" equal "$(pids)" "$serving"
done
sleep 16
check "no watchdog was late, and no connection was closed" equal "$(pids)$(connections)" "$serving$open"

turn $((100 * day))
sleep 2
check "past the certificates' end: what is open goes on" calls_pass
check "the call that was under way too" under_way
kill "$transfer" 2>/dev/null
check "no process was replaced" equal "$(pids)" "$serving"
old=$(pid node)
mark
kill -KILL "$old"
check "a node that is replaced then serves" within 20 replaced node "$old"
check "a new connection is refused" not b ping a
check "with the reason in the log" within 10 said "dialling failed.*certificate expired"
mark
systemctl reload fastness
check "a reload is refused, with the reason" within 10 said 'expired at'
turn $((-100 * day))
check "back in time, calls pass again" within 60 calls_pass

mark
turn $((-100 * day))
old=$(pid node)
kill -KILL "$old"
check "before the certificates' begin: a node that is replaced serves" within 20 replaced node "$old"
check "a new connection is refused" not b ping a
check "with the reason in the log" within 10 said "dialling failed.*trust anchors .* not valid yet"
turn $((100 * day))
check "back again, calls pass again" within 60 calls_pass

turn $((100 * day))
check "a start past the certificates' end is refused" not systemctl restart fastness
check "with the reason" said 'expired at'
turn $((-100 * day))
check "back in time it starts" systemctl start fastness
check "and calls pass" within 60 calls_pass
