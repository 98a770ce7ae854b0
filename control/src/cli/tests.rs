//! Command lines and the requests that they stand for.

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
    assert_eq!(ask("del x --force").unwrap(), Request::Del { name: "x".to_owned(), force: true });
    let shaped = Policy { rate_pps: 1000, burst: 5 };
    assert_eq!(
        ask("add x --rate 1000 --burst 5").unwrap(),
        Request::Add { name: "x".to_owned(), policy: shaped }
    );
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
    let removal = json("addr del 192.0.2.10 dev eth0");
    assert!(removal.contains(r#""prefix_len":32"#) && removal.contains(r#""name":null"#), "{removal}");
    assert!(json("-6 addr list dev eth0 vlan 1.2").contains(r#""vlan":"1.2","family":6"#));
}

#[test]
fn wrong_usage_is_refused() {
    for line in
        ["", "nonsense", "add", "del", "addr nonsense", "exec", "exec x", "-4 -6 list", "add x --burst 5"]
    {
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
