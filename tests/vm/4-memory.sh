# MemoryMax: the kernel ends a role (OOM kill of the control group)

systemctl start fastness
group=/sys/fs/cgroup/system.slice/fastness.service
oom_kills() { sed -n 's/^oom_kill //p' $group/memory.events; }

# starve PID: gives the group a little less until the kernel has ended PID, which it is told to choose first.
starve() {
    local limit
    limit=$(cat $group/memory.current)
    echo 1000 >"/proc/$1/oom_score_adj"
    while [ -d "/proc/$1" ] && [ "$limit" -gt 1000000 ]; do
        limit=$((limit - 131072))
        echo $limit >$group/memory.max
    done 2>/dev/null
    gone "$1"
}
feed() { echo max >$group/memory.max; }

main=$(prop MainPID)
for role in keeper node; do
    check "calls pass" within 30 calls_pass
    [ $role = node ] || begin_transfer 4GiB
    old=$(pid $role)
    before=$(oom_kills)
    check "with too little memory, the kernel ends the $role" starve "$old"
    check "and says so" test "$(oom_kills)" -gt "$before"
    feed
    [ $role = node ] || check "a call that was under way goes on" under_way
    check "the $role is replaced" within 60 replaced $role "$old"
    check "calls pass again" within 30 calls_pass
    check "and systemd let the others live" equal "$(prop MainPID) $(prop NRestarts) $(prop ActiveState)" "$main 0 active"
    [ $role = node ] || kill "$transfer" 2>/dev/null
done

# The supervisor is the main process: systemd starts the service again.
check "with too little memory, the kernel ends the supervisor" starve "$main"
check "systemd starts it again" within 60 is_ready
check "and calls pass" within 30 calls_pass
