//! Replays the fuzz targets' corpora and every input that once made one fail.

use std::path::Path;

use afnet_tests::fuzz::{TARGETS, replay};

#[test]
fn saved_inputs_keep_every_promise() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in TARGETS {
        assert!(replay(target, &fuzz.join("corpus").join(name)) > 0, "no corpus for {name}");
        let crashes = fuzz.join("crashes").join(name);
        if crashes.exists() {
            replay(target, &crashes);
        }
    }
}
