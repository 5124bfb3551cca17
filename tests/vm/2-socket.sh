# fastness.socket: systemd holds the port

systemctl stop fastness
check "systemctl start fastness.socket returns" systemctl start fastness.socket
check "and starts no node" equal "$(prop ActiveState)" inactive
check "who dials starts it, and the call passes" within 60 b ping a
check "the port is systemd's" equal "$(prop NRestarts) $(systemctl show -P ActiveState fastness.socket)" "0 active"
old=$(pid node)
kill -KILL "$old"
check "a killed node is replaced on that port" within 20 replaced node "$old"
check "and calls pass" within 20 calls_pass
check "systemctl restart returns" systemctl restart fastness
check "and calls pass" within 30 calls_pass
systemctl stop fastness.socket fastness
systemctl start fastness
