//! What the receiver makes of frames that the test writes itself.

use afnet_tests::{packet::udp, process::Process, wait, wire::Wire};
use afnet_tools::stamp::{BYTES, Stamp, now};

use crate::bed::{LEFT, Pair, RIGHT, start};

/// `pktgen rx` on the right end, ended; its JSON.
fn received(pair: &Pair, frames: &[Vec<u8>], options: &str) -> serde_json::Value {
    let mut receiver: Process =
        start(&format!("rx {} --json --interval 0.05 {options}", pair.right()), "received");
    let (wire, before) = (Wire::open(&pair.left, LEFT), arrived(pair));
    frames.iter().for_each(|frame| wire.send(frame));
    // What the right end has received lies in pktgen's ring, and its end takes that out.
    wait::until_true("all frames to arrive", || arrived(pair) >= before + frames.len() as u64);
    receiver.terminate();
    let output = receiver.output();
    let begin = output.find("{\n").unwrap_or_else(|| panic!("no JSON: {output}"));
    serde_json::from_str(&output[begin..]).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Frames that the right end's driver has seen.
fn arrived(pair: &Pair) -> u64 {
    let text = pair.right.ip(&format!("-s -j link show dev {RIGHT}"));
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
    links[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

/// A frame with a stamp.
fn frame(stream: u16, sequence: u64, time: u64) -> Vec<u8> {
    let mut payload = [0; BYTES];
    Stamp { stream, sequence, time }.write(&mut payload);
    let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    udp(macs, "192.0.2.1:7".parse().unwrap(), "192.0.2.2:7".parse().unwrap(), &payload)
}

#[test]
fn loss_order_and_duplicates() {
    let pair = Pair::new();
    let numbers = [10, 11, 12, 15, 13, 13, 16, 20];
    let frames: Vec<_> = numbers.iter().map(|number| frame(9, *number, now())).collect();
    let result = received(&pair, &frames, "");
    let total = &result["total"];
    let of = |name: &str| total[name].as_u64().expect("a number");
    assert_eq!(
        [of("received"), of("lost"), of("reordered"), of("duplicates"), of("late"), of("restarts")],
        [7, 4, 1, 1, 0, 0],
        "{result}"
    );
    assert_eq!(result["streams"][0]["stream"], 9);
    assert_eq!(result["loss"], serde_json::Value::Null, "what was sent is not known here");
    let latency = result["latency_us"]["max"].as_f64().expect("latencies");
    assert!(latency > 0.0 && latency < 5e6, "{result}");
}

#[test]
fn forged_stamps_do_no_harm() {
    let pair = Pair::new();
    let mut frames = Vec::new();
    // Every stream there is would be too many; extreme numbers and times; cut stamps.
    frames.extend((0..200).map(|stream| frame(stream, 1, now())));
    for number in [0, u64::MAX, 1 << 47, 1, (1 << 48) - 1, 1 << 33, 5] {
        frames.push(frame(1, number, u64::MAX));
        frames.push(frame(1, number, 0));
        frames.push(frame(1, number, now() + 1_000_000_000_000));
    }
    let short = frame(1, 2, 3);
    frames.extend((15..short.len()).map(|length| short[..length].to_vec()));
    let result = received(&pair, &frames, "");
    let streams = result["streams"].as_array().expect("streams");
    assert_eq!(streams.len(), 64, "no more accounts than that");
    assert!(result["odd_times"].as_u64().expect("a number") >= 7, "{result}");
    assert!(result["total"]["restarts"].as_u64().expect("a number") > 0, "{result}");
}

#[test]
fn everything_or_generic() {
    let pair = Pair::new();
    let plain = vec![0xff; 60];
    let result = received(&pair, &[plain.clone(), frame(1, 1, now())], "--everything --mode generic");
    assert!(result["unstamped"].as_u64().expect("a number") >= 1, "{result}");
    assert_eq!(result["total"]["received"], 1);
    assert_eq!(
        (&result["devices"][0]["device"], &result["devices"][0]["mode"]),
        (&pair.right().into(), &"generic".into())
    );
    let result = received(&pair, &[plain, frame(1, 1, now())], "--mode copy");
    assert_eq!((&result["received"]["frames"], &result["unstamped"]), (&1.into(), &0.into()), "{result}");
    assert_eq!(result["devices"][0]["mode"], "copy");
}
