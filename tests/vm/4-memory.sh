# MemoryMax: the kernel ends a role (OOM kill of the control group)

systemctl start fastness
group=/sys/fs/cgroup/system.slice/fastness.service
oom_kills() { sed -n 's/^oom_kill //p' $group/memory.events; }

# starve PID: for a moment the group may have a little less, then less again, until the kernel has ended a
# process; PID is the only one that it may choose. A limit that stayed would end the next one too.
starve() {
    local limit before each
    limit=$(cat $group/memory.current)
    before=$(oom_kills)
    while read -r each; do echo -1000 >"/proc/$each/oom_score_adj"; done <$group/cgroup.procs
    echo 1000 >"/proc/$1/oom_score_adj"
    while [ "$limit" -gt 500000 ] && [ "$(oom_kills)" = "$before" ]; do
        limit=$((limit - 65536))
        echo $limit >$group/memory.max
        echo max >$group/memory.max
    done
    within 10 gone "$1"
}

main=$(prop MainPID)
kills=$(oom_kills)
for role in keeper node; do
    check "calls pass" within 30 calls_pass
    [ $role = node ] || begin_transfer 4GiB
    old=$(pid $role)
    check "with too little memory, the kernel ends the $role" starve "$old"
    check "and nothing else" equal "$(oom_kills)" $((kills += 1))
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
