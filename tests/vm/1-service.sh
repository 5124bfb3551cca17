# fastness.service, as it is in hsm-setup/systemd

all_pids() { printf '%s\n' "$(prop MainPID)" "$(pid keeper)" "$(pid node)"; }
watched() { [ "$(prop NRestarts)" -gt "$1" ] && is_ready; }
same_service() { equal "$(prop MainPID) $(prop NRestarts)" "$1 0"; }

check "systemctl start returns" systemctl start fastness
check "once the node is ready, and not before" is_ready
check "systemd has heard so (sd_notify)" equal "$(prop ActiveState) $(prop SubState) $(prop StatusText)" "active running ready"
check "calls pass in both directions" within 20 calls_pass
for each in $(all_pids); do
    check "process $(tr '\0' ' ' </proc/"$each"/cmdline | cut -c 1-30)is the user fastness" equal "$(user_of "$each")" fastness
done
check "the PIN came as an encrypted credential" test -z "$(find /var/lib/fastness /etc/fastness -name pin)"

mark
check "systemctl reload returns" systemctl reload fastness
check "a reload puts a generation in force" within 10 said 'reloaded generation=2'
cp -p /etc/fastness/peers.toml /root/
echo 'broken' >>/etc/fastness/peers.toml
mark
systemctl reload fastness
check "a broken policy is refused and says where" within 10 said 'peers\.toml:7: '
check "the one in force stays" calls_pass
cp -p /root/peers.toml /etc/fastness/

main=$(prop MainPID)
for role in node keeper; do
    old=$(pid $role)
    kill -KILL "$old"
    check "a killed $role is replaced" within 20 replaced $role "$old"
    check "and calls pass" within 20 calls_pass
    check "without a restart of the service" same_service "$main"
done

mapfile -t before < <(all_pids)
kill -KILL "$main"
check "a killed supervisor is started again by systemd" within 40 watched 0
check "its roles have gone with it" gone "${before[@]}"
check "and calls pass" within 30 calls_pass

restarts=$(prop NRestarts)
mapfile -t before < <(all_pids)
mark
kill -STOP "$(prop MainPID)"
check "a supervisor that hangs is ended by the watchdog and started again" within 60 watched "$restarts"
check "by the watchdog, as systemd says" journalctl -q -u fastness --grep 'Watchdog timeout'
check "its roles have gone with it" gone "${before[@]}"
check "and calls pass" within 30 calls_pass

mapfile -t before < <(all_pids)
begin_transfer "$(lasting 6)"
check "a call is under way" under_way
check "systemctl stop returns" systemctl stop fastness
check "the call was let end" transfer_done
check "no process is left" gone "${before[@]}"
check "and the service ended well" equal "$(prop Result) $(prop ExecMainStatus)" "success 0"

sed -i 's/^listen/lisen/' /etc/fastness/node.toml
mark
check "a faulty configuration does not start" not systemctl start fastness
check "with a line that says what and where" said 'lisen'
sleep 3
check "and is not tried again" equal "$(prop NRestarts) $(prop ExecMainStatus) $(prop ActiveState)" "0 3 failed"
sed -i 's/^lisen/listen/' /etc/fastness/node.toml

cp /etc/fastness/user-pin.cred /root/
printf 'wrong-pin' | systemd-creds encrypt --name=user-pin - /etc/fastness/user-pin.cred 2>/dev/null
check "a wrong PIN does not start" not systemctl start fastness
sleep 3
check "and is not tried again" equal "$(prop NRestarts) $(prop ExecMainStatus) $(prop ActiveState)" "0 4 failed"
cp /root/user-pin.cred /etc/fastness/
check "with the right one it starts" systemctl start fastness
