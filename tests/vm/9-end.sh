# After all of it

check "no filter has killed anything" not journalctl -q -k --grep 'type=1326'
check "nothing has died of SIGSYS" not journalctl -q -u fastness -u peer-b --grep 'SIGSYS'
rm -rf /etc/systemd/system/fastness.service.d
systemctl daemon-reload
check "systemd-analyze security: no more exposed than 3.0" score --threshold=30
score | tail -n 1
