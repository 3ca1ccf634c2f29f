"""The packages on a booted machine: a Debian tree in systemd-nspawn, without any network but its own loopback."""
