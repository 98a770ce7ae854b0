//! The programs.

use crate::run::{Carried::*, Row, check};

macro_rules! rows {
    ($($name:ident: $row:expr;)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), &$row);
        })*
    };
}

rows! {
    dnsmasq: Row {
        server: "dnsmasq -k -C /dev/null --no-resolv --no-hosts --user=root --pid-file= --txt-record=who.test,yes",
        questions: &[
            ("dig +short +tries=1 +time=5 @{4} who.test TXT", "\"yes\""),
            ("dig +short +tries=1 +time=5 @{6} who.test TXT", "\"yes\""),
            ("dig +short +tcp +time=5 @{4} who.test TXT", "\"yes\""),
        ],
        ..Row::default()
    };
    dnsmasq_tftp: Row {
        server: "dnsmasq -k -C /dev/null --port=0 --user=root --pid-file= --enable-tftp --tftp-root={dir}",
        files: &[("file", "a file of some length\n")],
        questions: &[("curl -sS -m 10 tftp://{4}/file", "a file of some length\n")],
        // Answers come from a socket of their own, which lives for a few datagrams.
        carried: FastIn,
    };
    unbound: Row {
        server: "unbound -d -c {dir}/unbound.conf",
        files: &[(
            "unbound.conf",
            "server:\n username: \"\"\n chroot: \"\"\n directory: \"{dir}\"\n pidfile: \"\"\n use-syslog: no\n \
             do-daemonize: no\n num-threads: 2\n interface: 0.0.0.0\n interface: ::0\n \
             access-control: 0.0.0.0/0 allow\n access-control: ::0/0 allow\n module-config: \"iterator\"\n \
             local-zone: \"test.\" static\n local-data: \"who.test. TXT yes\"\n\
             remote-control:\n control-enable: no\n",
        )],
        questions: &[
            ("dig +short +tries=1 +time=5 @{4} who.test TXT", "\"yes\""),
            ("dig +short +tries=1 +time=5 @{6} who.test TXT", "\"yes\""),
        ],
        ..Row::default()
    };
    iperf3: Row {
        server: "iperf3 -s -B {4}",
        questions: &[("iperf3 -c {4} -u -b 20M -n 2M -l 1200", "receiver")],
        ..Row::default()
    };
    iperf3_reverse: Row {
        server: "iperf3 -s -B {4}",
        questions: &[("iperf3 -R -c {4} -u -b 20M -n 2M -l 1200", "receiver")],
        // It hears one datagram, perhaps before it is accelerated.
        carried: FastOut,
        ..Row::default()
    };
    socat_echo: Row {
        server: "socat -T 60 UDP4-LISTEN:8005,fork,reuseaddr PIPE",
        questions: &[("{client} udp {4} 8005 hello", "hello from {4}")],
        ..Row::default()
    };
    socat_programs: Row {
        server: "socat UDP4-RECVFROM:8006,fork EXEC:cat\\ {dir}/name",
        files: &[("name", "this one\n")],
        questions: &[("{client} udp {4} 8006 hello", "this one")],
        ..Row::default()
    };
    memcached: Row {
        server: "memcached -u root -l 0.0.0.0 -U 11211 -t 2",
        questions: &[
            ("{client} memcached {4} 11211 set", "STORED"),
            ("{client} memcached {4} 11211 get", "VALUE key 0 5\\r\\nvalue"),
        ],
        ..Row::default()
    };
    python_socketserver: Row {
        server: "/usr/bin/python3 {dir}/server.py",
        files: &[("server.py", include_str!("scripts/socketserver.py"))],
        questions: &[("{client} udp {4} 8007 hello", "HELLO from {4}")],
        ..Row::default()
    };
    python_asyncio: Row {
        server: "/usr/bin/python3 {dir}/server.py",
        files: &[("server.py", include_str!("scripts/asyncio_server.py"))],
        questions: &[
            ("{client} udp {4} 8008 hello", "HELLO from {4}"),
            ("{client} udp {6} 8008 hello", "HELLO from {6}"),
        ],
        ..Row::default()
    };
    node_dgram: Row {
        server: "node {dir}/server.js",
        files: &[("server.js", include_str!("scripts/server.js"))],
        questions: &[("{client} udp {4} 8009 hello", "hello from {4}")],
        ..Row::default()
    };
    chrony: Row {
        server: "chronyd -x -d -U -u root -f {dir}/chrony.conf",
        files: &[(
            "chrony.conf",
            "local stratum 3\nallow all\ncmdport 0\nbindcmdaddress {dir}/chronyd.sock\npidfile {dir}/chronyd.pid\n",
        )],
        questions: &[("{client} ntp {4} 123", "stratum 3")],
        // It wants to know when its own datagrams have left the device.
        carried: Kernel("it uses SO_TIMESTAMPING"),
    };
    rsyslog: Row {
        server: "rsyslogd -n -f {dir}/rsyslog.conf -i {dir}/rsyslogd.pid",
        files: &[(
            "rsyslog.conf",
            "module(load=\"imudp\")\ninput(type=\"imudp\" port=\"514\")\n*.* action(type=\"omfile\" file=\"{dir}/log\")\n",
        )],
        questions: &[("{client} syslog {4} 514 {dir}/log", "told")],
        carried: FastIn,
    };
    snmpd: Row {
        server: "snmpd -f -Lo -r -C -c {dir}/snmpd.conf -p {dir}/snmpd.pid udp:161 udp6:161",
        files: &[("snmpd.conf", "rocommunity public\nrocommunity6 public\nsysName this-one\n")],
        questions: &[
            ("snmpget -v2c -c public -t 5 -r 1 {4} .1.3.6.1.2.1.1.5.0", "this-one"),
            ("snmpget -v2c -c public -t 5 -r 1 udp6:[{6}] .1.3.6.1.2.1.1.5.0", "this-one"),
        ],
        ..Row::default()
    };
    static_program: Row {
        server: "{static} serve 8010",
        questions: &[("{client} udp {4} 8010 hello", "hello from {4}")],
        // A static program loads no library.
        carried: Nothing,
        ..Row::default()
    };
    quic: Row {
        server: "env QUIC=serve\\ 4433\\ {dir} {quic}",
        questions: &[
            ("env QUIC=ask\\ {4}\\ 4433\\ {dir} {quic}", "4194304 bytes went there and back"),
            ("env QUIC=ask\\ {6}\\ 4433\\ {dir} {quic}", "4194304 bytes went there and back"),
        ],
        ..Row::default()
    };
    perl: Row {
        server: "perl {dir}/server.pl",
        files: &[("server.pl", include_str!("scripts/server.pl"))],
        questions: &[("{client} udp {4} 8011 hello", "hello from {4}")],
        ..Row::default()
    };
}
