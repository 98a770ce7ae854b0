//! Measuring commands, and how runs end.

use afnet_tests::{process::Process, veth::Veth, wait};
use rustix::process::Signal;

use crate::bed::{LEFT, Pair, RIGHT, RIGHT_V4, command, json, pktgen, refused, start};

#[test]
fn across_a_pair_nothing_is_lost() {
    let pair = Pair::new();
    let rx = format!("--rx {}", pair.right());
    for flow in ["--size 60", "--size imix --dst ~10.0.0.0/8", "--dst 2001:db8::9 --size 100 --vlan 5"] {
        let result = json(&format!("measure {} {rx} --rate 2k --count 600 {flow}", pair.left()));
        let total = &result["total"];
        assert_eq!(
            (&total["received"], &total["lost"], &total["duplicates"]),
            (&600.into(), &0.into(), &0.into()),
            "{result}"
        );
        assert_eq!(result["latency_us"]["samples"], 600);
    }
    let text = pktgen(&format!("measure {} {rx} --rate 2k --count 100", pair.left()));
    assert!(text.contains("lost       0 (0.0000 %)"), "{text}");
    let csv = pktgen(&format!("measure {} {rx} --rate 2k --count 100 --csv -q", pair.left()));
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0].len(), rows[1][2]), (2, rows[1].len(), "100"), "{csv}");
}

#[test]
fn reflectors_of_both_layers() {
    let pair = Pair::new();
    for layer in ["ethernet", "transport"] {
        let mut reflector = start(&format!("reflect {} --layer {layer}", pair.right()), RIGHT);
        for size in [60, 1514] {
            let flow = format!("--dst {RIGHT_V4} --size {size} --rate 2k --count 400");
            let result = json(&format!("measure {} {flow}", pair.left()));
            assert_eq!(
                (&result["total"]["received"], &result["loss"]),
                (&400.into(), &0.0.into()),
                "{layer}: {result}"
            );
        }
        reflector.terminate();
        assert!(reflector.output().contains("sent       800 frames"), "{}", reflector.output());
    }
}

#[test]
fn jumbo_frames_come_back_whole() {
    let pair = Pair::with(Veth::default().bare().mtu(9000));
    let mut reflector = start(&format!("reflect {} --layer transport", pair.right()), RIGHT);
    let flow = format!("--dst {RIGHT_V4} --size 9000,60 --rate 1k --count 200");
    let result = json(&format!("measure {} {flow}", pair.left()));
    assert_eq!((&result["total"]["received"], &result["loss"]), (&200.into(), &0.0.into()), "{result}");
    assert_eq!(result["received"]["bytes"], 100 * 9060);
    reflector.terminate();
}

#[test]
fn throughput_as_table_json_csv_and_picture() {
    let pair = Pair::new();
    let plot = tempfile::NamedTempFile::new().expect("a temporary file");
    let args = format!(
        "rfc2544 {} --rx {} --sizes 60,1514 --rate 2k --trial 0.1 --tolerance 0.1 --resolution 0.1 --fractions 0.5 --plot {}",
        pair.left(),
        pair.right(),
        plot.path().display()
    );
    let result = json(&args);
    for (i, size) in [(0, 60), (1, 1514)] {
        let it = &result["sizes"][i];
        assert_eq!(it["size"], size);
        assert!(it["frames_per_second"].as_f64().expect("a number") > 10.0, "{result}");
        assert!(it["latencies"][0]["latency_us"]["p50"].as_f64().expect("a number") > 0.0, "{result}");
    }
    let picture = std::fs::read_to_string(plot.path()).expect("the plot");
    assert!(picture.starts_with("<svg") && picture.matches("<polyline").count() == 2, "{picture}");
    assert_eq!(pktgen(&format!("{args} --csv -q")).lines().count(), 3);
    assert!(pktgen(&format!("{args} -q")).contains("1514"));
}

#[test]
fn a_victim_alone_and_under_load() {
    let pair = Pair::new();
    let args = format!(
        "victim {} --rx {} --dst 10.0.0.0/24 --victim-dst 10.1.0.1 --victim-rate 1k --rate 5k --time 0.3",
        pair.left(),
        pair.right()
    );
    let result = json(&args);
    for phase in ["alone", "loaded"] {
        let it = &result[phase];
        let count = |name: &str| it[name].as_u64().expect("a number");
        assert!(count("sent") > 10 && count("received") == count("sent"), "{result}");
        assert!(it["latency_us"]["p99"].as_f64().expect("a number") > 0.0, "{result}");
    }
    assert_eq!(result["alone"]["load_per_second"], 0.0);
    assert!(result["loaded"]["load_received_per_second"].as_f64().expect("a number") > 10.0, "{result}");
}

#[test]
fn control_c_ends_with_the_summary() {
    let pair = Pair::new();
    let commands = [
        format!("tx {} --dst-mac 02:00:00:00:00:99 --rate 1k --interval 0.05", pair.left()),
        format!("tx {} --live --rate 1k --interval 0.05", pair.left()),
        format!("rx {} --interval 0.05", pair.right()),
        format!("measure {} --rx {} --rate 1k --time 100 --interval 0.05", pair.left(), pair.right()),
        "udp-echo 127.0.0.1:0 --interval 0.05".into(),
        format!("rfc2544 {} --rx {} --trial 50 --interval 0.05", pair.left(), pair.right()),
    ];
    for args in commands {
        let mut process = Process::spawn(&mut command(&args));
        let sends = args.contains("--rate");
        wait::until_true("the display", || {
            let output = process.output();
            output.lines().any(|line| line.contains(" s  sent ") && !(sends && line.contains(" sent 0/s")))
        });
        process.signal(Signal::INT);
        assert!(process.wait().success(), "{args}: {}", process.output());
        let output = process.output();
        assert_eq!(output.contains(" frames in "), sends, "{output}");
    }
}

#[test]
fn devices_that_are_not_for_floods() {
    let pair = Pair::new();
    pair.left.ip(&format!("route add default via {RIGHT_V4} dev {LEFT}"));
    let (left, right) = (pair.left(), pair.right());
    for args in [
        format!("tx {left} --count 1"),
        format!("tx {left} --live --count 1"),
        format!("rx {left} --time 0.1"),
        format!("measure {left} --rx {right} --count 1"),
        format!("measure {right} --rx {left} --count 1"),
        format!("reflect {left} --time 0.1"),
    ] {
        assert!(refused(&args).contains("carries the default route"), "{args}");
    }
    pktgen(&format!("tx {left} --count 1 --force --dst-mac 02:00:00:00:00:99 -q"));
    pair.right.ip(&format!("route add default via 2001:db8::1 dev {RIGHT}"));
    assert!(refused(&format!("rx {right} --time 0.1")).contains("carries the default route"));
}
