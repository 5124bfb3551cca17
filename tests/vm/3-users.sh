# users.conf: each role as a user of its own

systemctl start fastness
systemctl stop fastness
install -D -m 644 "$units/users.conf" /etc/systemd/system/fastness.service.d/users.conf
cp /etc/fastness/node.toml /root/node.toml
sed -i 's/^\[token.environment\]/user = "fastness-keeper"\n\n&/' /etc/fastness/node.toml
printf '\n[sandbox]\nnode_user = "fastness-node"\n' >>/etc/fastness/node.toml
chown -R fastness-keeper:fastness-keeper /var/lib/fastness/token
systemctl daemon-reload
check "systemctl start returns" systemctl start fastness
check "and calls pass" within 30 calls_pass
check "the supervisor is fastness" equal "$(user_of "$(prop MainPID)")" fastness
for role in keeper node; do
    check "the $role is fastness-$role" equal "$(user_of "$(pid $role)")" fastness-$role
    old=$(pid $role)
    kill -KILL "$old"
    check "killed, it is replaced" within 20 replaced $role "$old"
    check "by the same user" equal "$(user_of "$(pid $role)")" fastness-$role
    check "and calls pass" within 20 calls_pass
done
check "systemd-analyze security: no more exposed than 3.6" score --threshold=36
