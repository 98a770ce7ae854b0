//! Replays the corpora of the fuzz targets that read packets for the daemon, and whatever once made one fail.

use std::path::Path;

use afnet_control::multicast::fuzz::{igmp, mld};
use afnet_tests::fuzz::{Target, replay};

#[test]
fn saved_packets_keep_every_promise() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    for (name, target) in [("igmp", igmp as Target), ("mld", mld)] {
        assert!(replay(target, &fuzz.join("corpus").join(name)) > 0, "no corpus for {name}");
        let crashes = fuzz.join("crashes").join(name);
        if crashes.exists() {
            replay(target, &crashes);
        }
    }
}
