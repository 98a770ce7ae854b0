//! Command lines and the requests that they stand for.

use afnet_abi::control::Compartment;

use super::*;

fn ask(line: &str) -> Result<Request, String> {
    let words = std::iter::once("afnet").chain(line.split_whitespace()).map(Into::into);
    let args = Args::try_parse_from(args::long_options(words)).map_err(|e| e.to_string())?;
    let command = args.command.as_ref().ok_or("no command")?;
    request(&args, command).map_err(|e| e.to_string())
}

fn json(line: &str) -> String {
    serde_json::to_string(&ask(line).unwrap()).unwrap()
}

#[test]
fn commands_may_be_abbreviated_as_in_ip() {
    let list = Request::AddrList { name: None, dev: None, vlan: None, family: None };
    for line in ["a", "addr", "address", "a s", "a sh", "addr show", "addr list", "a l", "-j a", "-json a ls"]
    {
        assert_eq!(ask(line).unwrap(), list, "{line}");
    }
    for line in ["add x", "--instance y add x"] {
        assert_eq!(ask(line).unwrap(), Request::Add { name: "x".to_owned(), policy: Policy::default() });
    }
    for line in ["list", "l", "ls", "show", "sh"] {
        assert_eq!(ask(line).unwrap(), Request::List {}, "{line}");
    }
    assert_eq!(ask("mon").unwrap(), Request::Monitor {});
    assert_eq!(ask("endp x").unwrap(), Request::Endpoints { name: Some("x".to_owned()) });
    let del = |stop, force| Request::Del { name: "x".to_owned(), stop, force };
    assert_eq!(ask("del x").unwrap(), del(None, false));
    assert_eq!(ask("del x --force").unwrap(), del(None, true));
    assert_eq!(ask("del x --stop").unwrap(), del(Some(2000), false));
    assert_eq!(ask("delete --stop --grace 0 x").unwrap(), del(Some(0), false));
    let shaped = Policy { rate_pps: 1000, burst: 5, ..Policy::default() };
    assert_eq!(
        ask("add x --rate 1000 --burst 5").unwrap(),
        Request::Add { name: "x".to_owned(), policy: shaped }
    );
}

#[test]
fn a_policy_is_said_by_options() {
    let all = Policy {
        isolated: true,
        raw_sockets: true,
        unprivileged_ports: true,
        capabilities: true,
        sockets: 0,
        users: vec!["www".to_owned(), "33".to_owned()],
        groups: vec!["net".to_owned()],
        ..Policy::default()
    };
    let line = "add --isolated x --raw-sockets --unprivileged-ports=on --capabilities --sockets 0 --user www --user 33 --group net";
    assert_eq!(ask(line).unwrap(), Request::Add { name: "x".to_owned(), policy: all.clone() });
    let set = |policy| Request::Set { name: "x".to_owned(), policy };
    let change = PolicyChange { isolated: Some(false), users: Some(Vec::new()), ..PolicyChange::default() };
    assert_eq!(ask("set x --isolated=off --user=").unwrap(), set(change.clone()));
    assert_eq!(change.apply(&all), Policy { isolated: false, users: Vec::new(), ..all.clone() });
    let burst = PolicyChange { burst: Some(7), ..PolicyChange::default() };
    assert_eq!(ask("set x --burst 7").unwrap(), set(burst));
    let mut text = Vec::new();
    let one = Compartment { name: "x".to_owned(), id: 1, policy: all, addresses: 0, endpoints: 2 };
    print::compartments(&[one], &mut text).unwrap();
    let want = "x id 1 addresses 0 endpoints 2 sockets 0 isolated raw-sockets unprivileged-ports capabilities user www user 33 group net\n";
    assert_eq!(String::from_utf8(text).unwrap(), want);
}

#[test]
fn addresses_in_the_grammar_of_the_patches() {
    let want = r#"{"op":"addr-add","address":{"address":"192.0.2.10","prefix_len":24,"dev":"eth0","vlan":"none","delegated":false,"fast_only":false},"name":"n"}"#;
    for line in ["addr add 192.0.2.10/24 dev eth0 afnetns n", "a a dev eth0 afnetns n 192.0.2.10/24"] {
        assert_eq!(json(line), want);
    }
    for line in [
        "addr add 192.0.2.10/24 dev eth0 afnetns n fast-only",
        "addr add 192.0.2.10/24 dev eth0 afnetns n --fast-only",
        "addr add --fast-only 192.0.2.10/24 dev eth0 afnetns n",
    ] {
        assert_eq!(json(line), want.replace(r#""fast_only":false"#, r#""fast_only":true"#), "{line}");
    }
    for (words, field) in
        [("nodad", r#""nodad":true"#), ("--nodad", r#""nodad":true"#), ("defend a", r#""defend":"a""#)]
    {
        let line = format!("addr add 192.0.2.10/24 dev eth0 afnetns n {words}");
        let with = want.replace(r#""fast_only":false"#, &format!(r#""fast_only":false,{field}"#));
        assert_eq!(json(&line), with);
        for wait in ["nowait", "--nowait", "--wait", "wait 5"] {
            assert_eq!(json(&format!("{line} {wait}")), with, "that is the client's own business");
        }
    }
    let moved = json("addr move 192.0.2.10 dev eth0 afnetns m");
    assert!(moved.starts_with(r#"{"op":"addr-move""#) && moved.ends_with(r#""name":"m"}"#), "{moved}");
    let removal = json("addr del 192.0.2.10 dev eth0");
    assert!(removal.contains(r#""prefix_len":32"#) && removal.contains(r#""name":null"#), "{removal}");
    assert!(json("-6 addr list dev eth0 vlan 1.2").contains(r#""vlan":"1.2","family":6"#));
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "",
        "nonsense",
        "add",
        "del",
        "addr nonsense",
        "exec",
        "exec x",
        "-4 -6 list",
        "add x --burst 5",
        "set x",
        "set --isolated",
        "set x --isolated=maybe",
        "del x --stop --force",
        "del x --grace 5",
        "del x --stop --grace 3601",
    ] {
        assert!(ask(line).is_err(), "{line}");
    }
    assert!(ask("--instance a/b list").unwrap_err().contains("bad instance name"));
    assert!(ask("exec x -- true").unwrap_err().contains("batch"));
}

#[test]
fn options_with_one_dash_are_those_of_ip() {
    let convert = |line: &str| {
        let words = line.split_whitespace().map(OsString::from);
        let words = args::long_options(words);
        words.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    use std::ffi::OsString;
    assert_eq!(convert("afnet -json -batch f -4"), "afnet --json --batch f -4");
    assert_eq!(convert("afnet exec n prog -json"), "afnet exec n prog -json");
    assert_eq!(convert("-json"), "-json", "the program's own name");
}

#[test]
fn the_command_tables_are_consistent() {
    Args::command().debug_assert();
    crate::daemon::args::Args::command().debug_assert();
}
